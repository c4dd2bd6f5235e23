"""The tiny Hub model of the tests of inference, and T0 Eval in small."""

import pathlib

import pytest

from tests.evaluation import t0_files
from tests.inference.conftest import model, quick_compilation

__all__ = ["model", "quick_compilation"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """All tasks as JSON lines, six examples of each template."""
    folder = tmp_path_factory.mktemp("t0_eval")
    t0_files.write(folder, "jsonl", 6)
    return folder
