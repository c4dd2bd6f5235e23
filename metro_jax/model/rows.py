"""Work on pieces of a batch side by side: how a piece knows its place, and how sums run over all of them.

A trainer that accumulates gradients cuts a microbatch into one piece per group of devices and maps the loss over the
pieces with `jax.vmap(..., axis_name=PIECES)`. Randomness is addressed by the row of the whole microbatch, so a result
does not depend on how many pieces there were.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax.linen.spmd import logical_to_mesh_axes
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int

PIECES = "pieces"  # JAX's name for the mapped axis; row r of piece p is row p * rows + r of the microbatch
# Hardware keys are folded by XOR, so (step 1, device 2) would be (step 2, device 1): devices are numbered from here.
DEVICES = 1 << 30
T = TypeVar("T")


def row_numbers(rows: int) -> Int[Array, "rows"]:
    """Where the rows at hand stand in the whole microbatch."""
    try:
        piece = jax.lax.axis_index(PIECES)
    except NameError:  # no such axis: the rows at hand are all there are
        return jnp.arange(rows)
    return piece * rows + jnp.arange(rows)


def in_pieces() -> bool:
    """Whether the rows at hand are one of several pieces, or might be."""
    try:
        jax.lax.axis_index(PIECES)
    except NameError:
        return False
    return True


def keys_by_row(key: Array, rows: int) -> Array:
    """One random key per row, folded from the row's place."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, row_numbers(rows))


def is_hardware(key: Array) -> bool:
    """Whether a key's bits come from the chip's own generator, fast and different on every mesh."""
    return "rbg" in str(jax.random.key_impl(key))


def drawn_by_device(draw: Callable[[Array, tuple[int, ...]], Array], key: Array, shape: tuple[int, ...]) -> Array:
    """`draw(key, shape)` for a hardware key, each device drawing for its own rows with a key of its own.

    Left to itself the compiler draws the whole batch's numbers on every device and throws most of them away.

    Args:
        draw: from a key and a shape to an array of that shape.
        shape: of all rows at hand; the first axis is the batch.
    """
    piece = jax.lax.axis_index(PIECES) if in_pieces() else jnp.zeros((), jnp.int32)
    axes, mesh = _batch_axes(), jax.sharding.get_abstract_mesh()
    parts = math.prod(mesh.shape.get(axis, 1) for axis in axes)
    # Pieces are spread over an axis that is not seen here: there the draw is every device's own even in one part.
    if mesh.empty or not axes or (parts == 1 and not in_pieces()) or shape[0] % parts:
        return draw(jax.random.fold_in(key, DEVICES + piece), shape)
    impl = jax.random.key_impl(key)

    def local(data: Array, piece: Array) -> Array:
        number = DEVICES + piece * parts + jax.lax.axis_index(axes)
        own = jax.random.fold_in(jax.random.wrap_key_data(data, impl=impl), number)
        return draw(own, (shape[0] // parts, *shape[1:]))

    nothing, rows = PartitionSpec(), PartitionSpec(axes)
    spread = jax.shard_map(local, in_specs=(nothing, nothing), out_specs=rows, check_vma=False)
    return spread(jax.random.key_data(key), piece)


def kept_by_hardware(probability: float, key: Array, shape: tuple[int, ...]) -> Array:
    """True with this probability (to 2^-17) for every number, from 16 of the chip's random bits each.

    Bits are written to memory and read again, so half of them are half of the time. Those of attention weights
    [batch, heads, queries, keys] are drawn with the last two axes swapped: TPUs lay out scores with the queries last,
    and would copy bits that come the other way round (docs/tpu_plan.md).
    """
    swap = len(shape) == 4
    drawn = (*shape[:-2], shape[-1], shape[-2]) if swap else shape
    bits = jax.random.bits(key, (drawn[0], (drawn[1] + 1) // 2, *drawn[2:]), jnp.uint32)
    limit = jnp.uint32(round(probability * 2**16))
    kept = jnp.concatenate([(bits & 0xFFFF) < limit, (bits >> 16) < limit], axis=1)[:, : drawn[1]]
    return jnp.swapaxes(kept, -1, -2) if swap else kept


def _batch_axes() -> tuple[str, ...]:
    """Mesh axes over which the rules in force spread the rows; none outside a partitioner's context."""
    spec = logical_to_mesh_axes(("batch",))
    axes = spec[0] if spec else None
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def over_pieces(total: T) -> T:
    """The sum over all pieces of what each of them has summed over its rows."""
    try:
        return jax.lax.psum(total, PIECES)
    except NameError:
        return total
