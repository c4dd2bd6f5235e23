"""Spread, bootstrap and paired tests, against plain computations and known answers."""

import itertools
import math

import numpy as np
import pytest

from metro_jax.evaluation import statistics
from metro_jax.evaluation.statistics import Results


def results(correct: list[list[int]], present: list[list[int]] | None = None) -> Results:
    table = np.asarray(correct, bool)
    names = [f"t{n}" for n in range(len(table))]
    shown = np.ones_like(table) if present is None else np.asarray(present, bool)
    return Results(names, list(range(table.shape[1])), table, shown)


def test_tables_keep_track_of_what_is_missing() -> None:
    made = statistics.tabulate({"a": {5: True, 2: False}, "b": {5: False, 9: True}, "empty": {}})
    assert made.templates == ["a", "b"]
    assert made.indices == [2, 5, 9]
    assert made.present.tolist() == [[True, True, False], [False, True, True]]
    assert made.accuracies().tolist() == [50.0, 50.0]


def test_spread() -> None:
    found = statistics.spread([50, 60, 80, 90])
    assert found == {"mean": 70, "median": 70, "min": 50, "max": 90, "std": pytest.approx(18.2574, abs=1e-4)}
    assert statistics.spread([50])["std"] is None


def test_the_bootstrap_has_the_spread_that_theory_gives() -> None:
    rng = np.random.default_rng(3)
    one = results([(rng.random(400) < 0.7).tolist()])
    share = one.mean() / 100
    drawn = statistics.bootstrap(one)
    assert drawn.std() == pytest.approx(100 * math.sqrt(share * (1 - share) / 400), rel=0.08)
    low, high = statistics.interval(drawn)
    assert low < one.mean() < high
    # Templates that always agree say no more than one of them.
    same = results([one.correct[0].tolist()] * 5)
    np.testing.assert_allclose(statistics.bootstrap(same), drawn)


def test_the_bootstrap_with_gaps_is_the_mean_over_templates_of_each_draw() -> None:
    gaps = results([[1, 0, 1, 0], [0, 0, 1, 0]], [[1, 1, 1, 1], [0, 1, 1, 0]])
    for count, value in zip(statistics.draws(4), statistics.bootstrap(gaps), strict=False):
        per = []
        for right, shown in zip(gaps.correct, gaps.present, strict=True):
            total = sum(c for c, s in zip(count, shown, strict=True) if s)
            per += [sum(c for c, r in zip(count, right, strict=True) if r) / total] if total else []
        assert value == pytest.approx(100 * sum(per) / len(per))


def test_draws_are_the_same_for_every_model_and_others_for_every_task() -> None:
    first, second = (statistics.bootstrap(results([[1, 0] * 50]), seed=statistics.seed_of("rte")) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (statistics.bootstrap(results([[1, 0] * 50]), seed=statistics.seed_of("cb")) != first).any()


def test_the_permutation_test_is_exact_where_it_can_be() -> None:
    a, b = (
        results([[1, 1, 1, 1, 1, 0, 1], [1, 1, 1, 0, 1, 1, 1]]),
        results([[0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0]]),
    )
    per = a.correct.mean(0) - b.correct.mean(0)
    sums = [abs(sum(s * d for s, d in zip(signs, per, strict=True))) for signs in itertools.product((1, -1), repeat=7)]
    expected = np.mean([value >= abs(per.sum()) - 1e-12 for value in sums])
    assert statistics.permutation_test(*statistics.paired(a, b)) == pytest.approx(expected)
    assert statistics.permutation_test(a, a) == 1.0


def test_a_difference_that_is_there_is_found_and_one_that_is_not_is_not() -> None:
    rng = np.random.default_rng(0)
    base = (rng.random((5, 300)) < 0.5).astype(int)
    better = np.where(rng.random((5, 300)) < 0.2, 1, base)
    shuffled = rng.permuted(base, axis=1)
    assert statistics.permutation_test(results(base.tolist()), results(better.tolist()), resamples=999) < 0.01
    assert statistics.permutation_test(results(base.tolist()), results(shuffled.tolist()), resamples=999) > 0.05


def test_mcnemar_and_holm() -> None:
    rows = statistics.mcnemar(results([[1] * 6, [1] * 6]), results([[0] * 6, [1] * 6]))
    assert rows[0] == {"template": "t0", "only_first": 6, "only_second": 0, "p": pytest.approx(2 / 64)}
    assert rows[1]["p"] == 1.0
    assert statistics.adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_pairs_are_of_the_same_questions() -> None:
    a = statistics.tabulate({"x": {0: True, 1: True, 2: False}, "y": {0: True}})
    b = statistics.tabulate({"x": {1: False, 2: True, 3: True}, "z": {1: True}})
    first, second = statistics.paired(a, b)
    assert first.templates == second.templates == ["x"]
    assert first.indices == [1, 2]
    assert (first.correct.tolist(), second.correct.tolist()) == ([[True, False]], [[False, True]])
    with pytest.raises(ValueError, match="share no example"):
        statistics.paired(a, statistics.tabulate({"x": {9: True}}))


def test_wilson_is_the_textbook_formula() -> None:
    low, high = statistics.wilson(8, 10)
    z, p, n = 1.959964, 0.8, 10
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert (low, high) == (
        pytest.approx(100 * (middle - half), abs=1e-3),
        pytest.approx(100 * (middle + half), abs=1e-3),
    )
