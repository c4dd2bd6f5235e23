"""Weights in eight bits with one scale per output channel; activations keep (nearly) their precision.

Only weights are rounded. On a CPU a product with int8 weights is fast only if the other factor is int8 too, so an
activation is written as 128 * high + low, two int8 numbers that hold 15 bits of it: both products are exact integers,
and what is lost beside float32 activations is 3e-5 of a row's largest entry, far below the rounding of the weights.
Elsewhere the weights are widened inside the product.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8

LARGEST = 127  # symmetric: -128 is not used, so that a weight and its negative have the same error
PLANE = 128  # an activation is PLANE * high + low
STEPS = LARGEST * PLANE  # of an activation between 0 and its row's largest magnitude


def quantize(kernel: Any) -> dict[str, Any]:
    """int8 kernel [out, in] and float32 scale [out] of a float kernel [out, in]; NumPy in, NumPy out."""
    xp: Any = np if isinstance(kernel, np.ndarray) else jnp
    kernel = kernel.astype(np.float32)
    largest = xp.abs(kernel).max(axis=-1)
    scale = xp.where(largest > 0, largest, 1.0).astype(np.float32) / np.float32(LARGEST)
    return {"kernel": xp.round(kernel / scale[:, None]).astype(np.int8), "scale": scale}


def int8_matmul(
    x: Float[Array, "rows in"], kernel: Int8[Array, "out in"], scale: Float[Array, "out"]
) -> Float[Array, "rows out"]:
    """x times the transposed kernel, float32."""
    return jax.lax.platform_dependent(x, kernel, cpu=_by_planes, default=_widened) * scale


def _widened(x: Array, kernel: Array) -> Array:
    contract = (((1,), (1,)), ((), ()))
    # int8 is exact in bfloat16 and float16, so the product has the precision of the activations.
    exact = "highest" if x.dtype == jnp.float32 else "default"
    return jax.lax.dot_general(x, kernel.astype(x.dtype), contract, precision=exact, preferred_element_type=jnp.float32)


def _by_planes(x: Array, kernel: Array) -> Array:
    rows, x = x.shape[0], x.astype(jnp.float32)
    largest = jnp.abs(x).max(axis=1, keepdims=True)
    step = jnp.where(largest > 0, largest, 1.0) / STEPS
    value = jnp.round(x / step)
    high = jnp.round(value / PLANE)
    planes = jnp.concatenate([high, value - high * PLANE]).astype(jnp.int8)
    product = jax.lax.dot_general(planes, kernel, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)
    product = product.astype(jnp.float32)
    return (product[:rows] * PLANE + product[rows:]) * step
