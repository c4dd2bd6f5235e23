"""Checkpoints of training, MODEL_DIR/checkpoint_<step>/state, written and read by Orbax; Orbax is imported only here.

Of a training checkpoint the parameters are taken (`target/...` in its tree); moments, step and data position stay. What
is written has parameters only, which is what finetuning starts from (INITIAL_CHECKPOINT_PATH).
"""

import asyncio
import contextlib
import functools
import logging
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from metro_jax.convert.errors import ConversionError
from metro_jax.convert.lazy import LazyStack, LazyTensor
from metro_jax.convert.rules import flatten, nest

SMALL = 2**18  # bytes; of base++ in float32, all but the matrices
STATE, TARGET, PREFIX = "state", "target", "checkpoint"


def is_checkpoint(folder: pathlib.Path) -> bool:
    """Whether `folder` is a complete checkpoint: Orbax renames a folder to its name when everything is there."""
    return (folder / STATE).is_dir() and (folder / STATE / "_METADATA").is_file()


def find_checkpoint(folder: pathlib.Path) -> pathlib.Path | None:
    """`folder` if it is a checkpoint, else the one of the highest step in it, else None."""
    if is_checkpoint(folder):
        return folder
    if not folder.is_dir():
        return None
    steps = (re.fullmatch(rf"{PREFIX}_(\d+)", child.name) for child in folder.iterdir())
    found = [(int(match[1]), folder / match[0]) for match in steps if match and is_checkpoint(folder / match[0])]
    return max(found)[1] if found else None


# -- reading


def read_orbax(folder: pathlib.Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Parameters of a checkpoint, each read when it is used, and the names of what else it holds.

    Raises:
        ConversionError: damaged, or not a checkpoint of a model.
    """
    with _quiet():
        import orbax.checkpoint as ocp
        from etils import epath

        state = epath.Path(folder).absolute() / STATE
        try:
            described: Any = ocp.PyTreeCheckpointHandler().metadata(state)
            flat = flatten(getattr(described, "tree", described))
        except Exception as error:  # whatever Orbax and its storage raise, the checkpoint cannot be read
            raise _damaged(folder, error) from error
    leaves = {
        path.removeprefix(f"{TARGET}/"): leaf
        for path, leaf in flat.items()
        if path.startswith(f"{TARGET}/") and leaf is not None
    }
    if not leaves:
        found = ", ".join(sorted(_branches(flat))) or "nothing"
        raise ConversionError(
            f"{folder}: holds no parameters (a tree {TARGET}/...), only {found}; give a checkpoint_<step> folder of "
            "metro_jax.train"
        )
    shapes = {path: (tuple(leaf.shape), np.dtype(leaf.dtype)) for path, leaf in leaves.items()}
    # Each read opens the checkpoint anew: what is small is read together, with the first of it.
    small = {path: kind for path, kind in shapes.items() if math.prod(kind[0]) * kind[1].itemsize <= SMALL}
    together = functools.cache(lambda: _read(folder, small))

    def read(path: str) -> np.ndarray:
        return together()[path] if path in small else _read(folder, {path: shapes[path]})[path]

    params = {
        path: LazyTensor(shape, dtype, functools.partial(read, path), (str(folder), path))
        for path, (shape, dtype) in shapes.items()
    }
    return nest(params), tuple(sorted(_branches(flat) - {TARGET}))


def _branches(flat: Mapping[str, Any]) -> set[str]:
    return {path.split("/")[0] for path, leaf in flat.items() if leaf is not None}


def _read(folder: pathlib.Path, wanted: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> dict[str, np.ndarray]:
    """Some of the parameters, by path."""
    with _quiet():
        import jax
        import orbax.checkpoint as ocp
        from etils import epath

        tree = nest({f"{TARGET}/{path}": jax.ShapeDtypeStruct(*kind) for path, kind in wanted.items()})
        how = nest({f"{TARGET}/{path}": ocp.RestoreArgs(restore_type=np.ndarray) for path in wanted})
        args = ocp.args.PyTreeRestore(tree, restore_args=how, partial_restore=True)
        try:
            restored = ocp.PyTreeCheckpointHandler().restore(epath.Path(folder).absolute() / STATE, args=args)
        except Exception as error:
            raise _damaged(folder, error) from error
    return {path.removeprefix(f"{TARGET}/"): np.asarray(leaf) for path, leaf in flatten(restored).items()}


def _damaged(folder: pathlib.Path, error: Exception) -> ConversionError:
    said = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return ConversionError(f"{folder} cannot be read ({said}); it is damaged, or not written by metro_jax")


# -- writing


def write_orbax(folder: pathlib.Path, params: Mapping[str, Any]) -> None:
    """Writes FOLDER/state with the parameters alone, one at a time; lazy ones are read when their turn comes."""
    with _quiet():
        import jax
        import orbax.checkpoint as ocp
        from orbax.checkpoint import type_handlers

        class OneByOne(type_handlers.NumpyHandler):
            """Orbax copies all arrays before it writes the first, and writes them all at once; this one does not."""

            async def _background_serialize(self, values: Any, infos: Any, args: Any = None) -> None:
                for value, info, arg in zip(values, infos, args or [ocp.SaveArgs()] * len(values), strict=True):
                    array = await asyncio.to_thread(np.asarray, value)
                    await super()._background_serialize([array], [info], [arg])

        registry = type_handlers.create_type_handler_registry(
            (jax.Array, type_handlers.ArrayHandler()),
            (LazyTensor, OneByOne(deepcopy_host_arrays=False)),
        )
        lazy = {path: _as_lazy(path, value) for path, value in flatten(params).items()}
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry))
        checkpointer.save((folder / STATE).absolute(), args=ocp.args.PyTreeSave({TARGET: nest(lazy)}))
        checkpointer.close()


def _as_lazy(path: str, value: Any) -> LazyTensor:
    """One type for Orbax to know, whatever the leaf is."""
    if not isinstance(value, LazyTensor | LazyStack):
        value = np.asarray(value)
    return LazyTensor(value.shape, value.dtype, lambda: np.asarray(value), path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax's notes off the terminal: its housekeeping, and errors that it logs before it raises them."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
