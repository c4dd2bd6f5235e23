"""Examples as JSON lines, one object a line:

    {"task": "rte", "template": "must be true", "index": 0, "input": "...", "choices": ["Yes", "No"], "target": "Yes"}

`task` and `template` may be left out where the file's name says them, `index` is the line's number among those of its
task and template, from 0, unless it is given. Files end in .jsonl or .jsonl.gz.
"""

import gzip
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from metro_jax.evaluation.examples import Record

SUFFIXES = (".jsonl", ".jsonl.gz")
Key = tuple[str, str]


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of JSON lines in a folder, not in those below it."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and path.is_file())


def stem(path: pathlib.Path) -> str:
    """A file's name without its suffixes."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def lines(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number of every line that is not blank, with its object, or a text that says why it is none."""
    opened: Any = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except UnicodeDecodeError:
                yield number, "no UTF-8"
            except ValueError as error:
                yield number, f"no JSON ({error})"
            else:
                yield number, value if isinstance(value, dict) else "no JSON object"


def records(path: pathlib.Path, resolve: Callable[[str, str | None], Key | str]) -> Iterator[tuple[Key | str, Record]]:
    """Every line of a file with its task and template, or with the name that is not known.

    Args:
        resolve: (task, template) as a line or the file's name says them -> which ones they are, or a text on what is
            not known; a line that cannot be read is resolved by the file's name alone.
    """
    counts: dict[Key, int] = {}
    for line, value in lines(path):
        where = f"{path.name}, line {line}"
        if isinstance(value, str):
            key = resolve(stem(path), None)
        else:
            key = resolve(str(value.get("task", stem(path))), _optional(value.get("template")))
        if isinstance(key, str):
            yield key, Record(-1, "", (), None, where, value if isinstance(value, str) else key)
            continue
        number = counts.get(key, 0)
        counts[key] = number + 1  # a broken line counts, so that the others keep their numbers
        yield key, Record(-1, "", (), None, where, value) if isinstance(value, str) else _record(value, number, where)


def _optional(value: Any) -> str | None:
    return None if value is None else str(value)


def _record(value: dict[str, Any], number: int, where: str) -> Record:
    index = value.get("index", number)
    missing = [name for name in ("input", "choices", "target") if name not in value]
    choices = value.get("choices")
    trouble = None
    if missing:
        trouble = f"no {' and no '.join(map(repr, missing))}; it has {', '.join(sorted(value))}"
    elif not isinstance(value["input"], str) or not isinstance(value["target"], str):
        trouble = "'input' and 'target' must be texts"
    elif not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        trouble = "'choices' must be a list of texts"
    elif isinstance(index, bool) or not isinstance(index, int) or index < 0:
        trouble = f"'index' {index!r} must be a whole number, 0 or more"
    if trouble is not None:
        return Record(-1, "", (), None, where, trouble)
    return Record(index, value["input"], tuple(value["choices"]), value["target"], where)
