"""Beam search in fixed-size arrays against lists and a heap in plain Python, on many random models at once."""

import heapq
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.decoding import Beam, Greedy, gather_rows

START = 5
MAX_LENGTH = 12
UNNORMALISED = Beam(3, length_penalty=0.0, num_return_sequences=3)


@pytest.fixture(scope="module")
def model(toy_model):
    return toy_model(3, 11, (-4, 6, 16))


def beam_search(model, row, options, max_length, log_softmax):
    """[(score, tokens)] best first and the number of steps for one row, as spec 2.9 tells it."""
    beams, newer = options.num_beams, options.length_rule == "4.36"
    heap, order = [], itertools.count()  # (score, age, tokens): the smallest is the worst, the oldest of equals

    def normalised(total, length):
        return float(total) / length**options.length_penalty

    def close(total, length, tokens):
        entry = (normalised(total, length), next(order), tokens)
        if len(heap) < beams:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            heapq.heapreplace(heap, entry)

    live = [(np.float32(0 if i == 0 else -1e9), [START]) for i in range(beams)]
    done, steps = False, 0
    while not done and len(live[0][1]) < max_length:
        steps += 1
        length = len(live[0][1])
        totals = np.stack([total + log_softmax(model.logits(row, tokens)) for total, tokens in live])
        best = np.argsort(-totals, axis=None, kind="stable")[: 2 * beams]  # ties by beam, then by id
        found = [(totals.flat[i], live[i // totals.shape[1]][1], int(i) % totals.shape[1]) for i in best]
        live = []
        for rank, (total, tokens, token) in enumerate(found):
            if token == model.eos:
                if rank < beams:  # newer: without the start token, with the eos
                    close(total, len([*tokens, token]) - 1 if newer else len(tokens), tokens)
            elif len(live) < beams:
                live.append((total, [*tokens, token]))
        attainable = normalised(found[0][0], (length + 1) - 1 if newer else length)
        done = len(heap) == beams and (options.early_stopping or heap[0][0] >= attainable)
    if not done:
        for total, tokens in live:
            close(total, len(tokens) - 1 if newer else len(tokens), tokens)
    ranked = sorted(heap, reverse=True)[: options.num_return_sequences]
    return [(score, tokens + [model.eos] * (len(tokens) < max_length)) for score, _, tokens in ranked], steps


def assert_equal_to_plain_python(run, model, options, limit, log_softmax):
    decoded = run(model, options, limit=limit)
    expected = [beam_search(model, row, options, limit, log_softmax) for row in range(model.rows)]
    flat = [hypothesis for hypotheses, _ in expected for hypothesis in hypotheses]
    padded = [tokens + [model.pad] * (MAX_LENGTH - len(tokens)) for _, tokens in flat]
    np.testing.assert_array_equal(decoded.tokens, padded)
    np.testing.assert_allclose(decoded.scores, [score for score, _ in flat], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(decoded.lengths, [len(tokens) for _, tokens in flat])
    assert decoded.steps == max(steps for _, steps in expected)
    return {steps for _, steps in expected} | {len(tokens) for _, tokens in flat}


@pytest.mark.parametrize(
    ("options", "vocab"),
    [
        (Beam(1), 11),
        (Beam(2, 0.0, num_return_sequences=2), 7),
        (Beam(2, 1.0, early_stopping=True, length_rule="4.36"), 30),
        (Beam(3, -0.7, num_return_sequences=2, length_rule="4.36"), 30),
        (Beam(3, -0.7, early_stopping=True, num_return_sequences=3), 9),
        (Beam(4), 11),
        (Beam(4, num_return_sequences=4, length_rule="4.36"), 11),
        (Beam(4, 2.0), 20),
        (Beam(4, 2.0, early_stopping=True, num_return_sequences=2), 40),
        (Beam(6, 0.6, num_return_sequences=3, length_rule="4.36"), 5),
        (Beam(5, 1.3, num_return_sequences=5), 3),  # fewer tokens than beams: some beams come from nowhere
    ],
    ids=str,
)
def test_equals_plain_python(run, toy_model, log_softmax, options, vocab):
    model = toy_model(options.num_beams * vocab, vocab, (-4, 9, 24))
    ends = set()
    for limit in (2, 3, 6, MAX_LENGTH):
        ends |= assert_equal_to_plain_python(run, model, options, limit, log_softmax)
    assert len(ends) > 6, "rows should end at different steps, with outputs of different lengths"


def test_the_rules_differ_where_outputs_are_cut_off(run, toy_model):
    model = toy_model(8, 11, (-4, 3, 64))
    older, newer = (run(model, Beam(4, length_rule=rule)) for rule in ("4.17", "4.36"))
    differs = (older.tokens != newer.tokens).any(axis=1)
    assert differs.any()
    same = ~differs & (older.lengths < MAX_LENGTH)
    assert same.any()
    np.testing.assert_array_equal(older.scores[same], newer.scores[same])


def test_equal_hypotheses_keep_the_reference_order(run, toy_model, log_softmax):
    """All logits equal: every choice is a tie, decided by beam, id and age alone."""
    model = toy_model(0, 6, (0.0, 0.0, 2), scale=0.0)
    assert_equal_to_plain_python(run, model, Beam(3, 1.0, num_return_sequences=3), 5, log_softmax)
    assert_equal_to_plain_python(run, model, Beam(4, 0.0, num_return_sequences=4), 6, log_softmax)


def test_one_beam_is_greedy(run, model):
    greedy, beam = run(model, Greedy()), run(model, Beam(1, length_penalty=0.0))
    np.testing.assert_array_equal(greedy.tokens, beam.tokens)
    np.testing.assert_allclose(greedy.scores, beam.scores, rtol=1e-5, atol=1e-6)


def test_scores_are_the_models_log_probabilities(run, model, log_softmax):
    decoded = run(model, UNNORMALISED)
    for i, (tokens, length) in enumerate(zip(decoded.tokens.tolist(), decoded.lengths.tolist(), strict=True)):
        row = i // UNNORMALISED.num_return_sequences
        total = sum(log_softmax(model.logits(row, tokens[:n]))[tokens[n]] for n in range(1, length))
        np.testing.assert_allclose(decoded.scores[i], total, rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch(run, model):
    together, rows = run(model, UNNORMALISED), np.asarray([15, 0, 7])
    some = run(model, UNNORMALISED, rows)
    expected = together.tokens.reshape(model.rows, 3, -1)[rows]
    np.testing.assert_array_equal(some.tokens.reshape(len(rows), 3, -1), expected)


def test_ended_rows_may_compute_nonsense(run, model):
    sane, nonsense = (run(model, UNNORMALISED, bad=bad) for bad in (0.0, jnp.nan))
    assert (sane.lengths < MAX_LENGTH).any()
    jax.tree.map(np.testing.assert_array_equal, sane, nonsense)


def test_limit_equals_a_smaller_max_length(run, model):
    got, expected = run(model, UNNORMALISED, limit=7), run(model, UNNORMALISED, max_length=7)
    np.testing.assert_array_equal(got.tokens[:, :7], expected.tokens)
    assert (got.tokens[:, 7:] == model.pad).all()
    np.testing.assert_array_equal(got.lengths, expected.lengths)
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-6)
    assert got.steps == expected.steps


def test_reorder_may_spare_what_beams_share(run, model):
    moved = []

    def reorder(cache, rows):
        moved.append(rows.shape)
        return {**cache, "hash": gather_rows(cache["hash"], rows)}

    spared, whole = run(model, UNNORMALISED, reorder=reorder), run(model, UNNORMALISED)
    assert set(moved) == {(model.rows * UNNORMALISED.num_beams,)}
    jax.tree.map(np.testing.assert_array_equal, spared, whole)
    # And the reordering matters: the toy model notices when nothing is moved.
    wrong = run(model, UNNORMALISED, reorder=lambda cache, rows: cache)
    assert (wrong.tokens != spared.tokens).any()
