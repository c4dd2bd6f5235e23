"""Notebooks run from the first cell to the last, with a small model that a server on 127.0.0.1 serves as the Hub does."""

import base64
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jupyter_client
import nbclient
import nbformat
import pytest

from tests.hub_server import HubServer

ROOT = pathlib.Path(__file__).parent.parent.parent
NOTEBOOKS = ROOT / "notebooks"
MODEL = "somebody/tiny_metro"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="session")
def hub(golden_dir: pathlib.Path) -> Iterator[HubServer]:
    with HubServer({MODEL: golden_dir / "hub_tiny"}) as server:
        yield server


@pytest.fixture
def run_notebook(hub: HubServer, tmp_path: pathlib.Path) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Executes a notebook in a kernel of its own, in `tmp_path`; any error of a cell fails.

    Settings are filled in as a user does, after the cell that has them. The result is the notebook with its outputs and
    what the expression `look`, evaluated after the last cell, gives.
    """

    def run(name: str, look: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
        # Compiling these small programs takes longer than running them.
        flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "METRO_JAX_CACHE": "off"}
        flags["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return execute(name, look, {"MODEL": MODEL} | settings, environment(hub, tmp_path) | flags, tmp_path)

    return run


def environment(hub: HubServer, folder: pathlib.Path) -> dict[str, str]:
    """Variables of a kernel that asks `hub` and leaves nothing outside of `folder`."""
    places = {name: str(folder / "home") for name in ("HOME", "HF_HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR")}
    return {**os.environ, **places, "HF_ENDPOINT": hub.url}


def execute(
    name: str,
    look: str,
    settings: Mapping[str, Any],
    variables: dict[str, str],
    folder: pathlib.Path,
    python: str = sys.executable,
) -> tuple[Any, dict[str, Any]]:
    """Runs a notebook in `folder`, in a kernel of this interpreter, and evaluates `look` after it."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    form = notebook.cells.index(cell(notebook, "settings"))
    filled = [f"{name} = {value!r}" for name, value in settings.items()]
    assert all(f"\n{line.partition('=')[0]}=" in "\n" + notebook.cells[form].source for line in filled)
    notebook.cells.insert(form + 1, nbformat.v4.new_code_cell("\n".join(filled)))
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json, sys\nprint(json.dumps({look}))"))
    manager = jupyter_client.AsyncKernelManager()
    manager.kernel_spec.argv[0] = python
    client = nbclient.NotebookClient(notebook, manager, timeout=240, resources={"metadata": {"path": str(folder)}})
    client.execute(env=variables, cleanup_kc=True)
    return notebook, json.loads(printed(notebook.cells[-1]))


def cell(notebook: Any, name: str) -> Any:
    """The cell with this id."""
    return next(one for one in notebook.cells if one["id"] == name)


def printed(one: Any) -> str:
    """What a cell wrote to standard output."""
    return "".join(output["text"] for output in one["outputs"] if output.get("name") == "stdout")


def pictures(one: Any) -> list[bytes]:
    """The PNG files that a cell shows."""
    found = [output["data"]["image/png"] for output in one["outputs"] if "image/png" in output.get("data", {})]
    images = [base64.b64decode(text) for text in found]
    assert all(image.startswith(PNG) for image in images)
    return images
