"""What pretraining adds to the encoder-decoder: the generator and the replaced-token-detection head (spec 3)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from metro_jax.model.config import MetroConfig, PretrainingConfig
from metro_jax.model.layers import Dense, Initializer, layer_norm, named, normal, uniform
from metro_jax.model.network import PAD, Encoder, EncoderDecoder, Stack, project, same_segment, visible_keys
from metro_jax.model.network import combine as combine_masks
from metro_jax.model.operations import precision
from metro_jax.model.rows import drawn_by_device, is_hardware, keys_by_row


@struct.dataclass
class PretrainingOutputs:
    """Everything the objective needs (spec 3.4). M is the ceiling on masked positions per row, V the vocabulary.

    `logits` has the decoder's distribution at the masked positions, or at all of them where the objective or
    `full_metrics` asks for that; `logits_at_masked` says which.
    """

    generator_logits: Float[Array, "batch masked vocab"]
    rtd_logits: Float[Array, "batch length"]
    logits: Float[Array, "batch slots vocab"]
    masked_positions: Int[Array, "batch masked"]  # ascending; `length` where a row has fewer masked positions
    replaced_tokens: Int[Array, "batch length"]  # what the main encoder saw
    original_tokens: Int[Array, "batch length"]
    generator_targets: Int[Array, "batch length"]  # the original at masked positions, pad elsewhere
    encoded: Float[Array, "batch length d_model"]
    logits_at_masked: bool = struct.field(pytree_node=False, default=True)


def masked_positions(masked: Bool[Array, "batch length"], ceiling: int) -> Int[Array, "batch ceiling"]:
    """The first `ceiling` masked positions of each row in ascending order; `length` stands for none."""
    length = masked.shape[1]
    return jnp.sort(jnp.where(masked, jnp.arange(length), length), axis=1)[:, :ceiling]


def gather(x: Array, positions: Int[Array, "batch slots"]) -> Array:
    """x[b, positions[b, s]] along axis 1; a position past the end reads the last one and must carry no weight."""
    index = jnp.minimum(positions, x.shape[1] - 1)

    def look_up(x: Array, index: Array) -> Array:
        return jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)

    def product(x: Array, index: Array) -> Array:
        one_hot = jax.nn.one_hot(index, x.shape[1], dtype=x.dtype)
        return jnp.einsum("bsl,bl...->bs...", one_hot, x, precision=precision(x.dtype))

    if not jnp.issubdtype(x.dtype, jnp.floating):
        return look_up(x, index)
    # On TPU a product: the gradient of a look-up is a scatter, which runs row by row there and takes long to compile.
    return jax.lax.platform_dependent(x, index, tpu=product, default=look_up)


def replace_masked(
    tokens: Int[Array, "batch length"], masked: Bool[Array, "batch length"], sampled: Int[Array, "batch slots"]
) -> Int[Array, "batch length"]:
    """`tokens` with the n-th masked position of each row replaced by the n-th sampled token (spec 3.4)."""
    slot = jnp.cumsum(masked, axis=1) - 1
    inside = masked & (slot < sampled.shape[1])
    return jnp.where(inside, jnp.take_along_axis(sampled, jnp.clip(slot, 0, sampled.shape[1] - 1), axis=1), tokens)


def _head_dense(config: MetroConfig) -> Dense:
    # PyTorch's default for linear maps, which the reference leaves in place here (spec 3.5).
    init: Initializer = uniform(config.d_model**-0.5)
    return Dense((config.d_model,) * 2, ("embed", "embed_out"), init, dtype=config.dtype, bias_init=init, name="dense")


class LMHead(nn.Module):
    """y = LN(ReLU(W x + b)) E^T + c (spec 3.1)."""

    config: MetroConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch d_model"], embedding: Float[Array, "vocab d_model"]
    ) -> Float[Array, "*batch vocab"]:
        c = self.config
        x = layer_norm(c, "norm")(nn.relu(_head_dense(c)(x)))
        zeros = named(nn.initializers.zeros_init(), "vocab")
        return project(embedding, x, c.dtype) + self.param("bias", zeros, (c.vocab_size,))


class RTDHead(nn.Module):
    """Logit of "this token was replaced" for every encoder position (spec 3.3); starts at exactly 0."""

    config: MetroConfig
    kind: str

    @nn.compact
    def __call__(self, x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length"]:
        c = self.config
        if self.kind == "roberta":
            x = layer_norm(c, "norm")(nn.relu(_head_dense(c)(x)))
        zeros = nn.initializers.zeros_init()
        return Dense((c.d_model, 1), ("embed", "rtd"), zeros, dtype=c.dtype, name="out")(x)[..., 0].astype(jnp.float32)


class Generator(nn.Module):
    """The auxiliary model: an encoder of its own depth and, at masked positions, a language-model head (spec 3.1)."""

    config: MetroConfig
    pretraining: PretrainingConfig

    def setup(self) -> None:
        p, rate = self.pretraining, self.pretraining.generator_dropout_rate
        own = self.config.replace(
            num_encoder_layers=p.generator_layers, dropout_rate=rate, attention_dropout_rate=rate, mlp_dropout_rate=0.0
        )
        if p.sharing == "none":
            # BERT's rule, pad row zero (spec 3.5).
            init = normal(0.02**2)
            boxed = named(lambda *a: init(*a).at[PAD].set(0.0), "vocab", "embed")
            self.token_embedding = self.param("token_embedding", boxed, (own.vocab_size, own.d_model))
        self.encoder = Encoder(
            own,
            generator=True,
            own_positions=p.sharing in ("none", "token"),
            own_norm=p.sharing != "token_pos_norm",
        )
        self.lm_head = LMHead(own)

    def __call__(
        self,
        main_embedding: Float[Array, "vocab d_model"],
        main_encoder: Stack,
        tokens: Int[Array, "batch length"],
        slots: Int[Array, "batch masked"],
        **options: Any,
    ) -> Float[Array, "batch masked vocab"]:
        """Logits at the positions in `slots`; `main_*` are what the generator may share."""
        embedding = self.token_embedding if self.pretraining.sharing == "none" else main_embedding
        features, _ = self.encoder(embedding, tokens, main=main_encoder, **options)
        return self.lm_head(gather(features, slots), embedding)


class MetroPretraining(EncoderDecoder):
    """The main model with generator and RTD head; its parameters are the main model's plus two more branches."""

    pretraining: PretrainingConfig = PretrainingConfig()

    def setup(self) -> None:
        super().setup()
        self.generator = Generator(self.config, self.pretraining)
        self.rtd_head = RTDHead(self.config, self.pretraining.rtd_head)

    def __call__(
        self,
        batch: dict[str, Int[Array, "batch length"]],
        sampled_tokens: Int[Array, "batch masked"] | None = None,
        *,
        deterministic: bool = True,
    ) -> PretrainingOutputs:
        """One pass of spec 3.4.

        Args:
            batch: `encoder_input_tokens`, `generator_target_tokens`, `decoder_input_tokens`, `decoder_target_tokens`
                and, when packed, the segment ids and positions of both sides.
            sampled_tokens: the generator's draws per masked position in order; None draws them (rng "sampling").
        """
        p, source, targets = self.pretraining, batch["encoder_input_tokens"], batch["generator_target_tokens"]
        masked = targets != PAD
        positions = masked_positions(masked, p.masked_ceiling(source.shape[1]))
        segments, where = batch.get("encoder_segment_ids"), batch.get("encoder_positions")
        packed: dict[str, Any] = {"segment_ids": segments, "positions": where, "deterministic": deterministic}
        generator_logits = self.generator(self.token_embedding, self.encoder, source, positions, **packed)
        if sampled_tokens is None:
            # No gradient flows through a draw (spec 3.4).
            key, frozen = self.make_rng("sampling"), jax.lax.stop_gradient(generator_logits)
            if is_hardware(key):
                noise = drawn_by_device(jax.random.gumbel, key, frozen.shape)
                drawn = jnp.argmax(frozen + noise, axis=-1)
            else:  # the same draws on every mesh, and in however many pieces
                drawn = jax.vmap(jax.random.categorical)(keys_by_row(key, source.shape[0]), frozen)
            sampled_tokens = drawn.astype(source.dtype)
        replaced = replace_masked(source, masked, sampled_tokens)

        encoded, _ = self.encoder(self.token_embedding, replaced, **packed)
        decoder_segments = batch.get("decoder_segment_ids")
        visible = visible_keys(self.config, replaced, None)
        hidden, _ = self.decoder(
            self.token_embedding,
            batch["decoder_input_tokens"],
            encoded,
            combine_masks(None if visible is None else visible[:, None, :], same_segment(decoder_segments, segments)),
            positions=batch.get("decoder_positions"),
            segment_ids=decoder_segments,
            deterministic=deterministic,
        )
        at_masked = p.target != "none" and not p.full_metrics
        return PretrainingOutputs(
            generator_logits=generator_logits,
            rtd_logits=self.rtd_head(encoded),
            logits=self.project(gather(hidden, positions) if at_masked else hidden),
            masked_positions=positions,
            replaced_tokens=replaced,
            original_tokens=batch["decoder_target_tokens"],
            generator_targets=targets,
            encoded=encoded,
            logits_at_masked=at_masked,
        )
