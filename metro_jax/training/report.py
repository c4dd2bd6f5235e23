"""What a run would work on, without running it: parameters with their layout, and the features of a batch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from metro_jax.training.models import BaseModel
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.trainer import Trainer
from metro_jax.training.trees import flatten


def abstract_params(model: BaseModel, partitioner: PjitPartitioner, batch_size: int) -> Any:
    """Shapes, types and shardings of a model's parameters; nothing is computed."""
    shapes = dict.fromkeys(model.FEATURE_CONVERTER_CLS.MODEL_FEATURES, (batch_size, 8))
    with partitioner.context():
        variables = jax.eval_shape(lambda: model.get_initial_variables(jax.random.key(0), shapes))
    shardings = partitioner.param_shardings(variables["params"], variables["params_axes"])
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        variables["params"],
        shardings,
    )


def dry_run(trainer: Trainer, features: Mapping[str, jax.ShapeDtypeStruct]) -> str:
    """The mesh, a table of all parameters, what the training state takes, and the features of a batch."""
    axes = {name.removesuffix("_axes"): metadata.names for name, metadata in flatten(trainer.params_axes).items()}
    return "\n".join(
        [
            describe_mesh(trainer.partitioner),
            "",
            *parameter_table(flatten(trainer.abstract_state_dict()["target"]), axes),
            *_totals(trainer),
            "",
            "batch:",
            *_aligned(_batch_rows(trainer, features)),
        ]
    )


def describe_mesh(partitioner: PjitPartitioner) -> str:
    """Axes of the mesh and their sizes."""
    return "mesh: " + " x ".join(f"{axis} {size}" for axis, size in partitioner.mesh.shape.items())


def parameter_table(
    params: Mapping[str, jax.ShapeDtypeStruct], axes: Mapping[str, Sequence[str | None]] | None = None
) -> list[str]:
    """Shape, logical axes where given, layout, type, bytes in all and per device of every parameter, and their sums.

    Args:
        params: by name, with their shardings.
    """
    rows = [("parameter", "shape", *(["logical axes"] if axes else []), "layout", "type", "bytes", "per device")]
    count = total = local = 0
    for name, leaf in params.items():
        sharding: Any = leaf.sharding
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        piece = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        names = [", ".join(str(axis) for axis in axes[name])] if axes else []
        rows.append((name, str(leaf.shape), *names, describe(sharding), str(leaf.dtype), f"{size:,}", f"{piece:,}"))
        count, total, local = count + math.prod(leaf.shape), total + size, local + piece
    return [*_aligned(rows), f"{count:,} parameters, {total:,} bytes, {local:,} per device"]


def describe(sharding: NamedSharding) -> str:
    """Mesh axes of each dimension, or that every device holds the whole."""
    parts = sharding.num_devices // math.prod(_repeats(sharding))
    if sharding.num_devices > 1 and parts == 1:
        return "whole on every device"
    return ", ".join("-" if axis is None else str(axis) for axis in sharding.spec) or "-"


def _repeats(sharding: NamedSharding) -> list[int]:
    """Sizes of the mesh axes over which an array is repeated."""
    used = {a for axis in sharding.spec for a in ((axis,) if isinstance(axis, str) else axis or ())}
    return [size for axis, size in sharding.mesh.shape.items() if axis not in used]


def _totals(trainer: Trainer) -> list[str]:
    total, local = _bytes(trainer.abstract_state.state.param_states, trainer.state_shardings.state.param_states)
    lines = [f"optimiser state: {total:,} bytes, {local:,} per device"]
    if trainer.partitioner.mesh.size > trainer.partitioner.mesh.shape["data"]:
        params, shardings = trainer.abstract_state.target, trainer.param_shardings
        sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]
        whole = [describe(sharding).startswith("whole") for sharding in jax.tree.leaves(shardings)]
        share = 100 * sum(size for size, is_whole in zip(sizes, whole, strict=True) if is_whole) / sum(sizes)
        lines.append(f"{share:.2f} % of the parameters are whole on every device")
    return lines


def _bytes(tree: Any, shardings: Any) -> tuple[int, int]:
    """Of all devices' distinct pieces, and of one device."""
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True))
    total = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf, _ in pairs)
    return total, sum(math.prod(s.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, s in pairs)


def _batch_rows(trainer: Trainer, features: Mapping[str, jax.ShapeDtypeStruct]) -> list[tuple[str, ...]]:
    rows = [("feature", "shape", "type", "rows per device", "rows per device and microbatch")]
    for name, feature in sorted(features.items()):
        here = feature.shape[0] // trainer.partitioner.batch_shards
        rows.append((name, str(feature.shape), str(feature.dtype), str(here), str(here // trainer.num_microbatches)))
    return rows


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
