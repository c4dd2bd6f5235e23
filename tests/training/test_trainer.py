"""The training step: the reference's arithmetic over microbatches, addressed randomness, layouts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.training.models import address
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.schedules import create_learning_rate_scheduler
from metro_jax.training.trainer import Trainer

CONSTANT = create_learning_rate_scheduler(factors="constant", base_learning_rate=0.01)


def make(model, batch, **options):
    shapes = {name: x.shape for name, x in batch.items()}
    return Trainer(model, PjitPartitioner(), shapes, learning_rate_fn=CONSTANT, **options)


def value(metrics, name):
    total, count = metrics[name]
    return float(total) / float(count)


def test_the_loss_falls_and_the_step_counts(model, batch):
    trainer = make(model, batch)
    state = trainer.init_state()
    losses = []
    for _ in range(6):
        state, metrics = trainer.train(state, batch)
        losses.append(value(metrics, "loss"))
    assert losses[-1] < losses[0]
    assert int(state.state.step) == 6
    assert value(metrics, "learning_rate") == pytest.approx(0.01)
    assert value(metrics, "gradient_norm") > 0


def test_same_seed_same_bits_other_seed_other_bits(pretraining_model, pretraining_batch):
    def after_two(seed):
        trainer = make(pretraining_model, pretraining_batch, random_seed=seed)
        state = trainer.init_state()
        for _ in range(2):
            state, metrics = trainer.train(state, pretraining_batch)
        return jax.device_get((state.target, metrics))

    first, again, other = after_two(1), after_two(1), after_two(2)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first[0]["token_embedding"], other[0]["token_embedding"])


def test_microbatches_follow_the_arithmetic_of_the_reference(pretraining_model, pretraining_batch):
    """Sum over microbatches of the gradient of total, divided by the summed sample size (spec 5.3)."""
    model, n = pretraining_model, 4
    trainer = make(model, pretraining_batch, num_microbatches=n)
    params = trainer.init_state().target
    key = address(trainer.key(), "train", 0)
    sums, grads = jax.jit(trainer._gradients)(params, pretraining_batch, key)

    @functools.partial(jax.jit, static_argnums=0)
    def direct(i, params):
        rows = {name: x[i::n] for name, x in pretraining_batch.items()}
        return jax.value_and_grad(lambda p: model.loss_sums(p, rows, jax.random.fold_in(key, i)).total)(params), (
            model.loss_sums(params, rows, jax.random.fold_in(key, i)).normalizer
        )

    pieces = [direct(i, params) for i in range(n)]
    expected = jax.tree.map(lambda *g: sum(g), *(gradient for (_, gradient), _ in pieces))
    np.testing.assert_allclose(sums.total, sum(total for (total, _), _ in pieces), rtol=1e-5)
    assert float(sums.normalizer) == sum(float(normalizer) for _, normalizer in pieces)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, expected)


def test_microbatches_do_not_change_a_loss_that_is_a_plain_sum(model, batch):
    def updated(n):
        trainer = make(model, batch, num_microbatches=n)
        state, metrics = trainer.train(trainer.init_state(), batch)
        return state.target, value(metrics, "loss")

    (whole, loss), (pieces, loss_of_pieces) = updated(None), updated(2)
    assert loss == pytest.approx(loss_of_pieces, rel=1e-5)
    # The first Adam step is about the sign of each gradient: compare where it is not zero up to rounding.
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
        assert np.mean(np.abs(a - b) < 1e-5) > 0.97


def test_a_batch_without_targets_changes_nothing_but_by_decay(pretraining_model, pretraining_batch):
    empty = {**pretraining_batch, "generator_target_tokens": np.zeros_like(pretraining_batch["generator_target_tokens"])}
    trainer = make(pretraining_model, empty)
    state, metrics = trainer.train(trainer.init_state(), empty)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.target))
    assert value(metrics, "gradient_norm") == 0.0


def test_evaluation_is_without_dropout_and_repeatable(pretraining_model, pretraining_batch):
    trainer = make(pretraining_model, pretraining_batch)
    params = trainer.init_state().target
    first, again = (trainer.eval(params, pretraining_batch, 0) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_moments_are_laid_out_like_parameters(model, batch):
    trainer = make(model, batch)
    moments = trainer.state_shardings.state.param_states
    assert moments.mu == trainer.param_shardings
    assert moments.nu == trainer.param_shardings
    assert moments.count == trainer.partitioner.replicated


def test_state_goes_through_its_checkpoint_form(model, batch):
    trainer = make(model, batch)
    state = trainer.init_state()
    back = trainer.restore_state(state.state_dict())
    jax.tree.map(np.testing.assert_array_equal, back, state)
    abstract, real = trainer.abstract_state_dict(), state.state_dict()
    assert jax.tree.structure(abstract) == jax.tree.structure(real)


def test_bad_settings_are_named(model, batch):
    with pytest.raises(ValueError, match=r"batch_size=8 is not a multiple of 3.*choose 9"):
        make(model, batch, num_microbatches=3)
    with pytest.raises(ValueError, match="learning_rate_fn"):
        Trainer(model, PjitPartitioner(), {"encoder_input_tokens": (8, 4)})
