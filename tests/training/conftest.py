"""What the tests of the runtime share: a data folder, and models that compile in a moment."""

import dataclasses
import pathlib

import numpy as np
import pytest

from metro_jax.model.config import MetroConfig, PretrainingConfig
from metro_jax.training.models import EncoderDecoderModel, MetroPretrainingModel
from metro_jax.training.optimizers import MetroAdamW
from tests.training.data_folder import make_data_folder
from tests.training.stand_in import BagModel

TINY = MetroConfig(
    vocab_size=736,
    d_model=16,
    num_heads=2,
    d_ff=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    position_rows=66,
    max_positions=64,
    decoder_start_token=2,
)
PRETRAINING = PretrainingConfig(generator_layers=1, weighted_lm_loss=True)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> pathlib.Path:
    return make_data_folder(tmp_path_factory.mktemp("data") / "folder")


@pytest.fixture
def data(data_folder, monkeypatch) -> pathlib.Path:
    """The data folder, named by the environment as a user would."""
    monkeypatch.setenv("METRO_DATA_DIR", str(data_folder))
    return data_folder


@pytest.fixture
def bag() -> BagModel:
    """The quick stand-in, where a test is about the runtime and not about the network."""
    return BagModel(MetroAdamW(clip_norm=2.0))


@pytest.fixture
def pretraining_model() -> MetroPretrainingModel:
    return MetroPretrainingModel(TINY, PRETRAINING, MetroAdamW(clip_norm=2.0))


@pytest.fixture
def model() -> EncoderDecoderModel:
    return EncoderDecoderModel(dataclasses.replace(TINY, dropout_rate=0.0, attention_dropout_rate=0.0))


@pytest.fixture
def pretraining_batch() -> dict[str, np.ndarray]:
    """Eight rows of 12 tokens, some shorter, two masked positions each."""
    draw = np.random.default_rng(0)
    original = draw.integers(4, 200, (8, 12)).astype(np.int32)
    original[::2, 9:] = 0
    masked = np.zeros_like(original, bool)
    masked[:, [2, 5]] = True
    return _pretraining(original, masked)


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    """Eight rows of source and target, some shorter."""
    draw = np.random.default_rng(1)
    targets = draw.integers(4, 200, (8, 6)).astype(np.int32)
    targets[::2, 4:] = 0
    source = draw.integers(4, 200, (8, 10)).astype(np.int32)
    source[1::2, 7:] = 0
    return {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.where(targets == 0, 0, np.roll(targets, 1, 1)).astype(np.int32) * (np.arange(6) > 0)
        + 2 * (np.arange(6) == 0).astype(np.int32),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets != 0).astype(np.int32),
    }


def masked_batch() -> dict[str, np.ndarray]:
    """Sixteen rows of 8 tokens, some shorter, one or two masked positions each; for processes of their own."""
    original = np.random.default_rng(0).integers(4, 700, (16, 8)).astype(np.int32)
    original[::3, 6:] = 0
    masked = (np.arange(8) == 2) | (np.arange(8) == 5) & (np.arange(16)[:, None] % 2 == 0)
    return _pretraining(original, masked)


def _pretraining(original: np.ndarray, masked: np.ndarray) -> dict[str, np.ndarray]:
    """A batch of these tokens; 300 stands for the mask and for the start."""
    start = np.full((len(original), 1), 300, np.int32)
    return {
        "encoder_input_tokens": np.where(masked, 300, original).astype(np.int32),
        "generator_target_tokens": np.where(masked, original, 0).astype(np.int32),
        "decoder_input_tokens": np.concatenate([start, original[:, :-1]], 1),
        "decoder_target_tokens": original,
    }
