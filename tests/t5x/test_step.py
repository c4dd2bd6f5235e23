"""The same step under T5X's trainer and under the native one: loss, gradients, and where the optimiser goes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metro_jax.training.models import EncoderDecoderModel, MetroPretrainingModel, address
from metro_jax.training.optimizers import MetroAdamW, OptaxWrapper
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.schedules import create_learning_rate_scheduler, linear_decay_slope
from metro_jax.training.trainer import Trainer
from metro_jax.training.trees import flatten
from tests.training.conftest import PRETRAINING, TINY, batch, pretraining_batch

__all__ = ["batch", "pretraining_batch"]
pytestmark = pytest.mark.filterwarnings("ignore")  # T5X and its packages use names that newer versions deprecate

SEED = 5
RATE = 0.01
DROPOUT = dataclasses.replace(TINY, dropout_rate=0.1, attention_dropout_rate=0.1)


def recorder():
    """An optimiser whose state is the last gradient, as it was given."""
    record = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, state, params=None: (grads, grads)
    )
    return OptaxWrapper(record, scale_by_learning_rate=True)


def make(name, optimizer_def):
    if name == "pretraining":
        return MetroPretrainingModel(DROPOUT, PRETRAINING, optimizer_def)
    return EncoderDecoderModel(DROPOUT, optimizer_def, label_smoothing=0.1)


def native(model, params, batch, steps):
    """Losses of the steps, and the state after them."""
    shapes = {name: x.shape for name, x in batch.items()}
    partitioner = PjitPartitioner()
    trainer = Trainer(model, partitioner, shapes, SEED, lambda step: jnp.float32(RATE))
    state = trainer.init_state(jax.tree.map(jnp.copy, params))
    losses = []
    for _ in range(steps):
        state, metrics = trainer.train(state, partitioner.shard_batch(batch))
        total, count = metrics["loss"]
        losses.append(float(total) / float(count))
    return losses, state.state_dict()


def under_t5x(t5x, model, params, batch, steps):
    """The same with t5x.trainer.Trainer, on T5X's mesh, from the same parameters and with the same random keys."""
    partitioner = t5x("partitioning").PjitPartitioner(num_partitions=1)
    initializer = t5x("utils").TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={name: x.shape for name, x in batch.items()},
        input_types={name: jnp.dtype(x.dtype) for name, x in batch.items()},
        partitioner=partitioner,
    )
    state = initializer.from_scratch(jax.random.PRNGKey(0))
    state = state.replace_params(jax.tree.map(lambda _, x: jnp.copy(x), state.params, type(state.params)(params)))
    with t5x("trainer").Trainer(
        model=model,
        train_state=state,
        partitioner=partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=jax.random.PRNGKey(SEED),
        learning_rate_fn=lambda step: jnp.float32(RATE),
        num_microbatches=None,
    ) as trainer:
        trainer._get_step_rng = lambda step: address(jax.random.key(SEED), "train", step)
        losses = [float(trainer.train(iter([batch]), 1).result()["loss"].value) for _ in range(steps)]
        return losses, trainer.train_state.state_dict()


def initial(model, batch):
    shapes = {name: x.shape for name, x in batch.items()}
    return model.get_initial_variables(jax.random.key(1), shapes)["params"]


@pytest.fixture(params=["pretraining", "finetuning"])
def case(request):
    """Name of the model and its batch."""
    return request.param, request.getfixturevalue("pretraining_batch" if request.param == "pretraining" else "batch")


def test_loss_and_gradients_are_the_same(t5x, case):
    """Dropout and the draws of the generator included."""
    name, batch = case
    params = initial(make(name, recorder()), batch)
    ours = native(make(name, recorder()), params, batch, 1)
    theirs = under_t5x(t5x, make(name, recorder()), params, batch, 1)
    assert theirs[0] == pytest.approx(ours[0], rel=1e-6)
    gradients, reference = (flatten(state["state"]["param_states"]) for _, state in (theirs, ours))
    assert set(gradients) == set(reference)
    for path, expected in reference.items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(gradients[path], expected, rtol=1e-5, atol=1e-5 * scale + 1e-9, err_msg=path)
    assert max(np.abs(x).max() for x in reference.values()) > 1e-3


@pytest.mark.slow
def test_three_updates_lead_to_the_same_place(t5x, case):
    name, batch = case
    params = initial(make(name, MetroAdamW(clip_norm=2.0)), batch)
    ours = native(make(name, MetroAdamW(clip_norm=2.0)), params, batch, 3)
    theirs = under_t5x(t5x, make(name, MetroAdamW(clip_norm=2.0)), params, batch, 3)
    assert theirs[0] == pytest.approx(ours[0], rel=1e-5)
    assert ours[0][0] != pytest.approx(ours[0][2], rel=1e-3)
    assert int(theirs[1]["state"]["step"]) == int(ours[1]["state"]["step"]) == 3
    state, reference = flatten(theirs[1]), flatten(ours[1])
    assert set(state) == set(reference)
    for path, expected in reference.items():
        # Biases of key projections have gradients of rounding errors only, and Adam divides them by their own size.
        tolerance = 2e-3 * RATE if path.startswith("target") else 1e-5 * np.abs(expected).max() + 1e-9
        np.testing.assert_allclose(state[path], expected, rtol=1e-4, atol=tolerance, err_msg=path)


@pytest.mark.parametrize(("total", "warmup"), [(30, 10), (125_000, 10_000)])
def test_the_schedule_of_t5x_with_the_slope_is_metro_s(t5x, total, warmup):
    theirs = t5x("utils").create_learning_rate_scheduler(
        factors="linear_decay",
        base_learning_rate=4e-4,
        warmup_steps=warmup,
        decay_factor=linear_decay_slope(total, warmup),
        min_learning_rate=0.0,
    )
    ours = create_learning_rate_scheduler(base_learning_rate=4e-4, warmup_steps=warmup, total_steps=total)
    for step in (0, 1, warmup - 1, warmup, warmup + 1, (warmup + total) // 2, total - 1, total, total + 5):
        assert float(theirs(jnp.int32(step))) == pytest.approx(float(ours(step)), rel=1e-5, abs=1e-10), step
