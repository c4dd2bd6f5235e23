"""The training step: the reference's arithmetic over microbatches, addressed randomness, layouts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen.partitioning import AxisMetadata

from metro_jax.objectives import metro_counts, metro_loss
from metro_jax.text.ids import swap_ids
from metro_jax.training.models import BaseModel, MetroPretrainingModel, address
from metro_jax.training.optimizers import Adafactor, MetroAdamW
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.schedules import create_learning_rate_scheduler
from metro_jax.training.trainer import Trainer
from tests.test_objectives import criterion_config, outputs_from
from tests.training.conftest import PRETRAINING, TINY
from tests.training.stand_in import BagModel

CONSTANT = create_learning_rate_scheduler(factors="constant", base_learning_rate=0.01)


def make(model, batch, **options):
    shapes = {name: x.shape for name, x in batch.items()}
    return Trainer(model, PjitPartitioner(), shapes, learning_rate_fn=CONSTANT, **options)


def value(metrics, name):
    total, count = metrics[name]
    return float(total) / float(count)


def test_the_loss_falls_and_the_step_counts(bag, batch):
    trainer = make(bag, batch)
    state = trainer.init_state()
    losses = []
    for _ in range(20):
        state, metrics = trainer.train(state, batch)
        losses.append(value(metrics, "loss"))
    assert losses[-1] < losses[0]
    assert int(state.state.step) == 20
    assert value(metrics, "learning_rate") == pytest.approx(0.01)
    assert value(metrics, "gradient_norm") > 0


def test_same_seed_same_bits_other_seed_other_bits(bag, batch):
    def after_two(seed):
        trainer = make(bag, batch, random_seed=seed)
        state = trainer.init_state()
        for _ in range(2):
            state, metrics = trainer.train(state, batch)
        return jax.device_get((state.target, metrics))

    first, again, other = after_two(1), after_two(1), after_two(2)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first[0]["embedding"], other[0]["embedding"])


def test_dropout_differs_between_steps_and_microbatches(bag):
    keys = {
        tuple(np.asarray(jax.random.key_data(address(jax.random.key(1), purpose, *numbers))))
        for purpose in ("train", "eval")
        for numbers in ((), (0,), (1,), (0, 1), (1, 0))
    }
    assert len(keys) == 10


def test_microbatches_follow_the_arithmetic_of_the_reference(bag, batch):
    """Sum over microbatches of the gradient of total, each with local counts, by the summed sample size (spec 5.3)."""
    n = 4
    batch = {name: np.where(np.arange(8)[:, None] % 3 == 0, 0, x) for name, x in batch.items()}
    trainer = make(bag, batch, num_microbatches=n)
    params = trainer.init_state().target
    key = address(trainer.key(), "train", 0)
    sums, grads = jax.jit(trainer._gradients)(params, batch, key)

    @jax.jit
    def direct(params, rows, key):
        sums = bag.loss_sums(params, rows, key)
        return sums.total, sums.normalizer, jax.grad(lambda p: bag.loss_sums(p, rows, key).total)(params)

    pieces = [direct(params, {k: x[i::n] for k, x in batch.items()}, jax.random.fold_in(key, i)) for i in range(n)]
    expected_total, expected_size, expected_grads = jax.tree.map(lambda *x: sum(x), *pieces)
    assert len({float(size) for _, size, _ in pieces}) > 1
    assert float(sums.total) == pytest.approx(float(expected_total), rel=1e-6)
    assert float(sums.normalizer) == float(expected_size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, expected_grads)


def test_means_over_the_batch_do_not_depend_on_the_number_of_microbatches(batch):
    """normalization="batch": loss and gradient of one piece and of four are the same; by microbatch they are not."""
    batch = {name: np.where(np.arange(8)[:, None] % 3 == 0, 0, x) for name, x in batch.items()}
    model = BagModel(dropout=0.0)

    def gradients(**options):
        trainer = make(model, batch, **options)
        with trainer.partitioner.context():
            params = trainer.init_state().target
            sums, grads = jax.jit(trainer._gradients)(params, batch, address(trainer.key(), "train", 0))
        return float(sums.total), grads

    total, grads = gradients()
    batch_total, batch_grads = gradients(num_microbatches=4, normalization="batch")
    assert batch_total == pytest.approx(total, rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), batch_grads, grads)
    assert gradients(num_microbatches=4)[0] != pytest.approx(total, rel=5e-6)


class GivenLogits(BaseModel):
    """The criterion fixture as a model: its parameters are the logits of each microbatch, and rows say which it is."""

    def __init__(self, arrays, config, microbatches):
        super().__init__(None, None, MetroAdamW(), None, None, None)
        self.config, self.microbatches = config, microbatches
        columns = np.arange(arrays["logits"].shape[-1])
        columns[[0, 1]] = columns[[1, 0]]  # ids of the fixture are in Hub numbering
        self.columns = columns
        self.given = {
            "logits": arrays["logits"][..., columns],
            "rtd_logits": arrays["rtd_logits"],
            "generator_logits": arrays["generator_logits"][..., columns],
        }
        self.original, self.target, self.replaced = (
            swap_ids(arrays[name]) for name in ("discriminator_target", "generator_target", "replaced_input")
        )

    def get_initial_variables(self, rng, input_shapes, input_types=None):
        params = {name: jnp.stack([jnp.asarray(x)] * self.microbatches) for name, x in self.given.items()}
        axes = {f"{name}_axes": AxisMetadata((None,) * x.ndim) for name, x in params.items()}
        return {"params": params, "params_axes": axes}

    def counts(self, batch):
        tokens = {"decoder_target_tokens": self.original, "generator_target_tokens": self.target}
        return metro_counts(jax.tree.map(jnp.asarray, tokens), self.config)

    def loss_sums(self, params, batch, rng, deterministic=False, counts=None):
        logits, rtd, generator = (params[name][batch["piece"][0, 0]] for name in self.given)
        outputs = outputs_from(self.original, self.target, self.replaced, logits, rtd, generator, self.config)
        return metro_loss(outputs, self.config, counts)


@pytest.mark.golden
@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_step_has_the_gradients_of_the_reference(golden_dir, microbatches):
    """Every microbatch gives the fixture's gradient; sample sizes add up to the one divisor (spec 5.3)."""
    cases = json.loads((golden_dir / "criterion_expected.json").read_text())
    with np.load(golden_dir / "criterion_expected.npz") as file:
        arrays = dict(file)
    rows, length = arrays["discriminator_target"].shape
    batch = {"piece": np.arange(rows * microbatches).reshape(-1, 1).astype(np.int32) % microbatches}
    for name in list(cases)[::4]:
        case = cases[name]
        config = criterion_config(case["criterion"], length)
        model = GivenLogits(arrays, config, microbatches)
        trainer = make(model, batch, num_microbatches=microbatches)
        with trainer.partitioner.context():
            params = trainer.init_state().target
            sums, grads = jax.jit(trainer._gradients)(params, batch, trainer.key())
        assert float(sums.normalizer) == microbatches * case["sample_size"]
        assert float(sums.total) == pytest.approx(microbatches * case["logging_output"]["loss"], rel=1e-5)
        for key, gradient in grads.items():
            expected = arrays[f"{name}.grad.{key}"]
            gradient = gradient if key == "rtd_logits" else gradient[..., model.columns]
            for piece in gradient:
                np.testing.assert_allclose(piece, expected, atol=1e-5, rtol=1e-4, err_msg=f"{name} {key}")


