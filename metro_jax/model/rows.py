"""Work on pieces of a batch side by side: how a piece knows its place, and how sums run over all of them.

A trainer that accumulates gradients cuts a microbatch into one piece per group of devices and maps the loss over the
pieces with `jax.vmap(..., axis_name=PIECES)`. Randomness is addressed by the row of the whole microbatch, so a result
does not depend on how many pieces there were.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

PIECES = "pieces"  # JAX's name for the mapped axis; row r of piece p is row p * rows + r of the microbatch
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


def over_pieces(total: T) -> T:
    """The sum over all pieces of what each of them has summed over its rows."""
    try:
        return jax.lax.psum(total, PIECES)
    except NameError:
        return total
