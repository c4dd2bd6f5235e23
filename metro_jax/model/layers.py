"""Layers of the network: attention, MLP, encoder and decoder layer (spec 2.2 to 2.4).

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
from jaxtyping import Array, Bool, Float, Int

from metro_jax.model.config import MetroConfig
from metro_jax.model.operations import attention_weights, einsum_to_float32, precision
from metro_jax.model.relative_position import relative_bias
from metro_jax.model.rows import drawn_by_device, is_hardware, kept_by_hardware, keys_by_row

# Finite, so that a row with no visible key gives an average rather than NaN; such rows are never read (spec 2.6).
MASKED_SCORE = float(np.finfo(np.float32).min)

Initializer = Any


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
        """Everything after self attention."""
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
