"""Operations with the precision and the gradients that training needs: products, attention weights, look-ups."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


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