def test_bfloat16_computes_on_float32_parameters_and_moments(pretraining_batch):
    config = dataclasses.replace(TINY, dtype="bfloat16", dropout_rate=0.0, attention_dropout_rate=0.0)
    model = MetroPretrainingModel(config, PRETRAINING)
    trainer = make(model, pretraining_batch)
    with trainer.partitioner.context():
        lowered = trainer._train.lower(trainer.abstract_state, pretraining_batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(trainer.abstract_state.target)} == {jnp.dtype("float32")}
    moments = trainer.abstract_state.state.param_states
    assert {leaf.dtype for leaf in jax.tree.leaves((moments.mu, moments.nu))} == {jnp.dtype("float32")}
    products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    computed = [line for line in products if "bf16" in line]
    assert len(computed) > len(products) / 2  # the rest: biases by one-hot rows, losses


def test_the_update_divides_once_then_clips(batch):
    """Moments after one update show the gradient that reached Adam: (1 - beta1) times it (spec 5.5)."""
    model = BagModel(MetroAdamW(clip_norm=0.01))
    trainer = make(model, batch)
    state = trainer.init_state()
    sums, grads = jax.jit(trainer._gradients)(state.target, batch, address(trainer.key(), "train", 0))
    grads = jax.tree.map(lambda g: g / sums.normalizer, grads)
    norm = float(optax.tree.norm(grads))
    assert norm > 0.01
    state, metrics = trainer.train(state, batch)
    assert value(metrics, "gradient_norm") == pytest.approx(norm, rel=1e-5)
    expected = jax.tree.map(lambda g: 0.1 * g * 0.01 / (norm + 1e-6), grads)
    jax.tree.map(lambda m, e: np.testing.assert_allclose(m, e, atol=1e-8), state.state.param_states.mu, expected)


def test_a_batch_without_targets_changes_nothing_but_by_decay(bag, batch):
    empty = {**batch, "decoder_target_tokens": np.zeros_like(batch["decoder_target_tokens"])}
    trainer = make(bag, empty)
    before = jax.device_get(trainer.init_state().target)
    state, metrics = trainer.train(trainer.init_state(), empty)
    assert value({"g": metrics["gradient_norm"]}, "g") == 0.0
    jax.tree.map(
        lambda new, old: np.testing.assert_allclose(new, old * (1 - 0.01 * 0.01), rtol=1e-6), state.target, before
    )


def test_evaluation_is_without_dropout(bag, batch):
    trainer = make(bag, batch)
    params = trainer.init_state().target
    first, again = (trainer.eval(params, batch, index) for index in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_moments_are_laid_out_like_parameters(bag, batch):
    trainer = make(bag, batch)
    moments = trainer.state_shardings.state.param_states
    assert moments.mu == trainer.param_shardings
    assert moments.nu == trainer.param_shardings
    assert moments.count == trainer.partitioner.replicated


@pytest.mark.parametrize("definition", [Adafactor(min_dim_size_to_factor=4), MetroAdamW()])
def test_state_goes_through_its_checkpoint_form(batch, definition):
    trainer = make(BagModel(definition), batch)
    state, _ = trainer.train(trainer.init_state(), batch)
    back = trainer.restore_state(state.state_dict())
    jax.tree.map(np.testing.assert_array_equal, back, state)
    assert jax.tree.structure(trainer.abstract_state_dict()) == jax.tree.structure(state.state_dict())


def test_bad_settings_are_named(bag, batch):
    with pytest.raises(ValueError, match=r"batch_size=8 is not a multiple of 3.*choose 9"):
        make(bag, batch, num_microbatches=3)
    with pytest.raises(ValueError, match="normalization='global' must be one of 'microbatch', 'batch'"):
        make(bag, batch, normalization="global")
    with pytest.raises(ValueError, match="learning_rate_fn"):
        Trainer(bag, PjitPartitioner(), {"encoder_input_tokens": (8, 4)})
