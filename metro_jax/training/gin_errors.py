"""What was meant: gin's complaints with file, line and the nearest known name."""

import inspect
import re
import sys
from typing import Any

from gin import config as gin_config

from metro_jax.training.errors import nearest


def symbols() -> dict[str, Any]:
    """What the import lines of the files read so far have bound: name -> import statement."""
    statements = [s for s in gin_config._IMPORTS if not s.module.startswith("__gin__")]
    return {statement.bound_name(): statement for statement in statements}


def explain(error: Exception, binding: str | None = None) -> str:
    """One message for whatever gin raises: the place, what is wrong, and the nearest known name."""
    text = str(error)
    place = "the command line"
    found = re.search(r'\n  In file "(.+?)", line (\d+)\n\s*(.*)', text)
    if found:
        place = f"{found[1]} line {found[2]}"
        binding = found[3].strip()
    elif isinstance(error, SyntaxError) and error.filename:
        place, text = f"{error.filename} line {error.lineno}", error.msg
        binding = (error.text or "").strip() or binding
    first = text.strip().split("\n")[0]
    if "malformed node or string" in first:
        first = (
            'the value is not a Python literal, a @reference or a %macro; text needs quotes, as in MODEL_DIR = "run"'
        )
    quoted = f" ({binding})" if binding else ""
    return f"{place}{quoted}: {first.rstrip('.')}{_suggestion(first, error)}"


def _suggestion(message: str, error: Exception) -> str:
    """What might have been meant, from the known names of the kind that the message complains about."""
    if match := re.search(r"Couldn't resolve selector (\S+); .*has no attribute (\S+?)\.?$", message):
        return nearest(match[2], _attributes(match[1], match[2]))
    if match := re.search(r"Configurable '(.+?)' doesn't have a parameter named '(.+?)'", message):
        parameters = _parameters(match[1])
        return f"{nearest(match[2], parameters)}; it has {', '.join(parameters)}"
    if match := re.search(r"No configurable matching '(.+?)'", message):
        return f"{nearest(match[1], _known_selectors())}. Names are looked up among what the gin files import and use"
    if match := re.search(r"'(.+?)' was not provided by an import statement", message):
        known = sorted(symbols())
        return f"{nearest(match[1], known)}. Add an import line to the gin file that uses it"
    if isinstance(error, ImportError):
        return "; install the package or correct the import line"
    return ""


def _attributes(selector: str, missing: str) -> list[str]:
    statement = symbols().get(selector.split(".")[0])
    # The import of the file being read is recorded only once the file is finished: fall back to loaded modules.
    name = statement.module if statement else None
    modules = (
        [sys.modules[name]]
        if name in sys.modules
        else [
            module
            for key, module in sys.modules.items()
            if key.endswith(f".{selector.split('.')[0]}") and "metro" in key
        ]
    )
    return [attribute for module in modules for attribute in dir(module) if not attribute.startswith("_")]


def _parameters(selector: str) -> list[str]:
    configurable = gin_config._REGISTRY.get_match(selector) or next(
        (c for s, c in gin_config._REGISTRY.items() if s.endswith("." + selector.split(".", 1)[-1])), None
    )
    if configurable is None:
        return []
    return [name for name in inspect.signature(configurable.wrapped).parameters if name != "self"]


def _known_selectors() -> list[str]:
    short = [".".join(name.split(".")[-2:]) for name, _ in gin_config._REGISTRY.items()]
    return [name for name in short if not name.startswith("gin.")]
