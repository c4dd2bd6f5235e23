"""Checkpoints in T5X's folder layout, MODEL_DIR/checkpoint_<step>/, written by Orbax.

A checkpoint has three parts: `state` (parameters, moments, step), `dataset` (where each process stands in its data) and
`progress` (metrics summed since the last log line). Orbax writes into a temporary folder and renames it when everything
is there, so a checkpoint whose writing was cut short is never found.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorflow as tf
from absl import logging
from etils import epath

from metro_jax.training.checkpoint_paths import (
    DATASET,
    PREFIX,
    PROGRESS,
    STATE,
    CheckpointConfig,
    RestoreCheckpointConfig,
    SaveCheckpointConfig,
    checkpoint_steps,
    find_checkpoints,
)
from metro_jax.training.errors import UserError
from metro_jax.training.trees import flatten

__all__ = [
    "CheckpointConfig",
    "Checkpointer",
    "RestoreCheckpointConfig",
    "SaveCheckpointConfig",
    "checkpoint_steps",
    "find_checkpoints",
    "restore_params",
    "stored_shapes",
]

# Branches that only pretraining has: finetuning leaves them behind (spec 6.5).
PRETRAINING_ONLY = ("generator", "rtd_head")


class DatasetHandler(ocp.CheckpointHandler):
    """Position of a tf.data iterator, one file per process; synchronous, since the iterator moves on right after."""

    def _prefix(self, directory: epath.Path) -> str:
        return os.fspath(directory / f"train_ds-{jax.process_index():05d}-of-{jax.process_count():05d}")

    def save(self, directory: epath.Path, args: "DatasetSave") -> None:
        """Writes the iterator's position."""
        tf.train.Checkpoint(ds=args.iterator).write(self._prefix(directory))

    def restore(self, directory: epath.Path, args: "DatasetRestore") -> Any:
        """Moves the given iterator to the saved position."""
        prefix = self._prefix(directory)
        if not epath.Path(f"{prefix}.index").exists():
            raise UserError(
                f"{directory}: no data position for process {jax.process_index()} of {jax.process_count()}; it was "
                "saved with another number of processes, to which it is tied. Continue with as many, or set "
                "utils.SaveCheckpointConfig.save_dataset=False to start reading anew"
            )
        tf.train.Checkpoint(ds=args.iterator).read(prefix).assert_consumed()
        return args.iterator


@ocp.args.register_with_handler(DatasetHandler, for_save=True)
@dataclasses.dataclass
class DatasetSave(ocp.args.CheckpointArgs):
    """The iterator to save."""

    iterator: Any


@ocp.args.register_with_handler(DatasetHandler, for_restore=True)
@dataclasses.dataclass
class DatasetRestore(ocp.args.CheckpointArgs):
    """The iterator to move."""

    iterator: Any


