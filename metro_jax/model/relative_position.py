"""Relative positions: the bucket of every distance, and the bias of every query and key (spec 2.4)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num


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
