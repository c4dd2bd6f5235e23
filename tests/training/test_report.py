"""What a dry run shows."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metro_jax.training.partitioning import AXES, PjitPartitioner
from metro_jax.training.report import abstract_params, describe, dry_run
from metro_jax.training.schedules import create_learning_rate_scheduler
from metro_jax.training.trainer import Trainer


def test_every_parameter_with_shape_axes_layout_and_size(model, batch):
    shapes = {name: x.shape for name, x in batch.items()}
    trainer = Trainer(model, PjitPartitioner(), shapes, learning_rate_fn=create_learning_rate_scheduler())
    text = dry_run(trainer, {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()})
    assert "mesh: data" in text
    row = next(line for line in text.splitlines() if line.startswith("token_embedding"))
    config = model.config
    size = f"{4 * config.vocab_size * config.d_model:,}"
    for part in (f"({config.vocab_size}, {config.d_model})", "vocab, embed", "model, fsdp", "float32", size):
        assert part in row
    row = next(line for line in text.splitlines() if line.startswith("encoder_input_tokens"))
    assert row.split() == ["encoder_input_tokens", "(8,", "10)", "int32", "8", "8"]
    count = sum(leaf.size for leaf in jax.tree.leaves(trainer.abstract_state.target))
    assert f"{count:,} parameters" in text
    assert f"optimiser state: {8 * count + 4:,} bytes" in text  # two moments, and how many updates there were


def test_what_every_device_holds_whole_is_called_so():
    mesh = Mesh(np.asarray([jax.devices()[0]] * 4).reshape(1, 2, 2), AXES)
    assert describe(NamedSharding(mesh, PartitionSpec("fsdp", "model"))) == "fsdp, model"
    assert describe(NamedSharding(mesh, PartitionSpec(None, ("fsdp", "model")))) == "-, ('fsdp', 'model')"
    assert describe(NamedSharding(mesh, PartitionSpec(None))) == "whole on every device"
    assert describe(NamedSharding(mesh, PartitionSpec("data"))) == "whole on every device"


def test_parameters_without_a_trainer_are_the_same(model, batch):
    shapes = {name: x.shape for name, x in batch.items()}
    trainer = Trainer(model, PjitPartitioner(), shapes, learning_rate_fn=create_learning_rate_scheduler())
    assert abstract_params(model, trainer.partitioner, 8) == trainer.abstract_state_dict()["target"]
