"""What a metro_jax checkpoint's arrays cannot tell of its model: where the settings are written, and how they are read.

`metro_config.json` is what conversion writes beside a checkpoint: `{"model": {fields of MetroConfig}, "pretraining":
{fields of PretrainingConfig} or null}`. Training leaves `config.gin` in its model folder. A gin file is parsed as text:
nothing that it names is imported or called.
"""

import dataclasses
import difflib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from metro_jax.convert.errors import ConversionError, MissingFileError
from metro_jax.convert.tensors import read_json
from metro_jax.model.config import MetroConfig, PretrainingConfig

CONFIG_FILE, GIN_FILE, HUB_FILE = "metro_config.json", "config.gin", "config.json"
# How the computation runs is no property of a checkpoint.
_NOT_STORED = ("dtype", "remat")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fields of MetroConfig and PretrainingConfig that a file gives, and the file."""

    source: pathlib.Path
    model: Mapping[str, Any]
    pretraining: Mapping[str, Any]


def write_settings(path: pathlib.Path, config: MetroConfig, pretraining: PretrainingConfig | None) -> None:
    """Writes `metro_config.json`."""
    model = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_STORED}
    extra = None if pretraining is None else dataclasses.asdict(pretraining)
    path.write_text(json.dumps({"model": model, "pretraining": extra}, indent=2) + "\n", encoding="utf-8")


def find_settings(checkpoint: pathlib.Path, given: pathlib.Path | None = None) -> Settings:
    """The settings of a checkpoint folder: those given, or what lies in it or in the model folder around it.

    Raises:
        MissingFileError: there are none.
        ConversionError: the file cannot be read or has unknown fields.
    """
    if given is not None:
        return read_settings(given)
    for folder in (checkpoint, checkpoint.parent):
        for name in (CONFIG_FILE, GIN_FILE):
            if (folder / name).is_file():
                return read_settings(folder / name)
    raise MissingFileError(
        f"{checkpoint}: neither {CONFIG_FILE} nor {GIN_FILE} lies beside it, and its arrays do not show the relative "
        "distance, the dropout rates or LayerNorm's epsilon: name the model's settings, for example "
        "--config gin_configs/models/base.gin, or the config.json of a Hub folder of this model"
    )


def read_settings(path: pathlib.Path) -> Settings:
    """Settings from `metro_config.json`, a gin file, or a Hub folder's `config.json`, told apart by content."""
    if path.suffix == ".gin":
        model, pretraining = _read_gin(path)
    else:
        content = read_json(path)
        if "model" in content:
            model, pretraining = content["model"], content.get("pretraining") or {}
        else:
            model, pretraining = _from_hub(content, path), {}
    if not isinstance(model, Mapping) or not isinstance(pretraining, Mapping):
        raise ConversionError(f"{path}: model and pretraining must be objects of settings")
    _check_names(path, model, MetroConfig)
    _check_names(path, pretraining, PretrainingConfig)
    return Settings(path, {name: value for name, value in model.items() if name not in _NOT_STORED}, pretraining)


def _from_hub(content: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    from metro_jax.convert.hub_config import hub_config_to_metro

    if "model_type" not in content:
        raise ConversionError(
            f"{path}: neither a {CONFIG_FILE} (with the entry model) nor a Hub config.json (with model_type)"
        )
    return dataclasses.asdict(hub_config_to_metro(content, str(path)))


def _check_names(path: pathlib.Path, settings: Mapping[str, Any], kind: type) -> None:
    known = [field.name for field in dataclasses.fields(kind)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConversionError(f"{path}: {name!r} is not a field of {kind.__name__}{hint}")


def _read_gin(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a gin file binds of the two classes, macros filled in."""
    try:
        bindings = _bindings(path, 0)
    except (SyntaxError, ValueError, OSError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"{path}: not a gin file that can be read ({error})") from error
    macros = {name: value for (name, argument), value in bindings.items() if not argument}
    found: dict[str, dict[str, Any]] = {"MetroConfig": {}, "PretrainingConfig": {}}
    for (selector, argument), value in bindings.items():
        settings = found.get(selector.rsplit(".", 1)[-1])
        if settings is None or not argument:
            continue
        for _ in range(len(macros) + 1):
            if isinstance(value, _Macro):
                value = macros.get(value.name.removesuffix(".value"))
        if isinstance(value, _Macro) or (value is None and argument != "max_masked_positions"):
            raise ConversionError(f"{path}: {selector}.{argument} is not a plain value")
        settings[argument] = value
    return found["MetroConfig"], found["PretrainingConfig"]


@dataclasses.dataclass(frozen=True)
class _Macro:
    """A name with a percent sign."""

    name: str


def _bindings(path: pathlib.Path, depth: int) -> dict[tuple[str, str], Any]:
    """(selector, argument) to value, included files first."""
    try:
        from gin import config_parser
    except ImportError as error:
        raise ConversionError(
            f"{path}: reading a gin file needs gin-config; install it with pip install 'metro_jax[train]', or give a "
            f"{CONFIG_FILE} or config.json"
        ) from error

    class Inert(config_parser.ParserDelegate):
        def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Any:
            return _Macro(f"@{scoped_configurable_name}")

        def macro(self, macro_name: str) -> Any:
            return _Macro(macro_name)

    if depth > 8:
        raise ConversionError(f"{path}: gin files that include each other more than 8 deep")
    bindings: dict[tuple[str, str], Any] = {}
    for statement in config_parser.ConfigParser(path.read_text(encoding="utf-8"), Inert()):
        if isinstance(statement, config_parser.IncludeStatement):
            bindings |= _bindings(_included(path, statement.filename), depth + 1)
        elif isinstance(statement, config_parser.BindingStatement):
            bindings[statement.selector, statement.arg_name or ""] = statement.value
    return bindings


def _included(path: pathlib.Path, name: str) -> pathlib.Path:
    """An included file, beside or above the one that includes it (gin_configs/recipes include models/...)."""
    for folder in (pathlib.Path(), *path.resolve().parents[:3]):
        if (folder / name).is_file():
            return folder / name
    raise MissingFileError(f"{path}: includes {name}, which is neither here nor in a folder above")
