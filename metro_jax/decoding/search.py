"""`decode`: the one entry to greedy decoding, beam search and sampling."""

import difflib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from metro_jax.decoding.beam import decode_beam
from metro_jax.decoding.options import Beam, Greedy, Options, Sample, whole_number
from metro_jax.decoding.rows import Cache, Decoded, Gather, Step, check_rows, gather_rows
from metro_jax.decoding.sequential import choose_greedily, decode_sequential, sampler
from metro_jax.text.ids import EOS, PAD


def decode(
    step: Step,
    cache: Cache,
    batch: int,
    *,
    max_length: int,
    options: Options = Greedy(),  # noqa: B008 - frozen
    limit: int | Int[Array, ""] | None = None,
    start_token: int | Int[Array, "batch"] = EOS,
    eos: int = EOS,
    pad: int = PAD,
    rng: Array | None = None,
    row_seeds: Int[Array, "batch"] | None = None,
    expand: Gather | None = None,
    reorder: Gather | None = None,
    return_logits: bool = False,
) -> Decoded:
    """Generates tokens for `batch` rows until each has produced eos or holds as many as it may (spec 2.9).

    Traceable and free of side effects: call it inside a function under `jax.jit`, with `options`, `batch` and
    `max_length` static. The loop ends as soon as all rows have.

    Args:
        step: (last token of each row, cache) -> (float32 logits [rows, vocab] of the next one, new cache).
        cache: any tree of arrays whose leaves have the rows first, or no axes at all. Rows are `batch`, for beam
            search then `batch * num_beams`, beams of a row side by side.
        max_length: tokens of the longest output, start token included; the width of the result.
        limit: a smaller bound that may vary without recompiling, with the result that `max_length=limit` has; padded.
        start_token: first token, for all rows or one each; does not end a row even if it is eos.
        rng: key for `Sample`.
        row_seeds: what tells the random draws of rows apart, by default the row number; a row with the same `rng`,
            seed and logits draws the same tokens in any batch.
        expand, reorder: (cache, row numbers) -> the cache of these rows, for beam search once before the first step and
            after every step. Default: `gather_rows` on all of it. Give `reorder` to spare what is the same for all
            beams of a row, such as keys and values of the source.
        return_logits: also return the logits of every step (greedy decoding and sampling; rows x length x vocabulary
            numbers, for tests).

    Raises:
        ValueError: lengths, ids, cache or options do not fit; says what does.
    """
    _check(options, batch, max_length, limit, eos, pad)
    start = jnp.broadcast_to(jnp.asarray(start_token, jnp.int32), (batch,))
    bound = jnp.minimum(jnp.asarray(max_length if limit is None else limit, jnp.int32), max_length)
    cache = jax.tree.map(jnp.asarray, cache)
    if isinstance(options, Beam):
        if return_logits:
            raise ValueError("return_logits=True: a beam search has no logits of its result; use Greedy() or Sample()")
        if expand is None:
            check_rows(cache, batch)
        return decode_beam(
            step,
            cache,
            start,
            bound,
            options=options,
            max_length=max_length,
            eos=eos,
            pad=pad,
            expand=expand or gather_rows,
            reorder=reorder or gather_rows,
        )
    choose = choose_greedily
    if isinstance(options, Sample):
        if rng is None:
            raise ValueError(f"{options} draws random tokens: give rng, for example jax.random.key(0)")
        choose = sampler(options, rng, jnp.arange(batch) if row_seeds is None else jnp.asarray(row_seeds))
    return decode_sequential(
        step,
        cache,
        start,
        bound,
        choose=choose,
        max_length=max_length,
        eos=eos,
        pad=pad,
        return_logits=return_logits,
    )


def _check(options: Any, batch: int, max_length: int, limit: Any, eos: int, pad: int) -> None:
    if not isinstance(options, Greedy | Beam | Sample):
        name = options if isinstance(options, str) else type(options).__name__
        near = difflib.get_close_matches(str(name).capitalize(), ["Greedy", "Beam", "Sample"], n=1)
        hint = f"; did you mean {near[0]}()?" if near else ""
        raise ValueError(f"options={options!r} is not a way to decode: give Greedy(), Beam(...) or Sample(...){hint}")
    whole_number("batch", batch, 1, "; there is nothing to decode")
    whole_number("max_length", max_length, 2, ": the start token counts")
    if limit is not None and not isinstance(limit, Tracer):
        whole_number("limit", limit.item() if isinstance(limit, jax.Array | np.ndarray) else limit, 2)
        if limit > max_length:
            raise ValueError(f"limit={limit} is more than max_length={max_length}, the width of the result: raise that")
    if eos == pad:
        raise ValueError(f"eos and pad are both {eos}: the end of an output could not be told from its padding")
