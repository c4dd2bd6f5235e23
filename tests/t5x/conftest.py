"""T5X where it is installed; a skip that says how to install it where it is not.

Nothing here is imported from T5X at the top of a file, so that collecting these tests needs no T5X.
"""

import importlib
import importlib.util
import pathlib
import warnings

import pytest

from tests.training.data_folder import make_data_folder

REASON = (
    "T5X is not installed; it is optional and on no package registry. To run these tests install it as docs/t5x.md says"
)


@pytest.fixture(scope="session")
def t5x():
    """`t5x("trainer")` is the module t5x.trainer."""
    if importlib.util.find_spec("t5x") is None:
        pytest.skip(REASON)

    def load(name: str):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # T5X and its packages use names that newer versions deprecate
            return importlib.import_module(f"t5x.{name}")

    load("trainer")
    return load


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> pathlib.Path:
    return make_data_folder(tmp_path_factory.mktemp("data") / "folder")
