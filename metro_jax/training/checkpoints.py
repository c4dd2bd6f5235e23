"""Checkpoints in T5X's folder layout, MODEL_DIR/checkpoint_<step>/, written by Orbax.

A checkpoint has three parts: `state` (parameters, moments, step), `dataset` (where each shard of the data stands) and
`progress` (the random seed, and metrics summed since the last log line). Orbax writes into a temporary folder and
renames it when everything is there, so a checkpoint whose writing was cut short is never found.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from metro_jax.training.batches import Batches, restore_position, save_position
from metro_jax.training.checkpoint_paths import (
    DATASET,
    PREFIX,
    PROGRESS,
    STATE,
    CheckpointConfig,
    RestoreCheckpointConfig,
    SaveCheckpointConfig,
    absolute,
    checkpoint_steps,
    data_shards,
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
    "data_shards",
    "find_checkpoints",
    "restore_params",
    "stored_shapes",
]

# Branches that only pretraining has: finetuning leaves them behind (spec 6.5).
PRETRAINING_ONLY = ("generator", "rtd_head")


class DatasetHandler(ocp.CheckpointHandler):
    """Where the data stands, a file per shard; synchronous, since the iterators move on right after."""

    def save(self, directory: epath.Path, args: "DatasetSave") -> None:
        """Writes this process's part."""
        if args.batches is not None:
            save_position(args.batches, directory)

    def restore(self, directory: epath.Path, args: "DatasetRestore") -> Any:
        """Moves the given iterators to the saved position."""
        restore_position(args.batches, directory)
        return args.batches


@ocp.args.register_with_handler(DatasetHandler, for_save=True)
@dataclasses.dataclass
class DatasetSave(ocp.args.CheckpointArgs):
    """The data to save the position of; None where another process saves the same shards."""

    batches: Batches | None


@ocp.args.register_with_handler(DatasetHandler, for_restore=True)
@dataclasses.dataclass
class DatasetRestore(ocp.args.CheckpointArgs):
    """The data to move."""

    batches: Batches


class Preserved:
    """Which checkpoints Orbax keeps: the newest, and those with the best values of a metric.

    A checkpoint is written before it is evaluated, so a value decides from the next saving on.
    """

    def __init__(self, config: SaveCheckpointConfig, scores: Mapping[int, float]) -> None:
        self.config, self.scores = config, scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """One answer per checkpoint, given oldest first."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        if self.config.keep is None:
            return [True] * len(steps)
        sign = -1 if self.config.best_mode == "max" else 1
        ranked = sorted((step for step in steps if step in self.scores), key=lambda step: sign * self.scores[step])
        kept = {*steps[-self.config.keep :], *ranked[: self.config.keep_best]}
        return [step in kept for step in steps]


class Checkpointer:
    """The checkpoints of one model folder. Use as a context manager: leaving it waits for what is being written.

    Args:
        scores: step -> value of the configuration's `best_metric`, looked at with every saving.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        config: SaveCheckpointConfig | None = None,
        scores: Mapping[int, float] | None = None,
    ) -> None:
        self.config = config or SaveCheckpointConfig()
        self.folder = absolute(model_dir)
        options = ocp.CheckpointManagerOptions(
            step_prefix=PREFIX,
            preservation_policy=Preserved(self.config, {} if scores is None else scores),
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

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        batches: Batches | None = None,
        progress: Any = None,
        saves_position: bool = True,
    ) -> None:
        """Copies `state` and returns; files are written in the background.

        Args:
            state: `Optimizer.state_dict()`.
            batches: its position is saved when the configuration says so.
            progress: anything JSON can hold.
            saves_position: False where another process saves the same shards.
        """
        if self.config.dtype != "float32":
            target = jax.tree.map(lambda x: x.astype(self.config.dtype), state["target"])
            state = {**state, "target": target}
        items: dict[str, Any] = {STATE: ocp.args.PyTreeSave(state), PROGRESS: ocp.args.JsonSave(progress or {})}
        if batches is not None and self.config.save_dataset:
            items[DATASET] = DatasetSave(batches if saves_position else None)
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, state: Any, batches: Batches | None = None) -> tuple[int, Any, Any]:
        """The newest checkpoint: its step, its state on the devices and with the types of `state`, its progress.

        Args:
            state: the tree to fill; its leaves are arrays or ShapeDtypeStructs with shardings, on any mesh.
            batches: moved to where they were; they have as many shards as the checkpoint.

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
        if batches is not None:
            items[DATASET] = DatasetRestore(batches)
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
    metadata = ocp.PyTreeCheckpointHandler().metadata(absolute(path) / STATE)
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
    folder = absolute(path)
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
