"""What several model tests use: fixtures of the training form, and comparisons in its names."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from metro_jax.convert import fairseq_to_params
from metro_jax.model.config import MetroConfig, PretrainingConfig


def load_fairseq(golden_dir: pathlib.Path, name: str) -> tuple[MetroConfig, PretrainingConfig | None, Any]:
    """A training-form fixture: `model.HEAD.SHARING` or `finetuned`."""
    folder = golden_dir / "fairseq_tiny"
    cfg_name = "finetuned.cfg.json" if name == "finetuned" else name.replace("model.", "cfg.") + ".json"
    cfg = json.loads((folder / cfg_name).read_text())
    config, pretraining, params = fairseq_to_params(load_file(folder / f"{name}.safetensors"), cfg)
    return config, pretraining, jax.tree.map(jnp.asarray, params)


def swap_columns(logits: np.ndarray) -> np.ndarray:
    """Our logits in the fixture's numbering of the vocabulary."""
    order = np.arange(logits.shape[-1])
    order[[0, 1]] = 1, 0
    return np.asarray(logits)[..., order]


def check_gradients(ours: dict[str, np.ndarray], arrays: dict[str, np.ndarray], prefix: str) -> None:
    """Every gradient of the fixture, tied ones under their first name, relative to the tensor's largest entry."""
    names = [name for name in arrays if name.startswith(prefix)]
    assert names
    for name in names:
        expected, got = arrays[name], np.asarray(ours[name.removeprefix(prefix)])
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max() + 1e-3, rtol=0, err_msg=name)
