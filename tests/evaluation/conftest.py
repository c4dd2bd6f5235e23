"""The tiny Hub model, and T0 Eval in small. Programs are compiled quickly rather than well: they run but once."""

import pathlib
from collections.abc import Iterator

import pytest

import metro_jax
from metro_jax.inference.compilation import Program
from tests.evaluation import t0_files


@pytest.fixture(scope="session", autouse=True)
def quick_compilation() -> Iterator[None]:
    before, Program.compiler_options = Program.compiler_options, {"xla_backend_optimization_level": 0}
    yield
    Program.compiler_options = before


@pytest.fixture(scope="session")
def model(golden_dir: pathlib.Path) -> metro_jax.MetroT0:
    return metro_jax.MetroT0.from_pretrained(golden_dir / "hub_tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """All tasks as JSON lines, six examples of each template."""
    folder = tmp_path_factory.mktemp("t0_eval")
    t0_files.write(folder, "jsonl", 6)
    return folder
