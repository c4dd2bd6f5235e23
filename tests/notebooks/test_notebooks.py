"""What holds for every notebook: valid, kept without outputs, in the house style, installing nothing that is there."""

import ast
import subprocess
import sys

import nbformat
import pytest

from tests.notebooks.conftest import NOTEBOOKS

FILES = sorted(NOTEBOOKS.glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert [file.stem for file in FILES] == ["metro_t0_finetune", "metro_t0_inference"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_is_kept_clean(file) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell["metadata"] == {}, cell["id"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], f"{cell['id']}: stored outputs; clear them"
            assert cell["execution_count"] is None, cell["id"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_only_the_first_code_cell_installs_and_only_what_is_missing(file) -> None:
    first, *others = [cell for cell in nbformat.read(file, as_version=4).cells if cell["cell_type"] == "code"]
    assert not [cell["id"] for cell in others if "%" in cell["source"] and "pip" in cell["source"]]
    (line,) = [line for line in first["source"].splitlines() if line.lstrip().startswith("%pip")]
    condition = first["source"].splitlines()[first["source"].splitlines().index(line) - 1]
    assert condition == 'if importlib.util.find_spec("metro_jax") is None:'
    assert "tensorflow" not in line
    ast.parse(first["source"].replace("%pip", "pass  # "))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_has_the_style_of_the_house(file) -> None:
    """The linter, which pyproject.toml keeps away from notebooks, with names left to the cells before."""
    rules = "--select=E,F,W,I,UP,C4,SIM,RET"
    command = [sys.executable, "-m", "ruff", "check", "--isolated", rules, "--line-length=150", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
