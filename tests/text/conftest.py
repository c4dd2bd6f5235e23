"""The small vocabulary that the text tests share."""

import pathlib

import pytest

from metro_jax.text.tokenizer import MetroTokenizer

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def small_vocabulary() -> pathlib.Path:
    """Folder with sp.model, dict.txt, tokenizer_config.json and expected.json."""
    return DATA


@pytest.fixture(scope="session")
def small(small_vocabulary: pathlib.Path) -> MetroTokenizer:
    return MetroTokenizer.from_pretrained(small_vocabulary)
