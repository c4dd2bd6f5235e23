"""gin_configs/t5x without T5X: every METRO name that the files import and bind exists, every header has its command.

What T5X itself makes of them is in test_commands.py.
"""

import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest
from gin import config_parser

from metro_jax.training.gin_utils import installed_configs

FOLDER = pathlib.Path(installed_configs()) / "t5x"
SCRIPTS = {"pretrain": "train", "finetune": "train", "eval": "eval", "infer": "infer"}


class Delegate(config_parser.ParserDelegate):
    """References and macros as they are written."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return f"@{scoped_configurable_name}{'()' if evaluate else ''}"

    def macro(self, scoped_name):
        return f"%{scoped_name}"


def statements(name):
    return list(config_parser.ConfigParser((FOLDER / f"{name}.gin").read_text(), Delegate()))


def references(value):
    return re.findall(r"@([\w./]+)", repr(value))


def parameters(selector, modules):
    """The arguments of what `module.name` means under the imports of a file."""
    module, _, name = selector.partition(".")
    return inspect.signature(getattr(importlib.import_module(modules[module]), name)).parameters


@pytest.fixture(params=sorted(SCRIPTS))
def name(request):
    return request.param


def imports(name):
    found = [s for s in statements(name) if isinstance(s, config_parser.ImportStatement)]
    return {s.bound_name(): s.module for s in found if not s.module.startswith("__gin__")}


def bindings(name):
    """(scope, selector, argument, value) of every binding, macros without an argument."""
    found = [s for s in statements(name) if isinstance(s, config_parser.BindingStatement)]
    return [(s.scope, s.selector, s.arg_name, s.value) for s in found]


def test_every_file_is_tested():
    assert {path.stem for path in FOLDER.glob("*.gin")} == set(SCRIPTS)


def test_t5x_run_file_comes_first_and_the_header_has_the_command(name):
    includes = [s for s in statements(name) if isinstance(s, config_parser.IncludeStatement)]
    assert [s.filename for s in includes] == [f"t5x/configs/runs/{name}.gin"]
    header = (FOLDER / f"{name}.gin").read_text().split("from __gin__")[0]
    assert re.search(r"^# Required( \(.*\))?:$", header, re.MULTILINE)
    assert "# Usually changed:" in header
    assert f"python -m t5x.{SCRIPTS[name]} --gin_search_paths=gin_configs" in header
    assert f"--gin_file=t5x/{name}.gin" in header


def test_bound_names_of_metro_exist(name):
    modules = imports(name)
    assert modules["models"] == "metro_jax.training.models"
    checked = 0
    for _, selector, argument, _ in bindings(name):
        first = selector.split(".")[0]
        if "." in selector and modules[first].startswith("metro_jax"):
            assert argument in parameters(selector, modules), f"{selector}.{argument}"
            checked += 1
    assert checked >= 3


def test_references_are_imported_and_exist(name):
    modules = imports(name)
    for _, selector, argument, value in bindings(name):
        for reference in references(value):
            first, _, rest = reference.rsplit("/", 1)[-1].partition(".")
            assert first in modules, f"{selector}.{argument} = {value}: {first} is not imported"
            if modules[first].startswith("metro_jax"):
                assert hasattr(importlib.import_module(modules[first]), rest), reference


def test_the_model_has_vocabularies_for_text(name):
    """T5X compares them with the task's before it evaluates or infers."""
    found = {argument for _, selector, argument, _ in bindings(name) if selector.startswith("models.")}
    assert {"config", "input_vocabulary", "output_vocabulary"} <= found


def test_recipes_say_the_same_as_the_native_run_files(name):
    """Numbers that both runtimes bind agree: the optimiser, the seed, the schedule, the lengths of evaluation."""
    other = pathlib.Path(installed_configs()) / "runs" / f"{name}.gin"
    text = "\n".join(
        path.read_text() for path in (other.parent / "pretrain.gin", other) if name == "finetune" or path == other
    )
    native = {}
    for s in config_parser.ConfigParser(text, Delegate()):
        if isinstance(s, config_parser.BindingStatement):
            native[s.selector, s.arg_name] = s.value
    same = 0
    for _, selector, argument, value in bindings(name):
        number = isinstance(value, bool | int | float | dict) and not isinstance(value, str)
        if number and (selector, argument) in native and isinstance(native[selector, argument], type(value)):
            assert native[selector, argument] == value, f"{selector}.{argument}"
            same += 1
    assert same >= 2


def test_tasks_bring_no_new_names_once_gin_is_locked():
    """T5X imports MIXTURE_OR_TASK_MODULE, and asks for the feature converter, after it has parsed and locked gin."""
    shared = set.intersection(*(set(imports(name).values()) for name in SCRIPTS))
    known = sorted(module for module in shared if module.startswith("metro_jax"))
    lines = [
        *(f"import {module}" for module in known),
        "import gin",
        "gin.config._set_config_is_locked(True)",
        "import metro_jax.tasks.t0",
        "from metro_jax.training import models",
        "assert models.EncoderDecoderModel.FEATURE_CONVERTER_CLS",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "METRO_DATA_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
