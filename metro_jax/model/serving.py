"""The network for inference: the same function as `network.py`, on weights arranged once for speed.

Layers are unstacked (a scan would copy each layer's slice of the stack), query, key and value are one product, and
kernels are [out, in], so that every output is a dot product of two contiguous rows: with one row of activations the
time is that of reading the weights. Kernels may be int8 (`int8.py`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from metro_jax.model.config import MetroConfig
from metro_jax.model.int8 import int8_matmul, quantize
from metro_jax.model.layers import MASKED_SCORE, clamp_float16, layer_norm
from metro_jax.model.network import PAD, check_length, position_rows, visible_keys
from metro_jax.model.operations import precision
from metro_jax.model.products import matmul
from metro_jax.model.relative_position import relative_bias, relative_buckets

Weights = dict[str, Any]
ATTENTION_PARTS = ("query", "key", "value")
HIDDEN_SCORE = MASKED_SCORE / 2  # swallows any score it is added to, and stays finite with it


def prepare(params: dict[str, Any], config: MetroConfig, int8: bool = False) -> Weights:
    """The main model's parameters as this module's functions take them; NumPy in, NumPy out, and traceable."""
    decoder = prepare_decoder(params, config, int8)
    layers = _unstack(params["encoder"]["layers"], config.num_encoder_layers)
    encoder = [
        _block(layer, config, int8, {"self": ATTENTION_PARTS}) | {"relative_bias": layer["relative_bias"]}
        for layer in layers
    ]
    return {**decoder, "encoder": _stack_parts(params["encoder"], encoder, config)}


def prepare_decoder(params: dict[str, Any], config: MetroConfig, int8: bool = False) -> Weights:
    """The decoder's part of `prepare`: all that a step of decoding reads."""
    layers = _unstack(params["decoder"]["layers"], config.num_decoder_layers)
    # Cross attention's query comes from the decoder, keys and values from the source.
    groups = {"self": ATTENTION_PARTS, "cross_query": ("query",), "cross": ("key", "value")}
    decoder = [_block(layer, config, int8, groups) for layer in layers]
    table = params["token_embedding"]
    embedding = quantize(table) if int8 else {"kernel": _cast(table, config)}
    return {"token_embedding": embedding, "decoder": _stack_parts(params["decoder"], decoder, config)}


def restore(weights: Weights, config: MetroConfig) -> dict[str, Any]:
    """The stacked parameter tree that `prepare` was given, in the dtype of the computation."""
    params: dict[str, Any] = {"token_embedding": weights["token_embedding"]["kernel"]}
    for side in ("encoder", "decoder"):
        layers = [_unblock(layer, config) for layer in weights[side]["layers"]]
        stacked = jax.tree.map(lambda *leaves: _xp(leaves[0]).stack(leaves), *layers)
        params[side] = {**weights[side], "layers": stacked}
    return params


def _xp(array: Any) -> Any:
    return np if isinstance(array, np.ndarray) else jnp


def _cast(array: Any, config: MetroConfig) -> Any:
    return array.astype(jnp.dtype(config.dtype))


def _unstack(layers: Any, count: int) -> list[Any]:
    return [jax.tree.map(lambda p, i=i: p[i], layers) for i in range(count)]


def _stack_parts(side: dict[str, Any], layers: list[Weights], config: MetroConfig) -> Weights:
    norm = jax.tree.map(lambda p: _cast(p, config), side["embedding_norm"])
    return {
        "position_embedding": _cast(side["position_embedding"], config),
        "embedding_norm": norm,
        "layers": tuple(layers),
    }


def _block(layer: Any, config: MetroConfig, int8: bool, groups: dict[str, tuple[str, ...]]) -> Weights:
    """One layer. `groups`: name of a product -> the projections of an attention that it joins."""

    def linear(kernels: list[Any], biases: list[Any]) -> Weights:
        joined = _xp(kernels[0]).concatenate(kernels)
        bias = _xp(biases[0]).concatenate([bias.reshape(-1) for bias in biases])
        kernel = quantize(joined) if int8 else {"kernel": _cast(joined, config)}
        return {**kernel, "bias": _cast(bias, config)}

    block: Weights = {}
    for name, parts in groups.items():
        attention = layer[f"{name.partition('_')[0]}_attention"]
        kernels = [attention[part]["kernel"].reshape(config.d_model, -1).T for part in parts]
        block[name] = linear(kernels, [attention[part]["bias"] for part in parts])
    for name in ("self", "cross") if "cross" in groups else ("self",):
        out = layer[f"{name}_attention"]["out"]
        block[f"{name}_out"] = linear([out["kernel"].reshape(-1, config.d_model).T], [out["bias"]])
    for name in ("wi", "wo"):
        block[name] = linear([layer["mlp"][name]["kernel"].T], [layer["mlp"][name]["bias"]])
    norms = [name for name in layer if name.endswith("_norm")]
    return block | {name: jax.tree.map(lambda p: _cast(p, config), layer[name]) for name in norms}


