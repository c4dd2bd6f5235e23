"""The models' protocol: what T5X looks for, and what the native trainer uses."""

import functools
import inspect

import clu.metrics
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.linen.partitioning import AxisMetadata

from metro_jax import decoding
from metro_jax.data.feature_converters import EncoderDecoderFeatureConverter, MetroPretrainingFeatureConverter
from metro_jax.training.models import EncoderDecoderModel, MetroPretrainingModel, address
from tests.training.conftest import PRETRAINING, TINY

# Compiles in half the time; nothing here is about speed.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def shapes(batch):
    return {name: x.shape for name, x in batch.items()}


@pytest.fixture
def both(model, batch, pretraining_model, pretraining_batch):
    return [(model, batch), (pretraining_model, pretraining_batch)]


def test_variables_come_with_the_axes_of_every_parameter(both):
    for model, batch in both:
        variables = jax.eval_shape(lambda m=model, b=batch: m.get_initial_variables(jax.random.key(0), shapes(b)))
        assert set(variables) == {"params", "params_axes"}
        params = traverse_util.flatten_dict(variables["params"], sep="/")
        axes = traverse_util.flatten_dict(variables["params_axes"], sep="/")
        assert set(axes) == {f"{name}_axes" for name in params}
        for name, leaf in params.items():
            assert isinstance(axes[f"{name}_axes"], AxisMetadata)
            assert len(axes[f"{name}_axes"].names) == len(leaf.shape), name
            assert leaf.dtype == jnp.float32
    assert axes["encoder/layers/mlp/wi/kernel_axes"].names == ("layers", "embed", "mlp")


def test_the_main_models_parameters_are_a_part_of_pretrainings(both):
    main, pretraining = (
        traverse_util.flatten_dict(
            jax.eval_shape(lambda m=m, b=b: m.get_initial_variables(jax.random.key(0), shapes(b)))["params"], sep="/"
        )
        for m, b in both
    )
    assert set(main) < set(pretraining)
    assert {name.split("/")[0] for name in set(pretraining) - set(main)} == {"generator", "rtd_head"}


def test_the_network_is_the_one_that_the_configurations_ask_for(pretraining_batch):
    other = MetroPretrainingModel(
        TINY, PRETRAINING.replace(rtd_head="roberta", sharing="token_pos_norm", generator_layers=2)
    )
    shape = jax.eval_shape(lambda: other.get_initial_variables(jax.random.key(0), shapes(pretraining_batch)))["params"]
    assert "dense" in shape["rtd_head"]
    assert set(shape["generator"]["encoder"]) == {"layers"}
    assert shape["generator"]["encoder"]["layers"]["mlp"]["wi"]["bias"].shape[0] == 2


def test_what_t5x_looks_for():
    for cls in (EncoderDecoderModel, MetroPretrainingModel):
        assert list(inspect.signature(cls.get_initial_variables).parameters) == [
            "self",
            "rng",
            "input_shapes",
            "input_types",
        ]
        assert list(inspect.signature(cls.loss_fn).parameters) == ["self", "params", "batch", "dropout_rng"]
        assert list(inspect.signature(cls.eval_fn).parameters) == ["self", "params", "batch"]
    for name in ("predict_batch", "predict_batch_with_aux"):
        assert list(inspect.signature(getattr(EncoderDecoderModel, name)).parameters) == [
            "self",
            "params",
            "batch",
            "rng",
        ]
    assert MetroPretrainingModel.FEATURE_CONVERTER_CLS is MetroPretrainingFeatureConverter
    assert EncoderDecoderModel.FEATURE_CONVERTER_CLS is EncoderDecoderFeatureConverter
    model = EncoderDecoderModel(TINY)
    assert model.optimizer_def.create({"x": jnp.ones(1)}).target
    assert model.input_vocabulary is None


