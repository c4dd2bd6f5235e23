"""What a run would work on, without running it: parameters with their layout, and the features of a batch."""

import math
from collections.abc import Mapping
from typing import Any

import jax

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


def dry_run(trainer: Trainer, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The mesh, a table of all parameters (shape, axes, layout, type, bytes in all and per device), the batch."""
    params = flatten(trainer.abstract_state.target)
    shardings = flatten(trainer.param_shardings)
    axes = flatten(trainer.params_axes)
    rows = [("parameter", "shape", "logical axes", "layout", "type", "bytes", "per device")]
    count = total = local = 0
    for name, leaf in params.items():
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        piece = math.prod(shardings[name].shard_shape(leaf.shape)) * leaf.dtype.itemsize
        layout = ", ".join(str(axis) for axis in shardings[name].spec) or "replicated"
        names = ", ".join(str(axis) for axis in axes[f"{name}_axes"].names)
        rows.append((name, str(leaf.shape), names, layout, str(leaf.dtype), f"{size:,}", f"{piece:,}"))
        count, total, local = count + math.prod(leaf.shape), total + size, local + piece
    mesh = " x ".join(f"{axis} {size}" for axis, size in trainer.partitioner.mesh.shape.items())
    lines = [f"mesh: {mesh}", "", *_aligned(rows), f"{count:,} parameters, {total:,} bytes, {local:,} per device", ""]
    lines.append("batch:")
    lines += [f"  {name} {shape}" for name, shape in sorted(shapes.items())]
    return "\n".join(lines)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
