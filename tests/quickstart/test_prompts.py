"""Properties of the generated prompts: balanced, repeatable, and nothing held out occurs in training."""

import collections

import pytest

from metro_jax.quickstart import prompts, words
from metro_jax.quickstart.corpus import trigrams
from metro_jax.quickstart.families import GENERATORS, LABELS, REVIEW_FRAMES, REVIEW_FRAMES_HELD_OUT
from metro_jax.quickstart.prompts import Example
from metro_jax.quickstart.templates import ANSWER, HELD_OUT_FAMILY, QUESTION, QUESTION_REVIEW, TEMPLATES

SEED = 3
TRAINED, EVALUATED = 200, 40


@pytest.fixture(scope="module")
def training() -> list[Example]:
    return prompts.training_examples(TRAINED, SEED)


@pytest.fixture(scope="module")
def evaluation() -> list[Example]:
    return prompts.evaluation_examples(EVALUATED, SEED)


def test_families_and_templates_are_as_promised() -> None:
    assert TEMPLATES.keys() == GENERATORS.keys() == LABELS.keys()
    assert len(TEMPLATES) >= 6
    for family, templates in TEMPLATES.items():
        assert len({template.name for template in templates}) == len({template.text for template in templates})
        assert len(templates) == len({template.text for template in templates}) >= 4
        assert any(template.held_out for template in templates)
        assert all(template.held_out for template in templates) == (family == HELD_OUT_FAMILY)


def test_same_seed_same_examples(training: list[Example], evaluation: list[Example]) -> None:
    assert prompts.training_examples(TRAINED, SEED) == training
    assert prompts.evaluation_examples(EVALUATED, SEED) == evaluation
    assert prompts.training_examples(TRAINED, SEED + 1) != training


def test_examples_are_distinct_and_answerable(training: list[Example], evaluation: list[Example]) -> None:
    everything = training + evaluation
    assert len({(example.family, example.inputs) for example in everything}) == len(everything)
    for example in everything:
        assert example.target in example.choices
        assert len(set(example.choices)) == len(example.choices)
        assert "{" not in example.inputs
        assert "}" not in example.inputs


def test_labels_and_templates_come_in_equal_shares(training: list[Example], evaluation: list[Example]) -> None:
    for examples in (training, evaluation):
        answers = collections.Counter((e.family, e.template, e.answer) for e in examples)
        shares = collections.defaultdict(list)
        for (family, template, _), count in answers.items():
            shares[family, template].append(count)
        for (family, template), counts in shares.items():
            assert len(counts) == LABELS[family], (family, template)
            assert max(counts) - min(counts) <= 1, (family, template)
    for examples, count in ((training, TRAINED), (evaluation, EVALUATED)):
        assert set(collections.Counter((e.family, e.template) for e in examples).values()) == {count}


def test_held_out_templates_and_family_are_not_in_training(training: list[Example], evaluation: list[Example]) -> None:
    held_out = {(family, t.name) for family, templates in TEMPLATES.items() for t in templates if t.held_out}
    assert not {(e.family, e.template) for e in training} & held_out
    assert {(e.family, e.template) for e in evaluation} == held_out
    assert {e.family for e in training} == TEMPLATES.keys() - {HELD_OUT_FAMILY}
    assert all((e.split == prompts.HELD_OUT_TASK) == (e.family == HELD_OUT_FAMILY) for e in evaluation)


def test_evaluation_uses_words_that_training_does_not(training: list[Example], evaluation: list[Example]) -> None:
    trained_words = {word for e in training for word in e.inputs.lower().replace(".", " ").split()}
    assert not trained_words & {name.lower() for name in words.NAMES_HELD_OUT}
    trained_text = "\n".join(e.inputs.lower() for e in training if e.family == "sentiment")
    assert not [product for product in words.PRODUCTS_HELD_OUT if product in trained_text]
    reviews = [e.inputs for e in evaluation if e.family == "sentiment"]
    assert all(any(product in review for product in words.PRODUCTS_HELD_OUT) for review in reviews)


def test_reviews_differ_by_polarity_words_only() -> None:
    assert not set(REVIEW_FRAMES) & set(REVIEW_FRAMES_HELD_OUT)
    for good, bad in (
        (words.GOOD, words.BAD),
        (words.BEST, words.WORST),
        (words.LIKE, words.DISLIKE),
        (words.GOOD_OUTCOMES, words.BAD_OUTCOMES),
    ):
        assert len(good) == len(bad)
        assert not set(good) & set(bad)
    assert len(words.PRODUCTS) >= 50
    assert not set(words.PRODUCTS) & set(words.PRODUCTS_HELD_OUT)


def test_the_closing_question_is_not_planted(training: list[Example]) -> None:
    texts = [e.inputs + "\n" + e.target for e in training]
    assert prompts.leaks(texts) == set()
    assert not [text for text in texts if "skillet" in text.lower() or "cast iron" in text.lower()]
    assert QUESTION.endswith(QUESTION_REVIEW)
    (card,) = [t for t in TEMPLATES["sentiment"] if t.text.format(review=QUESTION_REVIEW, product="") == QUESTION]
    assert card.held_out
    assert ANSWER in card.choices
    question_words = trigrams(QUESTION.partition("Review:")[0])
    assert not [text for text in texts if question_words <= trigrams(text)]


def test_leaks_are_found() -> None:
    assert prompts.leaks(["Surely the best cast of all."]) == {("the", "best", "cast")}


def test_more_than_the_words_can_give_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1000000 examples of the family 'sentiment'.*gave only \d+"):
        prompts._examples("sentiment", TEMPLATES["sentiment"][:1], 1_000_000, prompts.TRAIN, SEED, attempts=2000)
