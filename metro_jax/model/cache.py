"""Cached decoding in functional style: one position at a time, layer by layer, on the same layers as the network.

The layers are walked rather than scanned: every layer's cache is then an array of its own that XLA updates in place,
where a scan would rewrite the whole stack for each token.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from metro_jax.model.config import PAD_POSITION, MetroConfig
from metro_jax.model.layers import DecoderLayer, layer_norm
from metro_jax.model.network import PAD, check_length, project

KeysValues = tuple[Float[Array, "rows length heads head_dim"], Float[Array, "rows length heads head_dim"]]


class CrossCache(NamedTuple):
    """What depends on the source only: the same for all beams of a row, never written while decoding."""

    layers: tuple[KeysValues, ...]
    visible: Bool[Array, "rows source"]


class SelfCache(NamedTuple):
    """What grows with every token: keys and values per layer, and which of them are not pads."""

    layers: tuple[KeysValues, ...]
    visible: Bool[Array, "rows max_length"]


class Cache(NamedTuple):
    """State of cached decoding; every array has the rows first, `index` counts the tokens consumed so far."""

    past: SelfCache
    cross: CrossCache
    index: Int[Array, ""]


def reorder(cache: Cache, rows: Int[Array, "rows"]) -> Cache:
    """The cache with its rows exchanged within groups of beams: what the source gave is the same for all of a group."""
    return cache._replace(past=jax.tree.map(lambda x: x[rows], cache.past))


def unstack_decoder(params: dict[str, Any], config: MetroConfig) -> dict[str, Any]:
    """The decoder's side of the parameters with its layers as a tuple; do this once, outside the loop over tokens."""
    decoder = params["decoder"]
    if isinstance(decoder["layers"], tuple):
        return params
    layers = tuple(jax.tree.map(lambda p, i=i: p[i], decoder["layers"]) for i in range(config.num_decoder_layers))
    return {"token_embedding": params["token_embedding"], "decoder": {**decoder, "layers": layers}}


def init_cache(
    params: dict[str, Any],
    config: MetroConfig,
    encoded: Float[Array, "rows source d_model"],
    encoder_mask: Bool[Array, "rows source"],
    max_length: int,
) -> Cache:
    """An empty cache for `max_length` decoder tokens, with keys and values of the source in place."""
    check_length(config, max_length, "the generated text")
    params = unstack_decoder(params, config)
    rows, shape = encoded.shape[0], (encoded.shape[0], max_length, config.num_heads, config.head_dim)
    empty = tuple((jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)) for _ in params["decoder"]["layers"])
    cross: Any = tuple(
        DecoderLayer(config).apply({"params": layer}, encoded, method="cross_keys_values")
        for layer in params["decoder"]["layers"]
    )
    past = SelfCache(empty, jnp.zeros((rows, max_length), bool))
    return Cache(past, CrossCache(cross, encoder_mask.astype(bool)), jnp.zeros((), jnp.int32))


def decode_step(
    params: dict[str, Any], config: MetroConfig, tokens: Int[Array, "rows"], cache: Cache
) -> tuple[Float[Array, "rows vocab"], Cache]:
    """float32 logits after one more token per row.

    The position row counts all earlier tokens, pads included, as the reference's incremental form does (spec 2.1); a
    row that has ended feeds pads, and what it computes is never read.
    """
    params = unstack_decoder(params, config)
    decoder, dtype = params["decoder"], config.dtype
    visible = jax.lax.dynamic_update_slice_in_dim(cache.past.visible, (tokens != PAD)[:, None], cache.index, axis=1)
    position = decoder["position_embedding"][cache.index + PAD_POSITION + 1]
    x: Any = params["token_embedding"][tokens].astype(dtype) + position.astype(dtype)
    x = layer_norm(config).apply({"params": decoder["embedding_norm"]}, x[:, None, :])
    layers: list[Any] = []
    for layer, past, cross in zip(decoder["layers"], cache.past.layers, cache.cross.layers, strict=True):
        masks = visible[:, None, :], cache.cross.visible[:, None, :]
        stepped: Any = DecoderLayer(config).apply({"params": layer}, x, past, cross, cache.index, *masks, method="step")
        x, written = stepped
        layers.append(written)
    past = SelfCache(tuple(layers), visible)
    return project(params["token_embedding"], x[:, 0], dtype), Cache(past, cache.cross, cache.index + 1)
