"""A small model with random weights, of sizes that differ from each other so that no two axes can be confused."""

from typing import Any

import numpy as np
import pytest

from metro_jax.convert.hub import HUB_RULES
from metro_jax.convert.rules import Sizes, nest, param_shapes, sizes_of
from metro_jax.model.config import MetroConfig

CONFIG = MetroConfig(
    vocab_size=23,
    d_model=12,
    num_heads=3,
    d_ff=20,
    num_encoder_layers=3,
    num_decoder_layers=2,
    relative_attention_num_buckets=16,
    relative_attention_max_distance=77,
    layer_norm_epsilon=1e-5,
    padding="hub",
)


def random_params(rules: tuple, sizes: Sizes, seed: int = 0) -> dict[str, Any]:
    """A tree that a table describes, filled with float16 values in float32."""
    rng = np.random.default_rng(seed)
    shapes = param_shapes(rules, sizes)
    return nest({path: rng.normal(size=shape).astype(np.float16).astype(np.float32) for path, shape in shapes.items()})


@pytest.fixture
def config() -> MetroConfig:
    return CONFIG


@pytest.fixture
def params(config: MetroConfig) -> dict[str, Any]:
    return random_params(HUB_RULES, sizes_of(config))


@pytest.fixture(scope="session")
def fast_network():
    """The network of `verify`, compiled without the compiler's optimisations, which take longer than it runs."""
    import jax

    from metro_jax.convert import verify_network

    fast = {"static_argnames": "config", "compiler_options": {"xla_backend_optimization_level": 0}}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_forward", "_decode"):
            patch.setattr(verify_network, name, jax.jit(getattr(verify_network, name).__wrapped__, **fast))
        yield
