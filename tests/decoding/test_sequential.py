"""Greedy decoding against a Python loop; sampling against exact sets and expected frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.decoding import Greedy, Sample
from metro_jax.decoding.sequential import truncate

MAX_LENGTH = 12
START = 5


@pytest.fixture(scope="module")
def model(toy_model):
    return toy_model(0, 11, (-3, 6, 16))


def greedy_loop(model, row, start, max_length, log_softmax):
    """Tokens and summed log-probability, straight from spec 2.9."""
    tokens, score = [start], 0.0
    while len(tokens) < max_length and (len(tokens) == 1 or tokens[-1] != model.eos):
        logits = model.logits(row, tokens)
        tokens.append(int(np.argmax(logits)))
        score += log_softmax(logits)[tokens[-1]]
    return tokens, score


@pytest.mark.parametrize("start", [START, 2])  # 2 is eos: a start token does not end a row
def test_greedy_equals_a_python_loop(run, model, log_softmax, start):
    decoded = run(model, Greedy(), start_token=start)
    expected = [greedy_loop(model, row, start, MAX_LENGTH, log_softmax) for row in range(model.rows)]
    lengths = [len(tokens) for tokens, _ in expected]
    assert len(set(lengths)) > 3, "the toy model should end its rows at different lengths"
    padded = [tokens + [model.pad] * (MAX_LENGTH - len(tokens)) for tokens, _ in expected]
    np.testing.assert_array_equal(decoded.tokens, padded)
    np.testing.assert_array_equal(decoded.lengths, lengths)
    np.testing.assert_allclose(decoded.scores, [score for _, score in expected], rtol=1e-5, atol=1e-5)


def test_loop_stops_when_all_rows_have_ended(run, model):
    every = run(model, Greedy())
    lengths = np.asarray(every.lengths)
    short = [int(row) for row in np.flatnonzero(lengths < MAX_LENGTH)]
    assert short
    assert int(every.steps) == MAX_LENGTH - 1
    assert int(run(model, Greedy(), short).steps) == lengths[short].max() - 1


def test_step_logits_are_the_models(run, model):
    decoded = run(model, Greedy(), return_logits=True)
    assert decoded.step_logits.shape == (model.rows, MAX_LENGTH - 1, model.table.shape[1])
    for row, tokens in enumerate(np.asarray(decoded.tokens).tolist()):
        for position in range(1, int(decoded.lengths[row])):
            expected = model.logits(row, tokens[:position])
            np.testing.assert_allclose(decoded.step_logits[row, position - 1], expected, atol=1e-6)


@pytest.mark.parametrize("options", [Greedy(), Sample(top_k=4, top_p=0.9)], ids=["greedy", "sample"])
def test_ended_rows_may_compute_nonsense(run, model, options):
    rng = jax.random.key(3)
    sane, nonsense = (run(model, options, rng=rng, bad=bad) for bad in (0.0, jnp.nan))
    assert (sane.lengths < MAX_LENGTH).any()
    jax.tree.map(np.testing.assert_array_equal, sane, nonsense)


@pytest.mark.parametrize("options", [Greedy(), Sample()], ids=["greedy", "sample"])
def test_limit_equals_a_smaller_max_length(run, model, options):
    rng, limit = jax.random.key(0), 5
    got, expected = run(model, options, rng=rng, limit=limit), run(model, options, rng=rng, max_length=limit)
    np.testing.assert_array_equal(got.tokens[:, :limit], expected.tokens)
    assert (got.tokens[:, limit:] == model.pad).all()
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-6)
    np.testing.assert_array_equal(got.lengths, expected.lengths)
    assert got.steps == expected.steps


def test_sampled_row_is_the_same_in_any_batch(run, model):
    options, rng = Sample(temperature=1.3, top_p=0.95), jax.random.key(11)
    seeds = np.arange(model.rows) + 100
    together = run(model, options, rng=rng, row_seeds=seeds)
    shuffled = np.random.default_rng(0).permutation(model.rows)[:5]
    for rows in (shuffled, shuffled[::-1]):
        some = run(model, options, rows, rng=rng, row_seeds=seeds[rows])
        np.testing.assert_array_equal(some.tokens, together.tokens[rows])
        np.testing.assert_allclose(some.scores, together.scores[rows], rtol=1e-5)
    # And it is random: other seeds, or another key, draw something else; the same row and seed twice does not.
    assert (run(model, options, rng=rng, row_seeds=seeds + 1).tokens != together.tokens).any()
    assert (run(model, options, rng=jax.random.key(12), row_seeds=seeds).tokens != together.tokens).any()
    twins = run(model, options, [3, 3, 3, 3, 3], rng=rng, row_seeds=np.asarray([7, 7, 8, 9, 10])).tokens
    assert (twins[0] == twins[1]).all()
    assert (twins[0] != twins[2:]).any()


def test_steps_draw_independently(run, toy_model):
    """With the same logits at every step, a row must not repeat its first draw."""
    model = toy_model(1, 40, (-50, -50, 32), scale=0.0)
    tokens = np.asarray(run(model, Sample(), rng=jax.random.key(0)).tokens)[:, 1:]
    assert (tokens == tokens[:, :1]).mean() < 0.2  # of which 1/13 is the first draw itself and 1/39 chance


@pytest.mark.parametrize(
    "options", [Sample(), Sample(temperature=0.6), Sample(top_k=3), Sample(top_p=0.7), Sample(1.5, 5, 0.8)], ids=str
)
def test_frequencies_are_those_of_the_truncated_distribution(run, toy_model, options):
    model, draws = toy_model(2, 9, (0.5, 0.5, 1)), 20_000
    decoded = run(model, options, [0] * draws, max_length=2, rng=jax.random.key(5))
    counts = np.bincount(np.asarray(decoded.tokens)[:, 1], minlength=9)
    allowed, probabilities = expected_distribution(model.logits(0, [START]), options)
    assert set(np.flatnonzero(counts)) <= allowed
    expected = draws * probabilities[sorted(allowed)]
    statistic = ((counts[sorted(allowed)] - expected) ** 2 / expected).sum()
    assert statistic < 27  # chi-squared with at most 8 degrees of freedom: above 26.1 in one of 1000 draws of the key
    # Scores are the model's own log-probabilities, whatever the options do to the drawing.
    own = jax.nn.log_softmax(jnp.asarray(model.logits(0, [START])))
    np.testing.assert_allclose(decoded.scores, own[decoded.tokens[:, 1]], rtol=1e-5, atol=1e-6)


def expected_distribution(logits, options):
    """Which ids may be drawn and with which probability, in float64 and from the definitions."""
    logits = logits.astype(np.float64) / options.temperature
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if options.top_k:
        ranked = ranked[: options.top_k]
    weights = np.exp(logits - logits.max())
    share = weights / weights[ranked].sum()
    kept = next(n for n in range(1, len(ranked) + 1) if n == len(ranked) or share[ranked[:n]].sum() >= options.top_p)
    allowed = set(ranked[:kept])
    share = np.where(np.isin(np.arange(len(logits)), list(allowed)), weights, 0)
    return allowed, share / share.sum()


@pytest.mark.parametrize("top_k", [0, 1, 3, 12, 50])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.31, 1e-6])
def test_truncation_keeps_exactly_the_smallest_set(top_k, top_p):
    # Multiples of 1/8 in a small range, so that ties are everywhere.
    logits = np.random.default_rng(4).integers(-12, 12, size=(50, 12)).astype(np.float32) / 8
    kept, ids = truncate(jnp.asarray(logits), top_k, top_p)
    ids = np.broadcast_to(np.arange(12), logits.shape) if ids is None else np.asarray(ids)
    for row in range(len(logits)):
        got = {int(i) for i, value in zip(ids[row], np.asarray(kept)[row], strict=True) if np.isfinite(value)}
        assert got == expected_distribution(logits[row], Sample(top_k=top_k, top_p=top_p))[0]


def test_truncation_by_hand():
    logits = jnp.log(jnp.asarray([[0.125, 0.5, 0.125, 0.25]]))
    for top_p, expected in ((0.3, [1]), (0.5, [1]), (0.51, [1, 3]), (0.76, [0, 1, 3]), (0.99, [0, 1, 2, 3])):
        kept, ids = truncate(logits, 0, top_p)
        assert sorted(ids[0][jnp.isfinite(kept[0])].tolist()) == expected
    kept, ids = truncate(logits, 3, 1.0)
    assert sorted(ids[0].tolist()) == [0, 1, 3]


def test_one_token_kept_is_greedy(run, model):
    for options in (Sample(top_k=1), Sample(top_p=1e-9)):
        sampled = run(model, options, rng=jax.random.key(0))
        np.testing.assert_array_equal(sampled.tokens, run(model, Greedy()).tokens)
