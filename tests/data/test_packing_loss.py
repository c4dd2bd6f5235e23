"""Packed rows give the loss of the same examples in rows of their own, through the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf
from flax import linen as nn

from metro_jax import objectives
from metro_jax.data import feature_converters as fc
from metro_jax.data import preprocessors
from metro_jax.data.vocabulary import MetroVocabulary
from metro_jax.model.config import MetroConfig, PretrainingConfig
from metro_jax.model.pretraining import MetroPretraining
from metro_jax.training.models import EncoderDecoderModel

LENGTH = 32
LENGTHS = {"inputs": LENGTH, "targets": LENGTH}
EXAMPLES = 14
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}  # compilation is most of the time


@pytest.fixture(scope="module")
def config(tokenizer):
    return MetroConfig(
        vocab_size=tokenizer.vocab_size, d_model=16, num_heads=2, d_ff=32, num_encoder_layers=1, num_decoder_layers=1,
        position_rows=LENGTH + 2, max_positions=LENGTH, dropout_rate=0.0, attention_dropout_rate=0.0,
    )  # fmt: skip


def short_rows(names, seed, longest=LENGTH):
    draw = np.random.default_rng(seed)
    rows = [
        {name: [1, *draw.integers(4, 400, draw.integers(1, longest - 2)), 2] for name in names} for _ in range(EXAMPLES)
    ]
    spec = {name: tf.TensorSpec([None], tf.int32) for name in names}
    return tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=spec)


def one_batch(converter, dataset):
    rows = list(converter(dataset, LENGTHS).as_numpy_iterator())
    return {name: jnp.stack([row[name] for row in rows]) for name in rows[0]}


def padding_share(batch):
    return float((batch["encoder_input_tokens"] == 0).mean())


def spread(params):
    """Away from the start, where the RTD head is zero and gradients vanish."""
    draw = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: np.asarray(leaf + 0.3 * draw.normal(size=leaf.shape), np.float32), params)


def check(losses):
    """Totals, normalisers and metrics of the two layouts."""
    one, other = losses
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    assert one[1] == other[1]
    for name, (total, count) in one[2].items():
        np.testing.assert_allclose(total, other[2][name][0], rtol=1e-4, atol=1e-4, err_msg=name)
        assert count == other[2][name][1], name


def test_pretraining(config, vocabulary_folder, tokenizer):
    features = {"targets": seqio.Feature(MetroVocabulary(vocabulary_folder))}
    blocks = short_rows(["targets"], 0, 14)
    with seqio.map_seed_manager(1):
        masked = list(preprocessors.mask_tokens(blocks, features, rate=0.3).as_numpy_iterator())
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(masked), output_signature={name: tf.TensorSpec([None], tf.int32) for name in masked[0]}
    )
    batches = [
        one_batch(fc.MetroPretrainingFeatureConverter(pack=pack, decoder_start=tokenizer.mask_id), dataset)
        for pack in (False, True)
    ]
    assert len(batches[0]["encoder_input_tokens"]) == EXAMPLES > 2 * len(batches[1]["encoder_input_tokens"])
    assert padding_share(batches[1]) < 0.5 * padding_share(batches[0])

    settings = PretrainingConfig(generator_layers=1, weighted_lm_loss=True, max_masked_positions=LENGTH)
    module = MetroPretraining(config, pretraining=settings)
    rngs = {"params": jax.random.key(0), "sampling": jax.random.key(1)}
    params = spread(jax.jit(lambda: nn.unbox(module.init(rngs, batches[0])["params"]), compiler_options=QUICK)())

    def loss(params, batch, sampled):
        sums = objectives.metro_loss(module.apply({"params": params}, batch, sampled), settings)
        return sums.total, sums.normalizer, sums.metrics

    losses, step = [], jax.jit(loss, compiler_options=QUICK)
    for batch in batches:  # the same draws at the same tokens, in the order of the masked positions
        sampled = np.zeros((len(batch["encoder_input_tokens"]), LENGTH), np.int32)
        for row, targets in enumerate(np.asarray(batch["generator_target_tokens"])):
            drawn = targets[targets != 0]
            sampled[row, : len(drawn)] = np.where(drawn % 3 == 0, drawn, 4 + (7 * drawn) % 400)
        losses.append(step(params, batch, jnp.asarray(sampled)))
    check(losses)


def test_sequence_to_sequence(config):
    dataset = short_rows(["inputs", "targets"], 1, 14)
    batches = [one_batch(fc.EncoderDecoderFeatureConverter(pack=pack), dataset) for pack in (False, True)]
    assert padding_share(batches[1]) < 0.5 * padding_share(batches[0])
    model = EncoderDecoderModel(config, label_smoothing=0.1)
    params = spread(
        jax.jit(lambda: nn.unbox(model._init(jax.random.key(0), batches[0])["params"]), compiler_options=QUICK)()
    )

    def loss(params, batch):
        sums = model.loss_sums(params, batch, jax.random.key(0), deterministic=True)
        return sums.total, sums.normalizer, sums.metrics

    losses, step = [], jax.jit(loss, compiler_options=QUICK)
    for batch in batches:
        losses.append(step(params, batch))
    check(losses)
