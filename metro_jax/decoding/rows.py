"""What every algorithm here shares: the shape of a step function, of its cache, and of the result."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Cache = Any
Step = Callable[[Int[Array, "rows"], Cache], tuple[Float[Array, "rows vocab"], Cache]]
Gather = Callable[[Cache, Int[Array, "new_rows"]], Cache]


class Decoded(NamedTuple):
    """What `decode` returns; "sequences" is the batch, for beam search times `num_return_sequences`, best first.

    Args:
        tokens: start token, then what was generated, eos included, then pad.
        scores: sum of the generated tokens' log-probabilities under the model (before temperature, top-k and top-p),
            eos included; for beam search divided by the length as the options say.
        lengths: tokens before the padding, start token and eos included.
        steps: how many times the model was asked, less than max_length - 1 if all rows ended early.
        step_logits: what the model answered, of no meaning once the row has ended; None unless asked for.
    """

    tokens: Int[Array, "sequences max_length"]
    scores: Float[Array, "sequences"]
    lengths: Int[Array, "sequences"]
    steps: Int[Array, ""]
    step_logits: Float[Array, "sequences max_length-1 vocab"] | None = None


def gather_rows(cache: Cache, rows: Int[Array, "new_rows"]) -> Cache:
    """A cache whose row i is row `rows[i]` of the given one. Leaves with axes have rows first; scalars stay."""
    return jax.tree.map(lambda leaf: leaf if jnp.ndim(leaf) == 0 else jnp.take(leaf, rows, axis=0), cache)


def check_rows(cache: Cache, rows: int) -> None:
    """Raises ValueError if a leaf with axes has not `rows` rows first: a gather would silently read wrong ones."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(cache):
        if jnp.ndim(leaf) and leaf.shape[0] != rows:
            raise ValueError(
                f"cache{jax.tree_util.keystr(path)} has shape {leaf.shape}, but the first axis must be the batch of "
                f"{rows} rows: move it there, or say with `expand` and `reorder` how to pick rows"
            )