def test_losses_scores_and_generated_text_agree(model, batch):
    params = fast_jit(lambda key: model.get_initial_variables(key, shapes(batch))["params"])(jax.random.key(0))
    # Far from uniform, so that the most probable token is clear.
    params["token_embedding"] = params["token_embedding"] * 30

    @fast_jit
    def everything(params, batch):
        rng = jax.random.key(1)
        sums = model.loss_sums(params, batch, rng, deterministic=True)
        return sums, model.loss_fn(params, batch, rng), model.score_batch(params, batch), model.logits(params, batch)

    sums, (loss, metrics), scores, logits = everything(params, batch)
    assert float(sums.normalizer) == batch["decoder_loss_weights"].sum()
    np.testing.assert_allclose(-np.sum(scores), sums.total, rtol=1e-5)
    np.testing.assert_allclose(loss, sums.total / sums.normalizer, rtol=1e-5)  # no dropout in this configuration
    assert isinstance(metrics["loss"], clu.metrics.Average)
    np.testing.assert_allclose(metrics["loss"].compute(), loss / np.log(2), rtol=1e-5)

    tokens, aux = fast_jit(model.predict_batch_with_aux)(params, batch)
    assert tokens.shape == batch["decoder_input_tokens"].shape
    assert aux["scores"].shape == (8,)
    np.testing.assert_array_equal(tokens[:, 0], np.argmax(logits[:, 0], axis=-1))


def test_pretraining_loss_for_t5x_is_the_native_one(pretraining_batch):
    model = MetroPretrainingModel(TINY, PRETRAINING)
    constant = MetroPretrainingModel(TINY, PRETRAINING, loss_normalizing_factor=4.0)
    params = fast_jit(lambda key: model.get_initial_variables(key, shapes(pretraining_batch))["params"])(
        jax.random.key(0)
    )

    @fast_jit
    def everything(params, batch):
        rng = jax.random.key(1)
        return (
            model.loss_sums(params, batch, rng),
            model.loss_fn(params, batch, rng),
            constant.loss_fn(params, batch, rng)[0],
        )

    sums, (loss, metrics), divided = everything(params, pretraining_batch)
    assert float(sums.normalizer) == np.count_nonzero(pretraining_batch["generator_target_tokens"])
    np.testing.assert_allclose(loss, sums.total / sums.normalizer, rtol=1e-6)
    np.testing.assert_allclose(divided, sums.total / 4.0, rtol=1e-6)
    assert set(metrics) == set(sums.metrics)
    assert {"loss", "nll_loss", "discriminator_loss", "generator_loss", "rtd_loss", "replace_ratio"} <= set(metrics)


def test_packed_rows_may_have_more_masked_positions(pretraining_batch):
    """A row packed from several blocks rounds up once per block; none of its masks may be dropped."""
    model = MetroPretrainingModel(TINY, PRETRAINING)
    targets = np.zeros_like(pretraining_batch["generator_target_tokens"])
    targets[:, :4] = 9
    ones = np.ones_like(targets)
    positions = np.tile(np.arange(12, dtype=np.int32), (8, 1))
    batch = {
        **pretraining_batch,
        "generator_target_tokens": targets,
        "encoder_segment_ids": ones,
        "decoder_segment_ids": ones,
        "encoder_positions": positions,
        "decoder_positions": positions,
    }
    assert PRETRAINING.masked_ceiling(12) < 4

    def dropped(batch):
        params = model.get_initial_variables(jax.random.key(0), shapes(pretraining_batch))["params"]
        return model.loss_sums(params, batch, jax.random.key(0)).metrics["generator_loss"][1]

    assert float(fast_jit(dropped)(batch)) == 32


def test_addresses_depend_on_purpose_and_every_number():
    key = jax.random.key(3)
    same = address(key, "train", 1, 2)
    assert jnp.array_equal(jax.random.key_data(same), jax.random.key_data(address(key, "train", 1, 2)))
    others = [
        address(key, "eval", 1, 2),
        address(key, "train", 2, 1),
        address(key, "train", 1),
        address(key, "train", 1, 3),
    ]
    assert not any(jnp.array_equal(jax.random.key_data(same), jax.random.key_data(other)) for other in others)


def test_decoding_options_are_greedy_unless_said():
    assert EncoderDecoderModel(TINY).decoding_options == decoding.Greedy()
    assert EncoderDecoderModel(TINY, decoding_options=decoding.Beam(2)).decoding_options.num_beams == 2
