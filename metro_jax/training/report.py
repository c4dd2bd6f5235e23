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
    mesh = " x ".join(f"{axis} {size}" for axis, size in trainer.partitioner.mesh.shape.items())
    axes = {name: metadata.names for name, metadata in flatten(trainer.params_axes).items()}
    params = flatten(trainer.abstract_state.target)
    shardings = flatten(trainer.param_shardings)
    return "\n".join(
        [
            f"mesh: {mesh}",
            "",
            *_aligned(parameter_rows(params, shardings, axes)),
            *_totals(trainer),
            "",
            "batch:",
            *_aligned(_batch_rows(trainer, features)),
        ]
    )


def parameter_rows(
    params: Mapping[str, Any], shardings: Mapping[str, NamedSharding], axes: Mapping[str, Sequence[str | None]]
) -> list[tuple[str, ...]]:
    """A table with a header: shape, logical axes, layout, type, bytes in all and per device, of every parameter."""
    rows = [("parameter", "shape", "logical axes", "layout", "type", "bytes", "per device")]
    for name, leaf in params.items():
        names = ", ".join(str(axis) for axis in axes[f"{name}_axes"])
        local = math.prod(shardings[name].shard_shape(leaf.shape)) * leaf.dtype.itemsize
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        layout = describe(shardings[name])
        rows.append((name, str(leaf.shape), names, layout, str(leaf.dtype), f"{size:,}", f"{local:,}"))
    return rows


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
    params, shardings = trainer.abstract_state.target, trainer.param_shardings
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    total, local = _bytes(params, shardings)
    lines = [f"{count:,} parameters, {total:,} bytes, {local:,} per device"]
    total, local = _bytes(trainer.abstract_state.state.param_states, trainer.state_shardings.state.param_states)
    lines.append(f"optimiser state: {total:,} bytes, {local:,} per device")
    if trainer.partitioner.mesh.size > trainer.partitioner.mesh.shape["data"]:
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True)
        whole = sum(math.prod(leaf.shape) for leaf, sharding in pairs if describe(sharding).startswith("whole"))
        lines.append(f"{100 * whole / count:.2f} % of the parameters are whole on every device")
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
