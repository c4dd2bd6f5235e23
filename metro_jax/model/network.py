"""Encoder, decoder and the encoder-decoder around them (spec 2).

Layers are stacked on a leading axis named `layers` and scanned. Ids are metro_jax ids (pad 0); the position tables keep
the reference's rows, in which row 1 is the pad's and the first real token uses row 2.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint
from jaxtyping import Array, Bool, Float, Int

from metro_jax.model.config import PAD_POSITION, MetroConfig
from metro_jax.model.layers import (
    DecoderLayer,
    Dropout,
    EncoderLayer,
    layer_norm,
    named,
    normal,
    uniform,
    with_zero_pad_row,
)
from metro_jax.model.operations import einsum_to_float32, look_up, take_rows
from metro_jax.model.relative_position import relative_buckets

PAD = 0
Tokens = Int[Array, "batch length"]
Mask = Bool[Array, "batch length"] | Int[Array, "batch length"]  # true or not zero: may be attended to
SourceMask = Bool[Array, "batch source"] | Int[Array, "batch source"]
TargetMask = Bool[Array, "batch target"] | Int[Array, "batch target"]
Hidden = Float[Array, "batch length d_model"]
Embedding = Float[Array, "vocab d_model"]

# What the backward pass keeps: "minimal" the matrix products without a batch dimension, "full" only layer inputs.
REMAT_POLICIES = {
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def check_length(config: MetroConfig, length: int, what: str) -> None:
    """Refuse what the position tables cannot tell apart: a look-up past their end would silently repeat a row."""
    if length > config.max_length:
        raise ValueError(
            f"{what} has {length} positions, but the position tables of this model end at {config.max_length}; "
            f"truncate the text to {config.max_length} tokens or fewer"
        )


def position_rows(tokens: Tokens, positions: Tokens | None = None) -> Tokens:
    """Row of the position table per token: pads use row 1 and are skipped by the count (spec 2.1).

    Args:
        positions: from 0 within each packed segment; None counts the tokens that are not pads.
    """
    real = tokens != PAD
    count = jnp.cumsum(real, axis=1) if positions is None else positions + 1
    return jnp.where(real, count, 0) + PAD_POSITION


def visible_keys(config: MetroConfig, tokens: Tokens, mask: Mask | None) -> Bool[Array, "batch length"] | None:
    """Which source positions may be attended to; None means all of them (spec 2.6).

    The training form hides pads by id, always; the Hub form hides what the mask says and nothing else.
    """
    by_mask = None if mask is None else mask.astype(bool)
    if config.padding == "hub":
        return by_mask
    by_id = tokens != PAD
    return by_id if by_mask is None else by_id & by_mask


def same_segment(
    queries: Int[Array, "batch queries"] | None, keys: Int[Array, "batch keys"] | None
) -> Bool[Array, "batch queries keys"] | None:
    """True where query and key belong to the same packed segment; None when nothing is packed."""
    if queries is None or keys is None:
        return None
    return queries[:, :, None] == keys[:, None, :]


def combine(
    *masks: Bool[Array, "#batch #queries #keys"] | None,
) -> Bool[Array, "batch queries keys"] | None:
    """The conjunction of the masks that are given."""
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    result = given[0]
    for mask in given[1:]:
        result = result & mask
    return result


def _collect(layer: type[nn.Module]) -> type[nn.Module]:
    """`layer` in the form that scan wants: the carry, and the same once more to be collected when asked for."""

    class Collecting(layer):  # pyright: ignore[reportGeneralTypeIssues]
        collect: bool = False

        def __call__(self, x: Array, *rest: Any) -> tuple[Array, Array | None]:
            x = super().__call__(x, *rest)
            return x, x if self.collect else None

    Collecting.__name__ = layer.__name__
    return Collecting


def scanned(layer: type[nn.Module], config: MetroConfig, length: int, num_broadcast: int) -> Any:
    """`layer` scanned over `length` stacked sets of parameters, with `num_broadcast` further arguments for all of them.

    The last of these must be `deterministic`, which stays a Python value when the layer is rematerialised.
    """
    body: Any = _collect(layer)
    if config.remat != "none":
        policy = REMAT_POLICIES[config.remat]
        body = nn.remat(body, policy=policy, prevent_cse=False, static_argnums=(num_broadcast + 1,))
    broadcast: Any = (nn.broadcast,) * num_broadcast
    return nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=broadcast,
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


class Stack(nn.Module):
    """The embedding front end that encoder, decoder and generator have in common (spec 2.1).

    Args:
        generator: initialise as the auxiliary model (spec 3.5).
        own_positions, own_norm: False where the generator uses the main encoder's (spec 3.2).
    """

    config: MetroConfig
    generator: bool = False
    own_positions: bool = True
    own_norm: bool = True
    collect: bool = False

    def setup(self) -> None:
        c = self.config
        if self.own_positions:
            init = normal(0.02**2) if self.generator else uniform((3 / (2 * c.d_model)) ** 0.5)
            boxed = named(with_zero_pad_row(init), "abspos_buckets", "embed")
            self.position_embedding = self.param("position_embedding", boxed, (c.position_rows, c.d_model))
        if self.own_norm:
            self.embedding_norm = layer_norm(c)
        self.dropout = Dropout(c.dropout_rate)

    def embed(
        self, embedding: Embedding, tokens: Tokens, rows: Tokens, deterministic: bool, main: "Stack | None" = None
    ) -> Hidden:
        """Token plus position vectors, normalised; `main` lends the position table or norm that this stack lacks."""
        lender = self if main is None else main
        table = (self if self.own_positions else lender).position_embedding
        norm = (self if self.own_norm else lender).embedding_norm
        dtype = self.config.dtype
        x = norm(look_up(embedding, tokens, dtype) + take_rows(table, rows, dtype))
        x = self.dropout(x, deterministic=deterministic)
        return with_logical_constraint(x, ("batch", "length", "embed"))


class Encoder(Stack):
    """Bidirectional stack with a relative bias in every layer; also the body of the generator (spec 3.1)."""

    def setup(self) -> None:
        super().setup()
        layer = scanned(EncoderLayer, self.config, self.config.num_encoder_layers, 3)
        self.layers = layer(self.config, self.generator, collect=self.collect)

    def __call__(
        self,
        embedding: Embedding,
        tokens: Tokens,
        mask: Mask | None = None,
        *,
        positions: Tokens | None = None,
        segment_ids: Tokens | None = None,
        deterministic: bool = True,
        main: Stack | None = None,
    ) -> tuple[Hidden, Float[Array, "layers batch length d_model"] | None]:
        """Output of the last layer, and of every one from the embedding on when `collect` is set."""
        c = self.config
        check_length(c, tokens.shape[1], "the encoder input")
        visible = visible_keys(c, tokens, mask)
        x = self.embed(embedding, tokens, position_rows(tokens, positions), deterministic, main)
        if c.padding == "training":
            x = jnp.where((tokens != PAD)[:, :, None], x, 0)
        keys = None if visible is None else visible[:, None, :]
        attention_mask = combine(keys, same_segment(segment_ids, segment_ids))
        buckets = relative_buckets(
            c.relative_attention_num_buckets, c.relative_attention_max_distance, c.max_positions, tokens.shape[1]
        )
        y, states = self.layers(x, attention_mask, jnp.asarray(buckets), deterministic)
        return y, None if states is None else jnp.concatenate([x[None], states])


class Decoder(Stack):
    """Causal stack with cross attention and no relative bias."""

    def setup(self) -> None:
        super().setup()
        layer = scanned(DecoderLayer, self.config, self.config.num_decoder_layers, 4)
        self.layers = layer(self.config, collect=self.collect)

    def __call__(
        self,
        embedding: Embedding,
        tokens: Tokens,
        encoded: Float[Array, "batch source d_model"],
        cross_mask: Bool[Array, "batch #length source"] | None,
        mask: Mask | None = None,
        *,
        positions: Tokens | None = None,
        segment_ids: Tokens | None = None,
        deterministic: bool = True,
    ) -> tuple[Hidden, Float[Array, "layers batch length d_model"] | None]:
        """Output of the last layer, and of every one from the embedding on when `collect` is set."""
        check_length(self.config, tokens.shape[1], "the decoder input")
        x = self.embed(embedding, tokens, position_rows(tokens, positions), deterministic)
        # Pads are hidden by id in both forms (spec 2.3).
        keys = tokens != PAD if mask is None else (tokens != PAD) & mask.astype(bool)
        causal = jnp.tril(jnp.ones((1, tokens.shape[1], tokens.shape[1]), bool))
        attention_mask = combine(causal, keys[:, None, :], same_segment(segment_ids, segment_ids))
        y, states = self.layers(x, attention_mask, encoded, cross_mask, deterministic)
        return y, None if states is None else jnp.concatenate([x[None], states])


class EncoderDecoder(nn.Module):
    """METRO-T0's main model: one token matrix for both inputs and the output (spec 2).

    With `collect`, the first axis of the hidden states runs over the embedding output and every layer.
    """

    config: MetroConfig
    collect: bool = dataclasses.field(default=False, kw_only=True)

    def setup(self) -> None:
        c = self.config
        # The output projection shares the matrix and is visited last by the reference, as a map into V (spec 3.5).
        boxed = named(normal(1 / (2 * c.vocab_size)), "vocab", "embed")
        self.token_embedding = self.param("token_embedding", boxed, (c.vocab_size, c.d_model))
        self.encoder = Encoder(c, collect=self.collect)
        self.decoder = Decoder(c, collect=self.collect)

    def __call__(
        self,
        encoder_tokens: Int[Array, "batch source"],
        decoder_tokens: Int[Array, "batch target"],
        encoder_mask: SourceMask | None = None,
        decoder_mask: TargetMask | None = None,
        **options: Any,
    ) -> Float[Array, "batch target vocab"]:
        """float32 logits; options as of `hidden_states`."""
        return self.project(
            self.hidden_states(encoder_tokens, decoder_tokens, encoder_mask, decoder_mask, **options)[1]
        )

    def hidden_states(
        self,
        encoder_tokens: Int[Array, "batch source"],
        decoder_tokens: Int[Array, "batch target"],
        encoder_mask: SourceMask | None = None,
        decoder_mask: TargetMask | None = None,
        *,
        encoder_positions: Int[Array, "batch source"] | None = None,
        decoder_positions: Int[Array, "batch target"] | None = None,
        encoder_segment_ids: Int[Array, "batch source"] | None = None,
        decoder_segment_ids: Int[Array, "batch target"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Array, Array | None, Array | None]:
        """Encoder output, decoder output, and all states of encoder and decoder when `collect` is set."""
        encoded, encoder_states = self.encoder(
            self.token_embedding,
            encoder_tokens,
            encoder_mask,
            positions=encoder_positions,
            segment_ids=encoder_segment_ids,
            deterministic=deterministic,
        )
        visible = visible_keys(self.config, encoder_tokens, encoder_mask)
        decoded, decoder_states = self.decoder(
            self.token_embedding,
            decoder_tokens,
            encoded,
            combine(
                None if visible is None else visible[:, None, :], same_segment(decoder_segment_ids, encoder_segment_ids)
            ),
            decoder_mask,
            positions=decoder_positions,
            segment_ids=decoder_segment_ids,
            deterministic=deterministic,
        )
        return encoded, decoded, encoder_states, decoder_states

    def encode(
        self, encoder_tokens: Int[Array, "batch source"], encoder_mask: SourceMask | None = None
    ) -> Float[Array, "batch source d_model"]:
        """Encoder output without dropout."""
        return self.encoder(self.token_embedding, encoder_tokens, encoder_mask)[0]

    def decode(
        self,
        decoder_tokens: Int[Array, "batch target"],
        encoded: Float[Array, "batch source d_model"],
        cross_mask: Bool[Array, "batch #target source"] | None,
    ) -> tuple[Float[Array, "batch target d_model"], Array | None]:
        """Decoder output on a given encoding, without dropout, and all states when `collect` is set."""
        return self.decoder(self.token_embedding, decoder_tokens, encoded, cross_mask)

    def project(self, hidden: Float[Array, "*batch d_model"]) -> Float[Array, "*batch vocab"]:
        """float32 logits: the token matrix once more, no bias, no scaling (spec 2.5)."""
        return project(self.token_embedding, hidden, self.config.dtype)


def project(embedding: Embedding, hidden: Float[Array, "*batch d_model"], dtype: Any) -> Float[Array, "*batch vocab"]:
    """hidden times the transposed token matrix, accumulated in float32."""
    hidden, embedding = hidden.astype(dtype), jnp.asarray(embedding, dtype)
    return einsum_to_float32("...d,vd->...v", hidden, embedding)


def init_params(config: MetroConfig, seed: int = 0) -> dict[str, Any]:
    """Freshly initialised parameters of the main model as a plain tree of float32 arrays (spec 3.5)."""
    one = jnp.ones((1, 1), jnp.int32)
    return nn.unbox(jax.jit(EncoderDecoder(config).init)(jax.random.key(seed), one, one))["params"]
