"""A model that compiles in a moment: a bag of source tokens, with dropout, predicts the target tokens."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from metro_jax.data.feature_converters import EncoderDecoderFeatureConverter
from metro_jax.model.config import MetroConfig
from metro_jax.model.layers import Dropout
from metro_jax.objectives import BITS, LossSums, cross_entropy, masked_sum
from metro_jax.training.models import BaseModel, address
from metro_jax.training.optimizers import MetroAdamW

CONFIG = MetroConfig(vocab_size=736, d_model=8, num_heads=2, d_ff=8, position_rows=66)


def wide():
    """Large enough for moments to be spread over devices (metro_jax/training/updates.py)."""
    return CONFIG.replace(d_model=96)


class Bag(nn.Module):
    config: MetroConfig
    dropout: float = 0.5

    @nn.compact
    def __call__(self, tokens, deterministic=True):
        c = self.config
        init = nn.with_logical_partitioning(nn.initializers.normal(0.1), ("vocab", "embed"))
        embedding = self.param("embedding", init, (c.vocab_size, c.d_model))
        bag = jnp.mean(embedding[tokens], axis=1)
        bag = Dropout(self.dropout)(nn.with_logical_constraint(bag, ("batch", "embed")), deterministic=deterministic)
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(nn.initializers.normal(0.1), ("embed", "vocab")),
            (c.d_model, c.vocab_size),
        )
        return bag @ kernel


class BagModel(BaseModel):
    """Its loss has the shape of METRO's: a local mean times a local count (spec 5.3)."""

    FEATURE_CONVERTER_CLS = EncoderDecoderFeatureConverter

    def __init__(self, optimizer_def=None, config=CONFIG, dropout=0.5):
        super().__init__(config, Bag(config, dropout), optimizer_def or MetroAdamW(), None, None, None)

    def _init(self, rng, batch):
        return self.module.init(rng, batch["encoder_input_tokens"])

    def counts(self, batch):
        where = batch["decoder_target_tokens"] != 0
        return {"targets": jnp.sum(where), "rows": jnp.sum(jnp.any(where, axis=1), dtype=jnp.float32)}

    def loss_sums(self, params, batch, rng, deterministic=False, counts=None):
        rngs = {"dropout": address(rng, "dropout")}
        logits = self.module.apply({"params": params}, batch["encoder_input_tokens"], deterministic, rngs=rngs)
        targets = batch["decoder_target_tokens"]
        where = targets != 0
        logits = jnp.broadcast_to(logits[:, None], (*targets.shape, logits.shape[-1]))
        nll = cross_entropy(logits, targets)[0]
        over = self.counts(batch) if counts is None else counts
        total = masked_sum(nll, where) / jnp.maximum(over["targets"], 1) * over["rows"]
        rows = self.counts(batch)["rows"]
        return LossSums(total, rows, {"loss": (total * BITS, rows)})

    def score_batch(self, params, batch):
        logits = self.module.apply({"params": params}, batch["encoder_input_tokens"])
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["decoder_target_tokens"], axis=1)
        return jnp.sum(picked * batch["decoder_loss_weights"], axis=1)
