"""Beam search as Transformers 4.17 and 4.36 define it (spec 2.9), in arrays of fixed size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from metro_jax.decoding.options import Beam
from metro_jax.decoding.rows import Cache, Decoded, Gather, Step

CLOSED_BEAM = -1e9  # running score of the beams that do not exist before the first step (spec 2.9)


class Hypotheses(NamedTuple):
    """Finished hypotheses of each row: a list of at most `beams`, oldest first, of which `counts` are in use."""

    tokens: Int[Array, "batch beams max_length"]
    lengths: Int[Array, "batch beams"]
    scores: Float[Array, "batch beams"]
    counts: Int[Array, "batch"]

    def worst(self) -> Float[Array, "batch"]:
        """Lowest score kept."""
        used = jnp.arange(self.scores.shape[1]) < self.counts[:, None]
        return jnp.where(used, self.scores, jnp.inf).min(axis=1)


class _State(NamedTuple):
    position: Int[Array, ""]  # tokens so far, start token included
    tokens: Int[Array, "batch beams max_length"]  # of the open beams
    last: Int[Array, "batch beams"]
    sums: Float[Array, "batch beams"]  # of log-probabilities of the open beams
    done: Bool[Array, "batch"]
    finished: Hypotheses
    cache: Cache


class _Candidates(NamedTuple):
    """The best 2 * beams continuations of each row, best first."""

    sums: Float[Array, "batch candidates"]
    beams: Int[Array, "batch candidates"]
    tokens: Int[Array, "batch candidates"]


def _pick(values: Array, indices: Int[Array, "batch picked"]) -> Array:
    """values[b, indices[b]] for each row b, whatever axes follow."""
    return jnp.take_along_axis(values, indices.reshape(indices.shape + (1,) * (values.ndim - 2)), axis=1)


def add_hypotheses(
    kept: Hypotheses,
    tokens: Int[Array, "batch new max_length"],
    length: Int[Array, ""],
    scores: Float[Array, "batch new"],
    valid: Bool[Array, "batch new"],
) -> Hypotheses:
    """Offers new hypotheses of one length to the lists, in order; only those with `valid` exist.

    A full list takes a hypothesis only if it is better than its worst one, which then leaves (of several equally bad
    ones the oldest). The order decides ties, so it is followed; tokens are moved once, at the end.
    """
    slots = jnp.arange(kept.scores.shape[1])

    def offer(carry: tuple[Array, Array, Array], new: tuple[Array, Array, Array]) -> tuple[tuple, None]:
        scores, counts, sources = carry
        score, exists, source = new
        full = (counts == len(slots))[:, None]
        accepted = exists[:, None] & (~full | (score[:, None] > scores.min(axis=1, keepdims=True)))
        leaving = jnp.argmin(scores, axis=1)[:, None]
        # Where each slot's hypothesis comes from: a list with the newcomer at its end, closed up if one leaves.
        moved = jnp.where(full, slots + (slots >= leaving), jnp.where(slots == counts[:, None], len(slots), slots))
        moved = jnp.where(accepted, moved, slots)
        scores = _pick(jnp.append(scores, score[:, None], axis=1), moved)
        sources = _pick(jnp.append(sources, jnp.full_like(sources[:, :1], source), axis=1), moved)
        return (scores, counts + (accepted & ~full)[:, 0], sources), None

    batch, number = scores.shape
    sources = jnp.broadcast_to(slots, (batch, len(slots)))
    offers = (scores.T, valid.T, len(slots) + jnp.arange(number))
    (kept_scores, counts, sources), _ = jax.lax.scan(offer, (kept.scores, kept.counts, sources), offers)
    lengths = jnp.concatenate([kept.lengths, jnp.broadcast_to(length, scores.shape)], axis=1)
    all_tokens = jnp.concatenate([kept.tokens, tokens], axis=1)
    return Hypotheses(_pick(all_tokens, sources), _pick(lengths, sources), kept_scores, counts)


def _candidates(logits: Float[Array, "rows vocab"], sums: Float[Array, "batch beams"]) -> _Candidates:
    batch, beams = sums.shape
    totals = jax.nn.log_softmax(logits).reshape(batch, beams, -1) + sums[:, :, None]
    vocab = totals.shape[-1]
    best, flat = jax.lax.top_k(totals.reshape(batch, -1), 2 * beams)
    return _Candidates(best, flat // vocab, flat % vocab)


def _advance(
    state: _State, found: _Candidates, normaliser: Float[Array, ""], options: Beam, eos: int, pad: int
) -> tuple[_State, Int[Array, "batch beams"]]:
    """The state after one more token, except for its cache, and which beams the new ones continue (spec 2.9)."""
    beams, frozen = options.num_beams, state.done[:, None]
    # A finished hypothesis has as length the tokens before its eos with the start token (4.17) or those generated,
    # eos included (4.36): both are `position`. The same holds for the stopping test.
    scores = found.sums / normaliser
    ends = found.tokens == eos
    # Every beam has one continuation by eos, so at least `beams` of the candidates go on.
    going_on = jnp.argsort(ends, axis=1, stable=True)[:, :beams]
    finished = add_hypotheses(
        state.finished,
        _pick(state.tokens, found.beams[:, :beams]),
        state.position,
        scores[:, :beams],
        ends[:, :beams] & ~frozen,
    )
    full = finished.counts == beams
    parents = jnp.where(frozen, jnp.arange(beams), _pick(found.beams, going_on))
    last = jnp.where(frozen, pad, _pick(found.tokens, going_on))
    tokens = _pick(state.tokens, parents)
    following = state._replace(
        position=state.position + 1,
        tokens=jax.lax.dynamic_update_index_in_dim(tokens, last, state.position, axis=2),
        last=last,
        sums=jnp.where(frozen, state.sums, _pick(found.sums, going_on)),
        done=state.done | (full & (options.early_stopping | (finished.worst() >= scores.max(axis=1)))),
        finished=finished,
    )
    return following, parents


def _result(state: _State, normaliser: Float[Array, ""], options: Beam, limit: Int[Array, ""], eos: int) -> Decoded:
    """Adds the open beams of unfinished rows, sorts, and appends eos where there is room for it."""
    open_rows = jnp.broadcast_to(~state.done[:, None], state.sums.shape)
    kept = add_hypotheses(state.finished, state.tokens, state.position, state.sums / normaliser, open_rows)
    # Best first; of equal ones the latest first.
    order = options.num_beams - 1 - jnp.argsort(-kept.scores[:, ::-1], axis=1, stable=True)
    order = order[:, : options.num_return_sequences]
    tokens, lengths, scores = _pick(kept.tokens, order), _pick(kept.lengths, order), _pick(kept.scores, order)
    ended = (jnp.arange(tokens.shape[-1]) == lengths[..., None]) & (lengths < limit)[..., None]
    tokens = jnp.where(ended, eos, tokens)
    lengths = lengths + (lengths < limit)
    return Decoded(tokens.reshape(-1, tokens.shape[-1]), scores.reshape(-1), lengths.reshape(-1), state.position - 1)


def decode_beam(
    step: Step,
    cache: Cache,
    start: Int[Array, "batch"],
    limit: Int[Array, ""],
    *,
    options: Beam,
    max_length: int,
    eos: int,
    pad: int,
    expand: Gather,
    reorder: Gather,
) -> Decoded:
    """Beam search for every row until its hypotheses cannot improve or `limit` tokens are reached (spec 2.9)."""
    batch, beams = start.shape[0], options.num_beams
    # On the host in float64: a table, so that no device's power function takes part in comparisons.
    powers = np.arange(1, max_length + 1, dtype=np.float64) ** options.length_penalty
    by_length = jnp.asarray(np.concatenate([[1.0], powers]), jnp.float32)

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.position < limit) & ~state.done.all()

    def extend(state: _State) -> _State:
        logits, cache = step(state.last.reshape(-1), state.cache)
        # What the model says about rows that are done may be anything, NaN included; it decides nothing.
        logits = jnp.where(jnp.repeat(state.done, beams)[:, None], 0.0, logits.astype(jnp.float32))
        found = _candidates(logits, state.sums)
        following, parents = _advance(state, found, by_length[state.position], options, eos, pad)
        parents = (jnp.arange(batch)[:, None] * beams + parents).reshape(-1)
        return following._replace(cache=reorder(cache, parents))

    empty = jnp.full((batch, beams, max_length), pad, jnp.int32)
    first = _State(
        position=jnp.asarray(1, jnp.int32),
        tokens=empty.at[:, :, 0].set(start[:, None]),
        last=jnp.repeat(start[:, None], beams, axis=1),
        sums=jnp.full((batch, beams), CLOSED_BEAM, jnp.float32).at[:, 0].set(0.0),
        done=jnp.zeros(batch, bool),
        finished=Hypotheses(
            empty,
            jnp.zeros((batch, beams), jnp.int32),
            jnp.zeros((batch, beams), jnp.float32),
            jnp.zeros(batch, jnp.int32),
        ),
        cache=expand(cache, jnp.repeat(jnp.arange(batch), beams)),
    )
    last = jax.lax.while_loop(unfinished, extend, first)
    open_length = last.position - (options.length_rule == "4.36")  # which does not count the start token
    return _result(last, by_length[open_length], options, limit, eos)
