"""Products with the weights for inference: on a CPU XLA needs help to be fast with few rows (docs/performance.md)."""

import os
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metro_jax.model.operations import precision

FEW_ROWS = 24  # up to so many rows a float32 product on a CPU is faster with the weights as its left factor


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matmul(
    x: Float[Array, "rows in"], kernel: Float[Array, "out in"], out_dtype: Any = None
) -> Float[Array, "rows out"]:
    """x times the transposed kernel."""
    rows, out_dtype = x.shape[0], x.dtype if out_dtype is None else out_dtype

    def plain(x: Array, kernel: Array) -> Array:
        return _contract(x, kernel, out_dtype)

    def on_cpu(x: Array, kernel: Array) -> Array:
        if x.dtype != jnp.float32:
            return _halves(x, kernel).astype(out_dtype)
        if rows == 1:
            return _one_row(x, kernel)
        return _few_rows(x, kernel) if rows <= FEW_ROWS else plain(x, kernel)

    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)


def _contract(a: Array, b: Array, dtype: Any, batch: int = 0) -> Array:
    """The product over the last axis of both."""
    shared = tuple(range(batch))
    axes = ((a.ndim - 1,), (b.ndim - 1,)), (shared, shared)
    return jax.lax.dot_general(a, b, axes, precision=precision(a.dtype), preferred_element_type=dtype)


def _one_row(x: Array, kernel: Array) -> Array:
    """XLA gives a product with one row to a single core, which cannot read memory as fast as all together: a batch of
    products, one per core, is spread over them."""
    parts = max(n for n in range(1, cores() + 1) if kernel.shape[0] % n == 0)
    kernel = kernel.reshape(parts, -1, kernel.shape[1])
    return _contract(jnp.broadcast_to(x[None], (parts, *x.shape)), kernel, jnp.float32, batch=1).reshape(1, -1)


def _few_rows(x: Array, kernel: Array) -> Array:
    """XLA packs the right factor of a product anew each time: with few rows that must not be the weights."""
    product = _contract(kernel, x, jnp.float32)
    return jax.lax.optimization_barrier(product).T  # without the barrier XLA turns the factors back


def _halves(x: Array, kernel: Array) -> Array:
    """In bfloat16 and float16 XLA's product is fast when its result is float32, and from two rows on."""
    if x.shape[0] > 1:
        return _contract(x, kernel, jnp.float32)
    return _contract(jnp.concatenate([x, x]), kernel, jnp.float32)[:1]