class Checkpointer:
    """The checkpoints of one model folder. Use as a context manager: leaving it waits for what is being written."""

    def __init__(self, model_dir: str | os.PathLike[str], config: SaveCheckpointConfig | None = None) -> None:
        self.config = config or SaveCheckpointConfig()
        self.folder = epath.Path(model_dir).absolute()
        options = ocp.CheckpointManagerOptions(
            step_prefix=PREFIX,
            max_to_keep=self.config.keep,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        handlers = {
            STATE: ocp.PyTreeCheckpointHandler(),
            DATASET: DatasetHandler(),
            PROGRESS: ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()

    def wait(self) -> None:
        """Returns when everything handed over is on disk; raises what went wrong."""
        self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return checkpoint_steps(self.folder)

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint."""
        steps = self.steps()
        return steps[-1] if steps else None

    def save(self, step: int, state: Mapping[str, Any], iterator: Any = None, progress: Any = None) -> None:
        """Copies `state` and returns; files are written in the background.

        Args:
            state: `Optimizer.state_dict()`.
            iterator: a tf.data iterator, saved when the configuration says so.
            progress: anything JSON can hold.
        """
        if self.config.dtype != "float32":
            target = jax.tree.map(lambda x: x.astype(self.config.dtype), state["target"])
            state = {**state, "target": target}
        items: dict[str, Any] = {STATE: ocp.args.PyTreeSave(state), PROGRESS: ocp.args.JsonSave(progress or {})}
        if iterator is not None and self.config.save_dataset:
            items[DATASET] = DatasetSave(iterator)
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, state: Any, iterator: Any = None) -> tuple[int, Any, Any]:
        """The newest checkpoint: its step, its state on the devices and with the types of `state`, its progress.

        Args:
            state: the tree to fill; its leaves are arrays or ShapeDtypeStructs with shardings.
            iterator: moved to where it was, if the checkpoint has that.

        Raises:
            ValueError: the checkpoint cannot be read, or does not fit the model.
        """
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(f"{self.folder}: no checkpoint to continue from")
        path = self.folder / f"{PREFIX}_{step}"
        try:
            stored = stored_shapes(path)
        except Exception as error:
            raise ValueError(self._damaged(step, error)) from error
        check_same_tree(path, stored, state)
        items: dict[str, Any] = {STATE: _restore_args(state), PROGRESS: ocp.args.JsonRestore()}
        if iterator is not None and (path / DATASET).is_dir():
            items[DATASET] = DatasetRestore(iterator)
        elif iterator is not None:
            logging.warning("%s has no data position: reading starts anew, so the run is not repeatable.", path)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        except UserError:
            raise
        except Exception as error:
            raise ValueError(self._damaged(step, error)) from error
        return step, restored[STATE], restored[PROGRESS]

    def _damaged(self, step: int, error: Exception) -> str:
        before = [s for s in checkpoint_steps(self.folder) if s < step]
        way_out = f"remove that folder to continue from {PREFIX}_{before[-1]}" if before else "there is none before it"
        return f"{self.folder / f'{PREFIX}_{step}'} cannot be read ({str(error).splitlines()[0][:300]}); {way_out}"


def _restore_args(state: Any, partial: bool = False) -> Any:
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(abstract, restore_args=restore_args, partial_restore=partial)


def stored_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in a checkpoint's state, by `/`-joined name."""
    metadata = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path).absolute() / STATE)
    tree: Any = getattr(metadata, "tree", metadata)
    return {name: tuple(leaf.shape) for name, leaf in flatten(tree).items() if leaf is not None}


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(np.shape(x)) for name, x in flatten(state).items() if x is not None}


def compare(stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What `wanted` has and `stored` lacks or has in another shape, one line each."""
    lines = [f"{name}: not in the checkpoint" for name in wanted if name not in stored]
    lines += [
        f"{name}: {stored[name]} in the checkpoint, {shape} in the model"
        for name, shape in wanted.items()
        if name in stored and stored[name] != shape
    ]
    return lines


def check_same_tree(path: epath.Path, stored: Mapping[str, tuple[int, ...]], state: Any) -> None:
    """Raises ValueError with a list where a checkpoint and the state to continue differ."""
    wanted = _shapes(state)
    lines = compare(stored, wanted) + [f"{name}: not in the model" for name in stored if name not in wanted]
    if lines:
        raise ValueError(
            f"{path} is not a checkpoint of this model and optimiser:\n  " + _shorten(lines) + "\n"
            "Use another MODEL_DIR, or the configuration the checkpoint was made with."
        )


def restore_params(path: str | os.PathLike[str], params: Any) -> tuple[Any, list[str]]:
    """Parameters only: those of `params`, from a checkpoint that may have more.

    Args:
        params: the tree to fill; leaves with shape, dtype and sharding.

    Returns:
        The parameters, and the names of the top-level branches that were left behind (generator, RTD head).

    Raises:
        ValueError: parameters missing, of another shape, or left over outside the branches of pretraining; all listed.
    """
    folder = epath.Path(path).absolute()
    stored = {k.removeprefix("target/"): v for k, v in stored_shapes(folder).items() if k.startswith("target/")}
    wanted = _shapes(params)
    extra = [name for name in stored if name not in wanted]
    lines = compare(stored, wanted)
    lines += [f"{name}: not in the model" for name in extra if not name.startswith(PRETRAINING_ONLY)]
    if lines:
        raise ValueError(
            f"{folder} does not fit this model:\n  " + _shorten(lines) + "\n"
            "Use the model file (gin_configs/models/) that the checkpoint was made with."
        )
    handler = ocp.PyTreeCheckpointHandler()
    restored = handler.restore(folder / STATE, args=_restore_args({"target": params}, partial=True))
    return restored["target"], sorted({name.split("/")[0] for name in extra})


def _shorten(lines: list[str], most: int = 12) -> str:
    shown = lines[:most] + ([f"... and {len(lines) - most} more"] if len(lines) > most else [])
    return "\n  ".join(shown)
