"""A small network and helpers that the model tests share."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from metro_jax.convert import fairseq_to_params
from metro_jax.model.config import MetroConfig, PretrainingConfig

TINY = MetroConfig(
    vocab_size=50, d_model=16, num_heads=4, d_ff=24, num_encoder_layers=2, num_decoder_layers=3, position_rows=66
)


@pytest.fixture(scope="session")
def tiny() -> MetroConfig:
    return TINY


def random_like(tree: Any, seed: int = 0) -> Any:
    """Random values of moderate size in place of a freshly initialised tree's, zeros included."""
    import jax

    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + rng.normal(scale=0.1, size=p.shape).astype(np.float32), tree)


@pytest.fixture(scope="session")
def tiny_params(tiny: MetroConfig) -> Any:
    from metro_jax.model.network import init_params

    return random_like(init_params(tiny))


def load_fairseq(golden_dir: pathlib.Path, name: str) -> tuple[MetroConfig, PretrainingConfig | None, Any]:
    """A training-form fixture: `model.HEAD.SHARING` or `finetuned`."""
    folder = golden_dir / "fairseq_tiny"
    cfg_name = "finetuned.cfg.json" if name == "finetuned" else name.replace("model.", "cfg.") + ".json"
    cfg = json.loads((folder / cfg_name).read_text())
    return fairseq_to_params(load_file(folder / f"{name}.safetensors"), cfg)