def _unblock(block: Weights, config: MetroConfig) -> Any:
    heads = (config.num_heads, config.head_dim)

    def split(*names: str) -> list[dict[str, Any]]:
        kernels = [k for name in names for k in block[name]["kernel"].reshape(-1, config.d_model, config.d_model)]
        biases = [b for name in names for b in block[name]["bias"].reshape(-1, *heads)]
        pairs = zip(kernels, biases, strict=True)
        return [{"kernel": kernel.T.reshape(-1, *heads), "bias": bias} for kernel, bias in pairs]

    layer: dict[str, Any] = {name: block[name] for name in block if name.endswith("_norm") or name == "relative_bias"}
    for name in ("self", "cross") if "cross" in block else ("self",):
        parts = split("self") if name == "self" else split("cross_query", "cross")
        out = {"kernel": block[f"{name}_out"]["kernel"].T.reshape(*heads, -1), "bias": block[f"{name}_out"]["bias"]}
        layer[f"{name}_attention"] = {**dict(zip(ATTENTION_PARTS, parts, strict=True)), "out": out}
    mlp = {name: {"kernel": block[name]["kernel"].T, "bias": block[name]["bias"]} for name in ("wi", "wo")}
    return {**layer, "mlp": mlp}


def linear(weights: Weights, x: Float[Array, "*batch in"], config: MetroConfig) -> Float[Array, "*batch out"]:
    """Product and bias, whatever the kernel is stored in."""
    flat = x.reshape(-1, x.shape[-1])
    if "scale" in weights:
        y = int8_matmul(flat, weights["kernel"], weights["scale"]).astype(config.dtype)
    else:
        y = matmul(flat, weights["kernel"])
    return (y + weights["bias"]).reshape(*x.shape[:-1], -1)


def look_up(weights: Weights, tokens: Int[Array, "*batch"], config: MetroConfig) -> Float[Array, "*batch d_model"]:
    """Rows of the token matrix."""
    rows = jnp.take(weights["kernel"], tokens, axis=0).astype(config.dtype)
    return rows * weights["scale"][tokens][..., None].astype(config.dtype) if "scale" in weights else rows


