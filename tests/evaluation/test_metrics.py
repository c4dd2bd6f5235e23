"""Metrics of generated texts, against values worked out by hand."""

import math
import sys

import pytest

from metro_jax.data.t0 import catalogue
from metro_jax.evaluation import metrics
from metro_jax.text.tokenizer import MetroTokenizer


def test_accuracy_is_exact():
    found = metrics.accuracy(["yes", "no", "yes", "no"], ["yes", "no.", "no", "no"])
    assert found == {"accuracy": 50.0}


def test_squad_forgets_case_punctuation_and_articles():
    found = metrics.squad(["The Eiffel Tower!", "two dogs", "an"], ["eiffel tower", "the big dogs", "a the"])
    # "two dogs" and "big dogs" share one word of two; nothing is left of "an" and of "a the"
    assert found == {"exact_match": pytest.approx(200 / 3), "f1": pytest.approx(250 / 3)}


@pytest.mark.parametrize(
    ("target", "prediction", "expected"),
    [
        ("the cat sat", "the cat ran", (200 / 3, 50.0, 200 / 3)),
        ("one two three four", "one two", (200 / 3, 50.0, 200 / 3)),  # precision 1, recall 1/2; 1, 1/3
        # The order of sentences does not count for rougeLsum; of eight words six are in it for rouge1.
        ("a dog ran. a cat sat.", "a cat sat. a dog ran.", (100.0, 80.0, 100.0)),
        ("a b", "c d", (0.0, 0.0, 0.0)),
        ("a b", "", (0.0, 0.0, 0.0)),
    ],
)
def test_rouge(target, prediction, expected):
    assert tuple(metrics.rouge([target], [prediction]).values()) == pytest.approx(expected)


def test_rouge_is_a_mean_over_examples():
    assert metrics.rouge(["a b", "a b"], ["a b", "c d"])["rouge1"] == 50.0


def test_bleu_is_of_the_corpus():
    long, short = "a b c d e f g h", "a b c d"
    assert metrics.bleu([long], [long])["bleu"] == pytest.approx(100)
    assert metrics.bleu([long], [short])["bleu"] == pytest.approx(100 * math.exp(1 - 8 / 4))  # brevity penalty only
    assert metrics.bleu([long, long], [long, short])["bleu"] == pytest.approx(100 * math.exp(1 - 16 / 12))
    assert metrics.bleu([long.upper()], [long])["bleu"] == pytest.approx(100)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_what_cannot_be_measured(name):
    with pytest.raises(ValueError, match="2 targets but 1 predictions"):
        metrics.METRICS[name](["a", "b"], ["a"])
    with pytest.raises(ValueError, match="nothing to measure"):
        metrics.METRICS[name]([], [])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ImportError, match=r"package sacrebleu .*metro_jax\[metrics\]"):
        metrics.bleu(["a"], ["a"])


def test_metrics_by_name():
    assert metrics.find_metrics(["rouge", metrics.bleu]) == [metrics.rouge, metrics.bleu]
    with pytest.raises(ValueError, match="metric 'rogue' is not known; the nearest known names are rouge"):
        metrics.find_metrics(["rogue"])


def test_every_task_of_t0_has_metrics():
    by_task = catalogue.metrics()
    assert set(by_task) == {task.name for task in catalogue.tasks()}
    for names in by_task.values():
        assert metrics.find_metrics(names)
    assert by_task["quoref_Find_Answer"] == ("squad",)
    assert by_task["samsum_Summarize_"] == ("rouge",)
    assert by_task["wiqa_effect_with_string_answer"] == ("accuracy",)  # promptsource names none


def test_targets_are_compared_in_the_letters_of_the_model(golden_dir):
    tokenizer = MetroTokenizer.from_pretrained(golden_dir / "hub_tiny")
    assert metrics.as_generated("\n The  DOG helps . ", tokenizer) == "the dog helps."
    assert metrics.as_generated("", tokenizer) == ""
