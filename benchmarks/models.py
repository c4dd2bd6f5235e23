"""Random models of the published sizes and random sources, for the inference benchmarks."""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs its share of the same GPU

import jax
import numpy as np

from metro_jax.compile_cache import keep_compiled_programs
from metro_jax.model import serving
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import init_params

SHAPES: dict[str, Callable[..., MetroConfig]] = {
    "base": MetroConfig.base,
    "base_pp": MetroConfig.base_pp,
    "large_pp": MetroConfig.large_pp,
    "tiny": lambda **changes: MetroConfig(512, 64, 4, 128, 2, 2).replace(**changes),
}
PAD = 0


def random_params(config: MetroConfig, seed: int) -> Any:
    """Initialised parameters, the token matrix spread so that logits differ; relative biases zero, as BART has none."""
    params = jax.tree.map(np.array, init_params(config, seed))
    rng = np.random.default_rng(seed)
    params["token_embedding"] = rng.normal(scale=0.05, size=params["token_embedding"].shape).astype(np.float32)
    params["encoder"]["layers"]["relative_bias"][:] = 0
    return params


def weights(config: MetroConfig, params: Any, int8: bool = False) -> Any:
    """`params` as `MetroT0` holds them, on the device; programs are kept where `MetroT0` keeps them."""
    keep_compiled_programs()
    return jax.device_put(serving.prepare(params, config, int8=int8))


def sources(config: MetroConfig, batch: int, length: int, seed: int) -> np.ndarray:
    """Random tokens of full length: nothing to skip on either side."""
    rng = np.random.default_rng(seed)
    return rng.integers(4, config.vocab_size, (batch, length)).astype(np.int32)
