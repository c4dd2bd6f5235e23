"""Fixtures shared by all tests: where the reference numbers and the published vocabularies are."""

import os
import pathlib

import pytest

TESTS = pathlib.Path(__file__).parent
os.environ.setdefault("METRO_JAX_CACHE", "off")  # tests leave nothing in the user's cache


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """The folder of reference numbers: METRO_GOLDEN_DIR, or the copy beside the tests."""
    folder = pathlib.Path(os.environ.get("METRO_GOLDEN_DIR", TESTS / "golden"))
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: the folder of golden fixtures is missing; set METRO_GOLDEN_DIR to one")
    return folder


@pytest.fixture(scope="session")
def vocab_dir() -> pathlib.Path:
    """The published vocabularies (32k/ and 64k/), which are third-party data and so are not in this repository."""
    candidates = [TESTS.parent.parent / "shared" / "vocab"]
    if "METRO_GOLDEN_DIR" in os.environ:
        candidates.insert(0, pathlib.Path(os.environ["METRO_GOLDEN_DIR"]).resolve().parent / "vocab")
    if "METRO_VOCAB_DIR" in os.environ:
        candidates.insert(0, pathlib.Path(os.environ["METRO_VOCAB_DIR"]))
    for folder in candidates:
        if (folder / "32k" / "sp.model").is_file():
            return folder
    pytest.skip(
        "the published vocabularies are third-party data and not part of this repository: copy 32k/ and 64k/ "
        "(sp.model, dict.txt of github.com/gonglinyuan/metro_t0) to a folder and set METRO_VOCAB_DIR to it"
    )
