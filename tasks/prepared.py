"""Registers every task and mixture that lies in the data folder, under the name of its folder.

    MIXTURE_OR_TASK_MODULE = "metro_jax.tasks.prepared"
    MIXTURE_OR_TASK_NAME = "NAME"            # a folder of prepared records, or a mixture of FOLDER/mixtures.json

A mixture NAME of prompted tasks is there a second time as NAME_epochs, in the reference's epochs (spec 6.2).

Documents in FOLDER/corpus are `metro_pretrain` and `t5_pretrain`; documents in another folder NAME are
`metro_pretrain_NAME` and `t5_pretrain_NAME`. Prompted and ranked records in FOLDER/NAME are the task NAME.

Importing this module registers what lies in the data folder, if one is named by then; `refresh()` does it again, for
processes that write data and then use it. `metro_jax.data.lookup.find_task` calls it.
"""

import contextlib
import os

from metro_jax.data.folder import NoDataFolderError, data_dir, nearest, prepared_tasks, read_mixtures
from metro_jax.tasks import pretraining, prompted  # pyright: ignore[reportMissingImports]


def register_folder(folder: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Registers the prepared tasks and mixtures of a data folder (default: `data_dir()`).

    Returns:
      The mixtures that cannot be used, with the reason: tasks they name are missing. A mixture with "allow_missing":
      true in mixtures.json is registered with those that are there.
    """
    root = data_dir(folder) if folder is not None else data_dir()
    kinds = prepared_tasks(root)
    for name, kind in kinds.items():
        if kind == "documents":
            suffix = "" if name == pretraining.CORPUS else f"_{name}"
            pretraining.register_metro_pretrain(f"metro_pretrain{suffix}", name, folder)
            pretraining.register_t5_pretrain(f"t5_pretrain{suffix}", name, folder)
        else:
            register = prompted.register_prompted if kind == "prompted" else prompted.register_ranked
            register(name, folder=folder)

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
            if split == "train" and all(kinds[task] == "prompted" for task in present):
                prompted.register_epochs(f"{name}_epochs", present, folder)
    return unusable


def refresh() -> dict[str, str]:
    """Registers what lies in the data folder now; returns the mixtures that cannot be used, with the reason."""
    return register_folder()


with contextlib.suppress(NoDataFolderError):  # then refresh() says so, and find_task calls it
    refresh()
