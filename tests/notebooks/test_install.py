"""The line with which a notebook installs metro_jax, where there is nothing but Jupyter's kernel."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.hub_server import HubServer
from tests.notebooks.conftest import MODEL, NOTEBOOKS, ROOT, environment, execute

LOOK = """{
    "where": metro_jax.__file__,
    "answers": answers,
    "found": [name for name in ("tensorflow", "torch", "seqio", "gin") if importlib.util.find_spec(name)],
}"""


@pytest.mark.slow
def test_a_notebook_installs_what_it_needs_and_no_tensorflow(hub: HubServer, tmp_path: pathlib.Path) -> None:
    """Needs a package index, as every installation does."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    constraints = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | constraints
    done = subprocess.run([python, "-m", "pip", "install", "-q", "ipykernel"], env=variables)
    if done.returncode:
        pytest.skip("no package index can be reached from here")
    kernel = {name: value for name, value in environment(hub, tmp_path).items() if name != "PYTHONPATH"} | constraints
    # SOURCE = "..", as in a copy of the repository.
    _, seen = execute("metro_t0_inference.ipynb", LOOK, {"MODEL": MODEL}, kernel, NOTEBOOKS, str(python))
    assert seen["where"].startswith(str(tmp_path / "venv"))
    assert len(seen["answers"]) == 3
    assert seen["found"] == []
