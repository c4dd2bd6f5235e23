"""Layers of the network: relative bias, attention, MLP, encoder and decoder layer (spec 2.2 to 2.4).

Every parameter carries logical axis names; a partitioner maps them to a mesh. Layers are written for one layer;
`network.py` scans them over a stacked leading axis.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.spmd import with_logical_constraint
from jaxtyping import Array, Bool, Float, Int, Num

from metro_jax.model.config import MetroConfig
from metro_jax.model.rows import drawn_by_device, is_hardware, kept_by_hardware, keys_by_row

# Finite, so that a row with no visible key gives an average rather than NaN; such rows are never read (spec 2.6).
MASKED_SCORE = float(np.finfo(np.float32).min)

Initializer = Any


def precision(dtype: Any) -> str:
    """float32 means float32: accelerators would else multiply in bfloat16 or TF32, and miss the reference by 1e-3."""
    return "highest" if jnp.dtype(dtype) == jnp.float32 else "default"


def einsum_to_float32(spec: str, x: Array, y: Array) -> Array:
    """einsum of two arrays of one dtype, accumulated and returned in float32.

    Its gradients are products in that dtype, as those of every other product: left to itself a float32 result is
    multiplied back in float32, which costs GPUs several times the product, and TPUs the memory traffic.
    """
    return _einsum_product(spec, x, y) if x.dtype == jnp.float32 else _einsum(spec, x, y)


def _einsum_product(spec: str, x: Array, y: Array) -> Array:
    return jnp.einsum(spec, x, y, precision=precision(x.dtype), preferred_element_type=jnp.float32)


def _einsum_forward(spec: str, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    return _einsum_product(spec, x, y), (x, y)


def _einsum_backward(spec: str, operands: tuple[Array, Array], g: Array) -> tuple[Array, ...]:
    x, y = operands
    g = g.astype(x.dtype)
    product = functools.partial(jnp.einsum, spec, precision=precision(x.dtype))
    (dx,) = jax.linear_transpose(lambda x: product(x, y), x)(g)
    (dy,) = jax.linear_transpose(lambda y: product(x, y), y)(g)
    return dx, dy


_einsum: Any = jax.custom_vjp(_einsum_product, nondiff_argnums=(0,))
_einsum.defvjp(_einsum_forward, _einsum_backward)


def attention_weights(scores: Float[Array, "... keys"], dtype: Any) -> Float[Array, "... keys"]:
    """Softmax over the keys in float32, as `dtype`.

    The backward pass starts from the weights as they are used, so that nothing is kept in float32 for it.
    """
    return _softmax(scores, dtype) if jnp.dtype(dtype) == jnp.float32 else _weights(scores, dtype)


def _softmax(scores: Array, dtype: Any) -> Array:
    return jax.nn.softmax(scores, axis=-1).astype(dtype)


def _weights_forward(scores: Array, dtype: Any) -> tuple[Array, Array]:
    weights = _softmax(scores, dtype)
    return weights, weights


def _weights_backward(dtype: Any, weights: Array, g: Array) -> tuple[Array]:
    del dtype
    weights, g = weights.astype(jnp.float32), g.astype(jnp.float32)
    return (weights * (g - jnp.sum(weights * g, axis=-1, keepdims=True)),)


_weights: Any = jax.custom_vjp(_softmax, nondiff_argnums=(1,))
_weights.defvjp(_weights_forward, _weights_backward)


def named(init: Initializer, *axes: str) -> Any:
    """`init` for a parameter whose axes have these logical names; a partitioner maps them to a mesh."""
    return nn.with_logical_partitioning(init, axes)


def normal(variance: float) -> Initializer:
    """Normal initialiser of the given variance."""
    return nn.initializers.normal(stddev=float(np.sqrt(variance)))


def uniform(bound: float) -> Initializer:
    """Uniform initialiser on [-bound, bound]."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def with_zero_pad_row(init: Initializer) -> Initializer:
    """Position tables start with a zero row for pads, row 1 (spec 2.1)."""

    def padded(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return init(key, shape, dtype).at[1].set(0.0)

    return padded


def relative_buckets(num_buckets: int, max_distance: int, max_positions: int, length: int) -> np.ndarray:
    """Bucket of every relative position -(length-1) .. length-1 of key to query, as int32[2 * length - 1] (spec 2.4).

    Evaluated on the host, once, in float32 as the reference does: the boundaries depend on it. The shift is that of a
    table of `max_positions`, whatever the length.
    """
    exact = num_buckets // 4
    top = num_buckets // 2 - 1 - exact

    def magnitude(distance: np.ndarray) -> np.ndarray:
        far = np.maximum(distance, exact).astype(np.float32) / np.float32(exact)
        scale = np.float32(np.log(np.float32((max_distance - 1) / exact)))
        far = exact + np.ceil(np.log(far) / scale * np.float32(top)).astype(np.int32)
        return np.where(distance < exact, distance, np.minimum(far, num_buckets // 2 - 1)).astype(np.int32)

    relative = np.arange(-(length - 1), length)
    shift = magnitude(np.asarray([max_positions - 1]))[0]
    buckets = np.sign(relative) * magnitude(np.abs(relative)) + shift
    # Sequences beyond max_positions would leave the table at its short end; the longest known distance stands for them.
    return np.clip(buckets, 0, 2 * shift).astype(np.int32)


def toeplitz(line: Num[Array, "heads two_length_minus_1"]) -> Num[Array, "heads length length"]:
    """out[h, i, j] = line[h, j - i + length - 1], by reshaping: no gather forward, no scatter backward."""
    heads, width = line.shape
    length = (width + 1) // 2
    if length == 1:
        return line[:, :, None]
    # The line written `length` times over and read back in rows one shorter than it: each row starts one earlier.
    start = length - 1
    rows = jnp.tile(line, (1, length))[:, start : start + length * (width - 1)]
    return rows.reshape(heads, length, width - 1)[:, :, :length]


def relative_bias(
    table: Float[Array, "buckets heads"], buckets: Int[Array, "two_length_minus_1"]
) -> Float[Array, "heads length length"]:
    """Bias of every query and key, float32, from the table and the bucket of every distance.

    Both forms take rows of the table by a product with one-hot rows: its gradient is a product too, where a gather's
    would be a scatter. On TPU the product makes the whole bias: `toeplitz` costs several copies of it there, since rows
    of an odd width do not fit the tiles, and the compiler most of a layer's time (docs/tpu_plan.md).
    """
    length = (buckets.shape[0] + 1) // 2

    def whole(table: Array, buckets: Array) -> Array:
        relative = jnp.arange(length)[None, :] - jnp.arange(length)[:, None] + length - 1
        one_hot = buckets[relative][None] == jnp.arange(table.shape[0])[:, None, None]
        return jnp.einsum("bh,bqk->hqk", table, one_hot.astype(jnp.float32), precision="highest")

    def by_distance(table: Array, buckets: Array) -> Array:
        one_hot = jax.nn.one_hot(buckets, table.shape[0], dtype=jnp.float32)
        return toeplitz(jnp.einsum("rb,bh->hr", one_hot, table, precision="highest"))

    table = jnp.asarray(table, jnp.float32)
    return jax.lax.platform_dependent(table, jnp.asarray(buckets), tpu=whole, default=by_distance)


def take_rows(table: Float[Array, "rows width"], index: Int[Array, "*batch"], dtype: Any) -> Array:
    """table[index] of a short table, as `dtype`; on TPU as a product, since a look-up's gradient is a scatter there."""

    def product(table: Array, index: Array) -> Array:
        one_hot = jax.nn.one_hot(index, table.shape[0], dtype=dtype)
        return jnp.einsum("...v,vd->...d", one_hot, table.astype(dtype), precision=precision(dtype))

    def rows(table: Array, index: Array) -> Array:
        return look_up(table, index, dtype)

    return jax.lax.platform_dependent(jnp.asarray(table), index, tpu=product, default=rows)


def look_up(table: Float[Array, "rows width"], index: Int[Array, "*batch"], dtype: Any) -> Array:
    """table[index] as `dtype`, cast after the look-up: so the gradient adds up the uses of a row in float32.

    In bfloat16 the thousands of uses of the mask token would lose bits, and a GPU adds far more slowly
    (docs/performance.md).
    """
    return jnp.take(jnp.asarray(table), index, axis=0).astype(dtype)


class Dropout(nn.Module):
    """Zeroes a share `rate` of x and scales up the rest; every row of the batch has its own key, or with
    keys of the hardware every device (`rows.py`)."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], deterministic: bool = True) -> Float[Array, "batch ..."]:
        if deterministic or self.rate == 0.0:
            return x
        key = self.make_rng("dropout")
        if is_hardware(key):
            kept = drawn_by_device(functools.partial(kept_by_hardware, 1.0 - self.rate), key, x.shape)
        else:
            keys = keys_by_row(key, x.shape[0])
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.rate, x.shape[1:]))(keys)
        return jnp.where(kept, x / jnp.asarray(1.0 - self.rate, x.dtype), 0)


class Dense(nn.Module):
    """y = x W + b over the last `len(in_axes)` axes of x.

    Args:
        shape: of the kernel, input axes first.
        axes: logical names of the kernel's axes.
        num_inputs: how many leading kernel axes are contracted.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    kernel_init: Initializer
    num_inputs: int = 1
    dtype: Any = jnp.float32
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        n = self.num_inputs
        kernel = self.param("kernel", named(self.kernel_init, *self.axes), self.shape)
        bias = self.param("bias", named(self.bias_init, *self.axes[n:]), self.shape[n:])
        contracted = (tuple(range(x.ndim - n, x.ndim)), tuple(range(n)))
        x, kernel = x.astype(self.dtype), jnp.asarray(kernel, self.dtype)
        y = jax.lax.dot_general(x, kernel, (contracted, ((), ())), precision=precision(self.dtype))
        return y + jnp.asarray(bias, self.dtype)


def layer_norm(config: MetroConfig, name: str | None = None) -> nn.LayerNorm:
    """Ordinary LayerNorm, statistics in float32 and variance in two passes as the reference (spec 2.2)."""
    return nn.LayerNorm(
        epsilon=config.layer_norm_epsilon,
        dtype=config.dtype,
        use_fast_variance=False,
        scale_init=named(nn.initializers.ones_init(), "embed"),
        bias_init=named(nn.initializers.zeros_init(), "embed"),
        name=name,
    )


def clamp_float16(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The Hub form's guard: float16 states that hold an infinity are clamped to +-(65504 - 1000) (spec 2.8)."""
    if x.dtype != jnp.float16:
        return x
    bound = jnp.where(jnp.isinf(x).any(), 65504 - 1000, 65504).astype(x.dtype)
    return jnp.clip(x, -bound, bound)


class Attention(nn.Module):
    """Multi-head attention (spec 2.3); projections and core are separate so that decoding can cache keys and values.

    `generator` selects the BERT initialisation of the auxiliary model (spec 3.5).
    """

    config: MetroConfig
    generator: bool = False

    def setup(self) -> None:
        c = self.config
        # Both fans are read from the output dimension, as the reference does (spec 3.5).
        init = normal(0.02**2 if self.generator else 1 / (2 * c.d_model))
        heads = functools.partial(
            Dense, (c.d_model, c.num_heads, c.head_dim), ("embed", "heads", "kv"), init, dtype=c.dtype
        )
        self.query, self.key, self.value = heads(), heads(), heads()
        out_shape, out_axes = (c.num_heads, c.head_dim, c.d_model), ("heads", "kv", "embed")
        self.out = Dense(out_shape, out_axes, init, num_inputs=2, dtype=c.dtype)
        self.dropout = Dropout(c.attention_dropout_rate)

    def keys_values(self, x: Float[Array, "batch keys d_model"]) -> tuple[Array, Array]:
        """Projected keys and values, each [batch, keys, heads, head_dim]."""
        names = ("batch", "length", "heads", "kv")
        return (
            with_logical_constraint(self.key(x), names),
            with_logical_constraint(self.value(x), names),
        )

    def attend(
        self,
        x: Float[Array, "batch queries d_model"],
        key: Float[Array, "batch keys heads head_dim"],
        value: Float[Array, "batch keys heads head_dim"],
        mask: Bool[Array, "batch #queries keys"] | None,
        bias: Float[Array, "heads queries keys"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch queries d_model"]:
        """Attention of x to given keys and values; `mask` is True where a key is visible."""
        query = self.query(x) * jnp.asarray(self.config.head_dim**-0.5, self.config.dtype)
        query = with_logical_constraint(query, ("batch", "length", "heads", "kv"))
        exact = precision(self.config.dtype)
        scores = einsum_to_float32("bqhk,bshk->bhqs", query, key)
        if bias is not None:
            scores = scores + bias[None].astype(jnp.float32)
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, MASKED_SCORE)
        weights = attention_weights(scores, self.config.dtype)
        weights = self.dropout(weights, deterministic=deterministic)
        attended = jnp.einsum("bhqs,bshk->bqhk", weights, value, precision=exact)
        attended = with_logical_constraint(attended, ("batch", "length", "heads", "kv"))
        return self.out(attended)

    def __call__(
        self,
        x: Float[Array, "batch queries d_model"],
        source: Float[Array, "batch keys d_model"],
        mask: Bool[Array, "batch #queries keys"] | None,
        bias: Float[Array, "heads queries keys"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch queries d_model"]:
        return self.attend(x, *self.keys_values(source), mask, bias, deterministic)


class Mlp(nn.Module):
    """Two linear maps with ReLU between them (spec 2.2)."""

    config: MetroConfig
    generator: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length d_model"], deterministic: bool = True
    ) -> Float[Array, "batch length d_model"]:
        c = self.config
        wi_init = normal(0.02**2 if self.generator else 1 / (2 * c.d_ff))
        wo_init = normal(0.02**2 if self.generator else 1 / (2 * c.d_model))
        hidden = nn.relu(Dense((c.d_model, c.d_ff), ("embed", "mlp"), wi_init, dtype=c.dtype, name="wi")(x))
        hidden = Dropout(c.mlp_dropout_rate)(hidden, deterministic=deterministic)
        hidden = with_logical_constraint(hidden, ("batch", "length", "mlp"))
        return Dense((c.d_ff, c.d_model), ("mlp", "embed"), wo_init, dtype=c.dtype, name="wo")(hidden)


class EncoderLayer(nn.Module):
    """Self attention with the layer's own relative bias, then the MLP; LayerNorm after each sum (spec 2.2, 2.4)."""

    config: MetroConfig
    generator: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length d_model"],
        mask: Bool[Array, "batch #length length"] | None,
        buckets: Int[Array, "two_length_minus_1"],
        deterministic: bool = True,
    ) -> Float[Array, "batch length d_model"]:
        c = self.config
        init = normal(0.02**2) if self.generator else nn.initializers.zeros_init()
        table = self.param(
            "relative_bias",
            named(init, "relpos_buckets", "heads"),
            (c.relative_attention_num_buckets, c.num_heads),
        )
        bias = relative_bias(table, buckets)
        drop = Dropout(c.dropout_rate)
        attended = Attention(c, self.generator, name="self_attention")(x, x, mask, bias, deterministic)
        x = clamp_float16(layer_norm(c, "self_attention_norm")(x + drop(attended, deterministic=deterministic)))
        y = Mlp(c, self.generator, name="mlp")(x, deterministic)
        x = clamp_float16(layer_norm(c, "mlp_norm")(x + drop(y, deterministic=deterministic)))
        return with_logical_constraint(x, ("batch", "length", "embed"))


class DecoderLayer(nn.Module):
    """Causal self attention without bias, cross attention, MLP; LayerNorm after each sum (spec 2.2, 2.3)."""

    config: MetroConfig

    def setup(self) -> None:
        c = self.config
        self.self_attention = Attention(c)
        self.cross_attention = Attention(c)
        self.mlp = Mlp(c)
        self.self_attention_norm = layer_norm(c)
        self.cross_attention_norm = layer_norm(c)
        self.mlp_norm = layer_norm(c)
        self.drop = Dropout(c.dropout_rate)

    def finish(
        self, x: Array, attended: Array, cross: tuple[Array, Array], cross_mask: Array | None, det: bool
    ) -> Array:
        """Everything after self attention; shared by the full pass and the cached step."""
        x = clamp_float16(self.self_attention_norm(x + self.drop(attended, deterministic=det)))
        y = self.cross_attention.attend(x, *cross, cross_mask, deterministic=det)
        x = clamp_float16(self.cross_attention_norm(x + self.drop(y, deterministic=det)))
        y = self.mlp(x, det)
        x = clamp_float16(self.mlp_norm(x + self.drop(y, deterministic=det)))
        return with_logical_constraint(x, ("batch", "length", "embed"))

    def __call__(
        self,
        x: Float[Array, "batch length d_model"],
        mask: Bool[Array, "batch length length"],
        encoded: Float[Array, "batch source d_model"],
        cross_mask: Bool[Array, "batch #length source"] | None,
        deterministic: bool = True,
    ) -> Float[Array, "batch length d_model"]:
        attended = self.self_attention(x, x, mask, deterministic=deterministic)
        return self.finish(x, attended, self.cross_attention.keys_values(encoded), cross_mask, deterministic)

    def step(
        self,
        x: Float[Array, "rows 1 d_model"],
        self_cache: tuple[Array, Array],
        cross: tuple[Array, Array],
        index: Int[Array, ""],
        mask: Bool[Array, "rows 1 max_length"],
        cross_mask: Bool[Array, "rows 1 source"],
    ) -> tuple[Array, tuple[Array, Array]]:
        """One cached position: writes this position's key and value at `index` and attends to what is visible."""
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(cache, new, index, axis=1)
            for cache, new in zip(self_cache, self.self_attention.keys_values(x), strict=True)
        )
        attended = self.self_attention.attend(x, keys, values, mask)
        return self.finish(x, attended, cross, cross_mask, True), (keys, values)

    def cross_keys_values(self, encoded: Float[Array, "batch source d_model"]) -> tuple[Array, Array]:
        """Keys and values of cross attention, computed once per source."""
        return self.cross_attention.keys_values(encoded)
