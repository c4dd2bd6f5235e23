"""What a dry run shows."""

import jax

from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.report import abstract_params, dry_run
from metro_jax.training.schedules import create_learning_rate_scheduler
from metro_jax.training.trainer import Trainer


def test_every_parameter_with_shape_axes_layout_and_size(model, batch):
    shapes = {name: x.shape for name, x in batch.items()}
    trainer = Trainer(model, PjitPartitioner(), shapes, learning_rate_fn=create_learning_rate_scheduler())
    text = dry_run(trainer, shapes)
    assert "mesh: data" in text
    row = next(line for line in text.splitlines() if line.startswith("token_embedding"))
    config = model.config
    size = f"{4 * config.vocab_size * config.d_model:,}"
    for part in (f"({config.vocab_size}, {config.d_model})", "vocab, embed", "model, fsdp", "float32", size):
        assert part in row
    assert "encoder_input_tokens (8, 10)" in text
    count = sum(leaf.size for leaf in jax.tree.leaves(trainer.abstract_state.target))
    assert f"{count:,} parameters" in text


def test_parameters_without_a_trainer_are_the_same(model, batch):
    shapes = {name: x.shape for name, x in batch.items()}
    trainer = Trainer(model, PjitPartitioner(), shapes, learning_rate_fn=create_learning_rate_scheduler())
    assert abstract_params(model, trainer.partitioner, 8) == trainer.abstract_state_dict()["target"]
