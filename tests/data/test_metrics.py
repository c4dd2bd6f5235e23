"""Rank classification."""

import json

import numpy as np
import pytest

from metro_jax.data.metrics import RankLabel, rank_accuracy, rank_postprocess


def rows(*examples):
    """(number, correct choices, scores) per example -> labels and scores."""
    labels, scores = [], []
    for number, correct, values in examples:
        for choice, value in enumerate(values):
            labels.append(RankLabel((number, choice), choice in correct, 1.0))
            scores.append(value)
    return labels, scores


def test_first_argmax_against_first_correct_choice():
    labels, scores = rows((0, {1}, [-2.0, -1.0]), (1, {0}, [-3.0, -2.0]), (2, {0, 2}, [-1.0, -5.0, -1.0]))
    assert rank_accuracy(labels, scores) == {"accuracy": pytest.approx(200 / 3), "examples": 3}
    labels, scores = rows((0, {0, 1}, [-2.0, -1.0]))
    assert rank_accuracy(labels, scores)["accuracy"] == 0  # the reference is the first correct choice only


def test_order_of_rows_does_not_matter():
    labels, scores = rows(*[(n, {n % 3}, np.random.default_rng(n).normal(size=3)) for n in range(20)])
    expected = rank_accuracy(labels, scores)
    order = np.random.default_rng(0).permutation(len(labels))
    assert rank_accuracy([labels[i] for i in order], [scores[i] for i in order]) == expected


def test_filled_up_rows_do_no_harm():
    labels, scores = rows((0, {1}, [-2.0, -1.0]), (1, {0}, [-3.0, -2.0]))
    expected = rank_accuracy(labels, scores)
    filled = [*labels, labels[-1], RankLabel((-1, 0), False, 1.0), RankLabel((0, 0), True, 0.0)]
    assert rank_accuracy(filled, [*scores, 99.0, 99.0, 99.0, 99.0]) == expected
    cut, cut_scores = rows((0, {1}, [-2.0, -1.0]), (1, {2}, [-3.0, -2.0]))
    assert rank_accuracy(cut, cut_scores) == {"accuracy": 100.0, "examples": 1}


def test_weights_and_scores_that_are_not_numbers():
    labels, scores = rows((0, {0}, [0.0, -1.0]), (1, {0}, [-1.0, 0.0]))
    weighted = [label._replace(weight=3.0) if label.idx[0] == 0 else label for label in labels]
    assert rank_accuracy(weighted, scores)["accuracy"] == 75.0
    assert rank_accuracy(labels, [float("nan")] * 4)["accuracy"] == 0.0


def test_too_few_scores_or_no_example():
    labels, scores = rows((0, {0}, [0.0, -1.0]))
    with pytest.raises(ValueError, match="1 scores for 2 rows"):
        rank_accuracy(labels, scores[:1])
    with pytest.raises(ValueError, match="no example"):
        rank_accuracy([], [])


def test_postprocessing_takes_the_labels_of_the_row():
    example = {"idx": np.array([4, 1]), "is_correct": np.bool_(True), "weight": np.float32(1), "targets": [5]}
    assert rank_postprocess("text", example=example, is_target=True) == RankLabel((4, 1), True, 1.0)
    assert rank_postprocess("text", example=example, is_target=False) == "text"
    with pytest.raises(ValueError, match="register_ranked"):
        rank_postprocess("text", example={"targets": [5]}, is_target=True)


@pytest.mark.golden
def test_golden_accuracies(golden_dir):
    for group in json.loads((golden_dir / "rank_eval.json").read_text())["groups"]:
        examples = [
            (n, {i for i, c in enumerate(e["choices"]) if c == e["target"]}, e["scores"])
            for n, e in enumerate(group["examples"])
        ]
        measured = rank_accuracy(*rows(*examples))
        assert measured["accuracy"] == pytest.approx(100 * group["accuracy"]), group["name"]
        assert measured["examples"] == len(examples)
