"""Cached decoding in functional style: one position at a time, on the weights of `serving.py`.

Every layer's cache is an array of its own that XLA updates in place, where a scan over layers would rewrite the whole
stack for each token.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from metro_jax.model.config import PAD_POSITION, MetroConfig
from metro_jax.model.network import PAD, check_length
from metro_jax.model.serving import (
    Weights,
    attend,
    finish,
    heads,
    layer_function,
    linear,
    look_up,
    norm,
    prepare_decoder,
    project,
)

KeysValues = tuple[Float[Array, "rows heads length head_dim"], Float[Array, "rows heads length head_dim"]]


class CrossCache(NamedTuple):
    """What depends on the source only: never written while decoding, and shared by all beams of a source."""

    layers: tuple[KeysValues, ...]
    visible: Bool[Array, "sources source"]


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
    """The cache with other rows of the past, within groups of beams: what the source gave is the same for a group."""
    return cache._replace(past=jax.tree.map(lambda x: x[rows], cache.past))


def unstack_decoder(params: dict[str, Any], config: MetroConfig) -> dict[str, Any]:
    """The decoder's weights as `serving.py` arranges them; do this once, outside the loop over tokens."""
    if isinstance(params["decoder"]["layers"], tuple):
        return params
    return prepare_decoder(params, config)


def init_cache(
    params: dict[str, Any],
    config: MetroConfig,
    encoded: Float[Array, "rows source d_model"],
    encoder_mask: Bool[Array, "rows source"],
    max_length: int,
) -> Cache:
    """An empty cache for `max_length` decoder tokens, with keys and values of the source in place."""
    check_length(config, max_length, "the generated text")
    layers = unstack_decoder(params, config)["decoder"]["layers"]
    rows, shape = encoded.shape[0], (encoded.shape[0], config.num_heads, max_length, config.head_dim)
    empty = tuple((jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)) for _ in layers)
    cross: Any = tuple(heads(linear(layer["cross"], encoded, config), config) for layer in layers)
    past = SelfCache(empty, jnp.zeros((rows, max_length), bool))
    return Cache(past, CrossCache(cross, encoder_mask.astype(bool)), jnp.zeros((), jnp.int32))


@layer_function
def step_layer(
    layer: Weights,
    x: Float[Array, "rows 1 d_model"],
    past: KeysValues,
    visible: Bool[Array, "rows max_length"],
    cross: Any,
    cross_visible: Bool[Array, "sources source"],
    index: Int[Array, ""],
    config: MetroConfig,
) -> tuple[Float[Array, "rows 1 d_model"], KeysValues]:
    """A layer's output for one more token per row, and its keys and values with that token's."""
    query, *new = heads(linear(layer["self"], x, config), config)
    keys, values = (
        jax.lax.dynamic_update_slice_in_dim(old, one, index, axis=2) for old, one in zip(past, new, strict=True)
    )
    attended, _ = attend(query, keys, values, visible[:, None, :], config)
    return finish(layer, x, attended, cross, cross_visible[:, None, :], config), (keys, values)


def decode_step(
    params: dict[str, Any], config: MetroConfig, tokens: Int[Array, "rows"], cache: Cache
) -> tuple[Float[Array, "rows vocab"], Cache]:
    """float32 logits after one more token per row.

    The position row counts all earlier tokens, pads included, as the reference's incremental form does (spec 2.1); a
    row that has ended feeds pads, and what it computes is never read.
    """
    weights = unstack_decoder(params, config)
    decoder = weights["decoder"]
    visible = jax.lax.dynamic_update_slice_in_dim(cache.past.visible, (tokens != PAD)[:, None], cache.index, axis=1)
    position = decoder["position_embedding"][cache.index + PAD_POSITION + 1]
    x = look_up(weights["token_embedding"], tokens, config) + position.astype(config.dtype)
    x = norm(decoder["embedding_norm"], x[:, None, :], config)
    written: list[Any] = []
    for layer, past, cross in zip(decoder["layers"], cache.past.layers, cache.cross.layers, strict=True):
        x, own = step_layer(layer, x, past, visible, cross, cache.cross.visible, cache.index, config=config)
        written.append(own)
    past = SelfCache(tuple(written), visible)
    return project(weights["token_embedding"], x[:, 0]), Cache(past, cache.cross, cache.index + 1)
