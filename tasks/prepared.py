"""Registers every task and mixture that lies in the data folder, under the name of its folder.

    MIXTURE_OR_TASK_MODULE = "metro_jax.tasks.prepared"
    MIXTURE_OR_TASK_NAME = "NAME"            # a folder of prepared records, or a mixture of FOLDER/mixtures.json

A mixture NAME of prompted tasks is there a second time as NAME_epochs, in the reference's epochs (spec 6.2); where it
is one of other splits than train, a task without the split that is asked for is left out, as in the mixture itself.

Prompted tasks that FOLDER/metrics.json names, and those of T0, have metrics of generated answers.

Documents in FOLDER/corpus are `metro_pretrain` and `t5_pretrain`; documents in another folder NAME are
`metro_pretrain_NAME` and `t5_pretrain_NAME`. Prompted and ranked records in FOLDER/NAME are the task NAME.

Importing this module registers what lies in the data folder, if one is named by then; `refresh()` does it again, for
processes that write data and then use it. `metro_jax.data.lookup.find_task` calls it.
"""

import contextlib
import os

from etils import epath

from metro_jax.data.folder import (
    METRICS,
    NoDataFolderError,
    data_dir,
    nearest,
    prepared_tasks,
    read_metrics,
    read_mixtures,
)
from metro_jax.data.t0 import catalogue
from metro_jax.evaluation.metrics import find_metrics
from metro_jax.tasks import pretraining, prompted  # pyright: ignore[reportMissingImports]


def register_folder(folder: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Registers the prepared tasks and mixtures of a data folder (default: `data_dir()`).

    Returns:
      The mixtures that cannot be used, with the reason: tasks they name are missing. A mixture with "allow_missing":
      true in mixtures.json is registered with those that are there.
    """
    root = data_dir(folder) if folder is not None else data_dir()
    kinds = prepared_tasks(root)
    metrics = catalogue.metrics() | _own_metrics(root)
    for name, kind in kinds.items():
        if kind == "documents":
            suffix = "" if name == pretraining.CORPUS else f"_{name}"
            pretraining.register_metro_pretrain(f"metro_pretrain{suffix}", name, folder)
            pretraining.register_t5_pretrain(f"t5_pretrain{suffix}", name, folder)
        elif kind == "prompted":
            prompted.register_prompted(name, folder=folder, metrics=metrics.get(name, ()))
        else:
            prompted.register_ranked(name, folder=folder)

    unusable = {}
    for name, mixture in read_mixtures(root).items():
        tasks, cap = mixture["tasks"], mixture.get("cap")
        caps = dict(tasks) if isinstance(tasks, dict) else dict.fromkeys(tasks, cap)
        missing = sorted(set(caps) - set(kinds))
        if missing and not (mixture.get("allow_missing") and len(missing) < len(caps)):
            hint = nearest(missing[0], kinds)
            reason = (
                f"{len(missing)} of its {len(caps)} tasks are not in {root}, such as {missing[0]} ({hint}); prepare "
                'them, or set "allow_missing": true for this mixture in mixtures.json'
            )
            unusable |= {name: reason, f"{name}_epochs": reason}
        else:
            present = {task: limit for task, limit in caps.items() if task in kinds}
            split = mixture.get("split", "train")
            prompted.register_mixture(name, present, split=split)
            if all(kinds[task] == "prompted" for task in present):
                prompted.register_epochs(f"{name}_epochs", present, folder, partial=split != "train")
    return unusable


def _own_metrics(root: epath.Path) -> dict[str, tuple[str, ...]]:
    """What metrics.json says. Raises ValueError for an unknown metric."""
    found = read_metrics(root)
    for task, names in found.items():
        try:
            find_metrics(names)
        except ValueError as error:
            raise ValueError(f"{root / METRICS}, task {task!r}: {error}") from None
    return {task: tuple(names) for task, names in found.items()}


def refresh() -> dict[str, str]:
    """Registers what lies in the data folder now; returns the mixtures that cannot be used, with the reason."""
    return register_folder()


with contextlib.suppress(NoDataFolderError):  # then refresh() says so, and find_task calls it
    refresh()
