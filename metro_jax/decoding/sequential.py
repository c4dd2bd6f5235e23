"""Greedy decoding and sampling: one open sequence per row."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from metro_jax.decoding.options import Sample
from metro_jax.decoding.rows import Cache, Decoded, Step

# (logits, how many tokens were generated before) -> tokens
Choose = Callable[[Float[Array, "rows vocab"], Int[Array, ""]], Int[Array, "rows"]]


class _State(NamedTuple):
    position: Int[Array, ""]  # tokens so far, start token included
    tokens: Int[Array, "rows max_length"]
    last: Int[Array, "rows"]
    done: Bool[Array, "rows"]
    scores: Float[Array, "rows"]
    lengths: Int[Array, "rows"]
    cache: Cache
    step_logits: Float[Array, "rows max_length-1 vocab"] | None


def choose_greedily(logits: Float[Array, "rows vocab"], generated: Int[Array, ""]) -> Int[Array, "rows"]:
    """The most probable token of each row; ties go to the lower id."""
    del generated
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def sampler(options: Sample, rng: Array, row_seeds: Int[Array, "rows"]) -> Choose:
    """Draws with the key fold_in(fold_in(rng, row seed), step), so that a row's draws do not depend on its batch."""
    row_keys = jax.vmap(lambda seed: jax.random.fold_in(rng, seed))(row_seeds)

    def choose(logits: Float[Array, "rows vocab"], generated: Int[Array, ""]) -> Int[Array, "rows"]:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, generated))(row_keys)
        kept, ids = truncate(logits / options.temperature, options.top_k, options.top_p)
        drawn = jax.vmap(jax.random.categorical)(keys, kept)
        if ids is not None:
            drawn = jnp.take_along_axis(ids, drawn[:, None], axis=-1)[:, 0]
        return drawn.astype(jnp.int32)

    return choose


def truncate(
    logits: Float[Array, "rows vocab"], top_k: int, top_p: float
) -> tuple[Float[Array, "rows kept"], Int[Array, "rows kept"] | None]:
    """Logits of the tokens that may be drawn, -inf for the others, and their ids (None: every token in its place)."""
    vocab = logits.shape[-1]
    if top_k in (0, vocab) and top_p == 1:
        return logits, None
    # Sorted, ties by ascending id; a top_k beyond the vocabulary means all of it.
    logits, ids = jax.lax.top_k(logits, min(top_k, vocab) if top_k else vocab)
    if top_p < 1:
        probabilities = jax.nn.softmax(logits, axis=-1)
        # A token belongs to the smallest set that reaches p if the ones before it do not; the first always does.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        logits = jnp.where((before < top_p).at[:, 0].set(True), logits, -jnp.inf)
    return logits, ids


def decode_sequential(
    step: Step,
    cache: Cache,
    start: Int[Array, "rows"],
    limit: Int[Array, ""],
    *,
    choose: Choose,
    max_length: int,
    eos: int,
    pad: int,
    return_logits: bool,
) -> Decoded:
    """Extends every row by chosen tokens until all have ended or hold `limit` of them (spec 2.9)."""
    rows = start.shape[0]
    step_logits = None
    if return_logits:
        vocab = jax.eval_shape(step, start, cache)[0].shape[-1]
        step_logits = jnp.zeros((rows, max_length - 1, vocab), jnp.float32)

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.position < limit) & ~state.done.all()

    def extend(state: _State) -> _State:
        answers, cache = step(state.last, state.cache)
        # What the model says about rows that have ended may be anything, NaN included; it decides nothing.
        logits = jnp.where(state.done[:, None], 0.0, answers.astype(jnp.float32))
        chosen = jnp.where(state.done, pad, choose(logits, state.position - 1))
        chosen_logits = jnp.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0]
        log_probabilities = chosen_logits - jax.nn.logsumexp(logits, axis=-1)
        kept = state.step_logits
        if kept is not None:
            kept = jax.lax.dynamic_update_index_in_dim(kept, answers, state.position - 1, axis=1)
        return _State(
            position=state.position + 1,
            tokens=jax.lax.dynamic_update_index_in_dim(state.tokens, chosen, state.position, axis=1),
            last=chosen,
            done=state.done | (chosen == eos),
            scores=state.scores + jnp.where(state.done, 0.0, log_probabilities),
            lengths=state.lengths + ~state.done,
            cache=cache,
            step_logits=kept,
        )

    first = _State(
        position=jnp.asarray(1, jnp.int32),
        tokens=jnp.full((rows, max_length), pad, jnp.int32).at[:, 0].set(start),
        last=start,
        done=jnp.zeros(rows, bool),
        scores=jnp.zeros(rows, jnp.float32),
        lengths=jnp.ones(rows, jnp.int32),
        cache=cache,
        step_logits=step_logits,
    )
    last = jax.lax.while_loop(unfinished, extend, first)
    return Decoded(last.tokens, last.scores, last.lengths, last.position - 1, last.step_logits)
