"""The data folder: where prepared records, mixtures and the vocabulary lie, and what is in it.

    FOLDER/vocab/{sp.model, dict.txt, tokenizer_config.json}      the vocabulary everything below was encoded with
    FOLDER/TASK/SPLIT.tfrecord-00000-of-0000N                     records of token ids (metro_jax.data.records)
    FOLDER/TASK/info.SPLIT.json                                   counts, features, vocabulary hash; written last
    FOLDER/mixtures.json                                          {NAME: {"tasks": [...] or {TASK: cap}, "cap": n}}
    FOLDER/metrics.json                                           {TASK: [names of metro_jax.evaluation.metrics]}

The folder is named once, by gin (`data_dir.path = "..."`) or by the environment variable METRO_DATA_DIR; gin wins. It
is looked up when a data set is built, never at import. Local paths and gs:// paths both work.
"""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import gin
from etils import epath

ENVIRONMENT_VARIABLE = "METRO_DATA_DIR"
VOCABULARY = "vocab"
MIXTURES = "mixtures.json"
METRICS = "metrics.json"


class NoDataFolderError(ValueError):
    """No data folder is named."""


@gin.configurable(module="metro_jax.tasks")  # type: ignore[call-arg]
def data_dir(path: str | os.PathLike[str] | None = None) -> epath.Path:
    """The data folder: `path` (in gin: `data_dir.path = "..."`), otherwise the environment variable METRO_DATA_DIR.

    Raises:
      NoDataFolderError: neither is given. FileNotFoundError: there is no such folder.
    """
    chosen = path or os.environ.get(ENVIRONMENT_VARIABLE)
    if not chosen:
        raise NoDataFolderError(
            f"no data folder is named: set the environment variable {ENVIRONMENT_VARIABLE}, or data_dir.path in gin, "
            "to the folder of prepared records"
        )
    folder = epath.Path(chosen)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: this data folder does not exist; prepare it first or name another one")
    return folder


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause for error messages that lists the known names most like `name`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    if close:
        return "the nearest known names are " + ", ".join(close)
    return "known names are " + ", ".join(known[:20]) if known else "there are none"


def prepared_tasks(folder: epath.Path) -> dict[str, str]:
    """The prepared tasks of a folder: name to kind of record ("documents", "prompted" or "ranked")."""
    kinds = {}
    for path in sorted(folder.glob("*/info.*.json")):
        kind = json.loads(path.read_text()).get("kind")
        if kind is not None:  # the folder of another tool may hold info files as well
            kinds[path.parent.name] = kind
    return kinds


def splits(folder: epath.Path, task: str) -> tuple[str, ...]:
    """The complete splits of a prepared task.

    Raises:
      FileNotFoundError: the task is not in the folder.
    """
    found = sorted(path.name[len("info.") : -len(".json")] for path in (folder / task).glob("info.*.json"))
    if not found:
        raise FileNotFoundError(f"{folder}: no prepared task {task!r}; {nearest(task, prepared_tasks(folder))}")
    return tuple(found)


def read_info(folder: epath.Path, task: str, split: str) -> dict[str, Any]:
    """What is known of a prepared split: kind, num_shards, examples, features, vocabulary hash, counts.

    Raises:
      FileNotFoundError: the task or the split is missing.
    """
    available = splits(folder, task)
    if split not in available:
        raise FileNotFoundError(f"{folder / task}: no split {split!r}; this task has {', '.join(available)}")
    return json.loads((folder / task / f"info.{split}.json").read_text())


def read_metrics(folder: epath.Path) -> dict[str, list[str]]:
    """The metrics of prompted tasks in FOLDER/metrics.json, or none.

    Raises:
      ValueError: the file is not JSON of the documented form.
    """
    metrics = _read_json(folder / METRICS, 'write it as {"TASK": ["accuracy"], ...}')
    for name, names in metrics.items():
        if not isinstance(names, list) or not all(isinstance(metric, str) for metric in names):
            raise ValueError(f'{folder / METRICS}: {name!r} needs a list of names of metrics, such as ["accuracy"]')
    return metrics


def read_mixtures(folder: epath.Path) -> dict[str, dict[str, Any]]:
    """The mixtures listed in FOLDER/mixtures.json, or none.

    Raises:
      ValueError: the file is not JSON of the documented form.
    """
    path = folder / MIXTURES
    mixtures = _read_json(path, "write it with write_mixtures")
    for name, mixture in mixtures.items():
        if not isinstance(mixture, dict) or not mixture.get("tasks"):
            raise ValueError(f'{path}: mixture {name!r} needs "tasks", a list of names or a mapping of names to caps')
    return mixtures


def _read_json(path: epath.Path, advice: str) -> dict[str, Any]:
    """The object in a file, or {} where there is no file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); {advice}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds {type(found).__name__}, no object; {advice}")
    return found


def write_mixtures(folder: str | os.PathLike[str], mixtures: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds mixtures to FOLDER/mixtures.json, replacing those of the same names.

    Each is {"tasks": [names] or {name: cap}, "cap": default cap or None, "allow_missing": False}; rates are
    proportional to min(size, cap) (spec 6.2).
    """
    root = epath.Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    merged = read_mixtures(root) | {name: dict(mixture) for name, mixture in mixtures.items()}
    write_json(root / MIXTURES, merged)


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON under a temporary name and renames it, so that no reader sees half a file."""
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    temporary.replace(path)