def project(weights: Weights, hidden: Float[Array, "*batch d_model"]) -> Float[Array, "*batch vocab"]:
    """float32 logits: the token matrix once more (spec 2.5)."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    if "scale" in weights:
        logits = int8_matmul(flat, weights["kernel"], weights["scale"])
    else:
        logits = matmul(flat, weights["kernel"], jnp.float32)
    return logits.reshape(*hidden.shape[:-1], -1)


def norm(weights: Any, x: Array, config: MetroConfig) -> Array:
    """LayerNorm, with the guard of float16 that follows every sublayer."""
    y: Any = layer_norm(config).apply({"params": weights}, x)
    return clamp_float16(y)


def heads(x: Float[Array, "batch length width"], config: MetroConfig) -> Any:
    """A tuple of the joined projections apart, each [batch, heads, length, head_dim]."""
    batch, length, width = x.shape
    parts = jnp.split(x, width // config.d_model, axis=-1)
    return tuple(p.reshape(batch, length, config.num_heads, config.head_dim).transpose(0, 2, 1, 3) for p in parts)


def attention_weights(
    query: Float[Array, "batch heads queries head_dim"],
    key: Float[Array, "batch heads keys head_dim"],
    mask: Bool[Array, "batch #queries keys"] | None,
    config: MetroConfig,
    bias: Float[Array, "heads queries keys"] | None = None,
) -> tuple[Float[Array, "batch heads queries keys"], Float[Array, "batch heads queries 1"]]:
    """How much each query takes from each key, and the sum by which that is still to be divided, in float32.

    Spec 2.3; `mask` is True where a key is visible.
    """
    query = query * jnp.asarray(config.head_dim**-0.5, query.dtype)
    exact = precision(config.dtype)
    scores = jnp.einsum("bhqk,bhsk->bhqs", query, key, precision=exact, preferred_element_type=jnp.float32)
    # One sum: the scores of many rows are larger than a processor's cache, and every pass over them counts.
    added = None if bias is None else bias[None]
    if mask is not None:
        hidden = jnp.where(mask, 0.0, HIDDEN_SCORE)[:, None]
        added = hidden if added is None else hidden + added
    scores = scores if added is None else scores + added
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return weights, jnp.sum(weights, axis=-1, keepdims=True)


def attend(
    query: Float[Array, "batch heads queries head_dim"],
    key: Float[Array, "batch heads keys head_dim"],
    value: Float[Array, "batch heads keys head_dim"],
    mask: Bool[Array, "batch #queries keys"] | None,
    config: MetroConfig,
    bias: Float[Array, "heads queries keys"] | None = None,
) -> tuple[Float[Array, "batch queries d_model"], Float[Array, "batch heads queries keys"]]:
    """What is attended to, and the weights of it (spec 2.3)."""
    weights, total = attention_weights(query, key, mask, config, bias)
    # Divided after the product, where there are fewer numbers.
    attended = jax.lax.dot_general(
        weights.astype(config.dtype),
        value,
        (((3,), (2,)), ((0, 1), (0, 1))),
        precision=precision(config.dtype),
        preferred_element_type=jnp.float32,
    )
    attended = (attended / total).astype(config.dtype).transpose(0, 2, 1, 3)
    return attended.reshape(*attended.shape[:2], -1), weights / total


def mlp(layer: Weights, x: Array, config: MetroConfig) -> Array:
    """The two linear maps with ReLU between them, residual and norm."""
    y = linear(layer["wo"], jax.nn.relu(linear(layer["wi"], x, config)), config)
    return norm(layer["mlp_norm"], x + y, config)


# Layers are functions of their own to JAX: a program traces and lowers one of each kind, not all of them, and XLA puts
# them in line.
layer_function = functools.partial(jax.jit, static_argnames="config")


@layer_function
def encoder_layer(
    layer: Weights,
    x: Float[Array, "batch source d_model"],
    keys: Bool[Array, "batch 1 source"] | None,
    buckets: Int[Array, "two_source_minus_1"],
    config: MetroConfig,
) -> tuple[Float[Array, "batch source d_model"], Float[Array, "batch heads source source"]]:
    """Output of a layer, and its attention weights."""
    bias = relative_bias(layer["relative_bias"], buckets)
    query, key, value = heads(linear(layer["self"], x, config), config)
    attended, weights = attend(query, key, value, keys, config, bias)
    x = norm(layer["self_attention_norm"], x + linear(layer["self_out"], attended, config), config)
    return mlp(layer, x, config), weights


def encode(
    weights: Weights,
    config: MetroConfig,
    tokens: Int[Array, "batch source"],
    mask: Bool[Array, "batch source"] | None,
    seen: list[Array] | None = None,
) -> Float[Array, "batch source d_model"]:
    """Encoder output (spec 2.1 to 2.4); the attention weights of every layer are appended to `seen`."""
    side, length = weights["encoder"], tokens.shape[1]
    check_length(config, length, "the encoder input")
    x = look_up(weights["token_embedding"], tokens, config)
    x = norm(side["embedding_norm"], x + side["position_embedding"][position_rows(tokens)], config)
    if config.padding == "training":
        x = jnp.where((tokens != PAD)[:, :, None], x, 0)
    visible = visible_keys(config, tokens, mask)
    keys = None if visible is None else visible[:, None, :]
    buckets = relative_buckets(
        config.relative_attention_num_buckets, config.relative_attention_max_distance, config.max_positions, length
    )
    for layer in side["layers"]:
        x, taken = encoder_layer(layer, x, keys, jnp.asarray(buckets), config=config)
        if seen is not None:
            seen.append(taken)
    return x


def finish(layer: Weights, x: Array, attended: Array, cross: Any, cross_mask: Array, config: MetroConfig) -> Array:
    """Everything of a decoder layer that follows self attention.

    Args:
        cross: keys and values of the sources; several rows of x in a row may belong to one of them, as beams do.
    """
    x = norm(layer["self_attention_norm"], x + linear(layer["self_out"], attended, config), config)
    grouped = x.reshape(cross[0].shape[0], -1, x.shape[-1])
    (query,) = heads(linear(layer["cross_query"], grouped, config), config)
    key, value = cross
    attended = linear(layer["cross_out"], attend(query, key, value, cross_mask, config)[0], config)
    x = norm(layer["cross_attention_norm"], x + attended.reshape(x.shape), config)
    return mlp(layer, x, config)


@layer_function
def decoder_layer(
    layer: Weights,
    x: Float[Array, "batch length d_model"],
    mask: Bool[Array, "batch length length"],
    encoded: Float[Array, "batch source d_model"],
    cross_mask: Bool[Array, "batch source"],
    config: MetroConfig,
) -> Float[Array, "batch length d_model"]:
    """Output of a layer for all positions at once."""
    query, key, value = heads(linear(layer["self"], x, config), config)
    attended, _ = attend(query, key, value, mask, config)
    cross = heads(linear(layer["cross"], encoded, config), config)
    return finish(layer, x, attended, cross, cross_mask[:, None, :], config)


def decode(
    weights: Weights,
    config: MetroConfig,
    tokens: Int[Array, "batch length"],
    rows: Int[Array, "batch length"],
    mask: Bool[Array, "batch length length"],
    encoded: Float[Array, "batch source d_model"],
    cross_mask: Bool[Array, "batch source"],
) -> Float[Array, "batch length d_model"]:
    """Decoder output for all positions at once; `mask` says which position sees which, `rows` where each one stands."""
    side = weights["decoder"]
    x = look_up(weights["token_embedding"], tokens, config)
    x = norm(side["embedding_norm"], x + side["position_embedding"][rows], config)
    for layer in side["layers"]:
        x = decoder_layer(layer, x, mask, encoded, cross_mask, config=config)
    return x
