"""Which checkpoints there are, which are meant, and when they are written: what run files say about them."""

import dataclasses
import os
import re
from collections.abc import Sequence

import orbax.checkpoint as ocp
from etils import epath

STATE, DATASET, PROGRESS = "state", "dataset", "progress"
PREFIX = "checkpoint"


@dataclasses.dataclass
class SaveCheckpointConfig:
    """When and what to save.

    Args:
        period: steps between checkpoints; the last step is always saved.
        dtype: of the saved parameters; anything but float32 makes a restart inexact.
        keep: how many of the newest to keep; None keeps all.
        keep_best: how many more to keep, those with the best values of `best_metric`.
        best_metric: as metrics.jsonl names it, split and metric: "training_eval/TASK/loss",
            "inference_eval/TASK/accuracy".
        best_mode: "max" or "min": which values are best.
        save_dataset: also save the position in the data, without which a restart cannot be exact.
    """

    period: int = 1000
    dtype: str = "float32"
    keep: int | None = None
    save_dataset: bool = True
    keep_best: int = 0
    best_metric: str | None = None
    best_mode: str = "max"

    def __post_init__(self) -> None:
        if self.period < 1 or (self.keep is not None and self.keep < 1):
            raise ValueError(f"period={self.period!r} and keep={self.keep!r} must be at least 1 (keep may be None)")
        if self.best_mode not in ("max", "min"):
            raise ValueError(f"best_mode={self.best_mode!r} must be 'max' or 'min'")
        if self.keep_best < 0 or bool(self.keep_best) != bool(self.best_metric):
            raise ValueError(
                f"keep_best={self.keep_best!r} and best_metric={self.best_metric!r} go together: a number of "
                "checkpoints and the metric to judge them by, such as 'inference_eval/TASK/accuracy'"
            )
        if self.keep_best and self.keep is None:
            raise ValueError("keep=None keeps every checkpoint; set keep as well for keep_best to mean something")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r}: parameters are saved as 'float32' or 'bfloat16'")


@dataclasses.dataclass
class RestoreCheckpointConfig:
    """Where parameters come from.

    Args:
        path: a checkpoint folder, or a model folder; empty starts from fresh parameters. A list must have one entry.
        mode: "specific": `path` is one checkpoint or, as a convenience, a model folder whose newest is meant;
            "latest": the newest of the model folder `path`; "all" (evaluation only): each of them.
        dtype: accepted for T5X's command lines; parameters are float32 in memory.
    """

    path: str | Sequence[str] = ()
    mode: str = "specific"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.mode not in ("specific", "latest", "all"):
            raise ValueError(f"mode={self.mode!r} must be 'specific', 'latest' or 'all'")
        if not isinstance(self.path, str | os.PathLike) and len(self.path) > 1:
            raise ValueError(f"path={list(self.path)!r}: give one path; averaging checkpoints is not supported")

    def find(self) -> list[epath.Path]:
        """The checkpoint folders that are meant, oldest first; empty when there is no path."""
        if not self.path:
            return []
        path = self.path if isinstance(self.path, str | os.PathLike) else self.path[0]
        found = find_checkpoints(path)
        return found if self.mode == "all" else found[-1:]


@dataclasses.dataclass
class CheckpointConfig:
    """How a training run restores and saves."""

    restore: RestoreCheckpointConfig | None = None
    save: SaveCheckpointConfig | None = dataclasses.field(default_factory=SaveCheckpointConfig)


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """The path from the root; one in a bucket stays as it is, which etils' own `absolute` would not leave it."""
    return epath.Path(path) if "://" in os.fspath(path) else epath.Path(path).absolute()


def checkpoint_steps(model_dir: str | os.PathLike[str]) -> list[int]:
    """Steps of the complete checkpoints in a model folder, ascending."""
    folder = epath.Path(model_dir)
    if not folder.is_dir():
        return []
    matches = (re.fullmatch(rf"{PREFIX}_(\d+)", child.name) for child in folder.iterdir())
    return sorted(int(m[1]) for m in matches if m and _is_complete(folder / m[0]))


def _is_complete(folder: epath.Path) -> bool:
    return (folder / STATE).is_dir() and ocp.utils.is_checkpoint_finalized(folder)


def data_shards(checkpoint: str | os.PathLike[str]) -> int | None:
    """In how many shards the run behind a checkpoint reads its data; None where the position was not saved."""
    folder = epath.Path(checkpoint) / DATASET
    if not folder.is_dir():
        return None
    found = [re.fullmatch(r"train_ds-(\d+)-of-(\d+)\.index", child.name) for child in folder.iterdir()]
    counts = {int(match[2]) for match in found if match}
    complete = len(counts) == 1 and sum(map(bool, found)) == next(iter(counts))
    return next(iter(counts)) if complete else None


def find_checkpoints(path: str | os.PathLike[str]) -> list[epath.Path]:
    """The checkpoint that `path` is, or the ones that it contains, oldest first.

    Raises:
        FileNotFoundError: nothing there; says what is nearby.
    """
    folder = epath.Path(path)
    if _is_complete(folder):
        return [folder]
    found = [folder / f"{PREFIX}_{step}" for step in checkpoint_steps(folder)]
    if found:
        return found
    beside = [f"{PREFIX}_{step}" for step in checkpoint_steps(folder.parent)]
    if beside:
        hint = f"{folder.parent} has {', '.join(beside)}"
    elif folder.is_dir():
        hint = f"the folder holds no complete {PREFIX}_<step>"
    else:
        hint = "there is no such folder"
    raise FileNotFoundError(
        f"{folder}: no checkpoint; {hint}. Give a {PREFIX}_<step> folder or a model folder with some."
    )
