"""A small network that the model tests share."""

from typing import Any

import jax
import numpy as np
import pytest

from metro_jax.model.config import MetroConfig
from metro_jax.model.network import init_params

TINY = MetroConfig(
    vocab_size=50, d_model=16, num_heads=4, d_ff=24, num_encoder_layers=2, num_decoder_layers=3, position_rows=66
)


@pytest.fixture(scope="session")
def tiny() -> MetroConfig:
    return TINY


def random_like(tree: Any, seed: int = 0) -> Any:
    """Random values of moderate size in place of a freshly initialised tree's, zeros included."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + rng.normal(scale=0.1, size=p.shape).astype(np.float32), tree)


@pytest.fixture(scope="session")
def tiny_params(tiny: MetroConfig) -> Any:
    return random_like(init_params(tiny))
