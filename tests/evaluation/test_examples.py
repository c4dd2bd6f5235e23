"""What is scored, and what becomes of records that are not quite an example."""

import pytest

from metro_jax.evaluation import examples
from metro_jax.evaluation.examples import Example, Record, judge


def record(index: int = 0, prompt: str = "Is it?", choices: tuple = ("Yes", "No"), target="No", trouble=None) -> Record:
    return Record(index, prompt, choices, target, f"line {index}", trouble)


def test_good_records_become_examples_in_order() -> None:
    found, account = judge("rte", "t", [record(3), record(1, target="Yes"), record(2, target=1)])
    assert [example.index for example in found] == [1, 2, 3]
    assert [example.target for example in found] == [0, 1, 1]
    assert account.as_json() == {"left_out": {}, "noted": {}}


@pytest.mark.parametrize(
    ("bad", "reason", "words"),
    [
        (record(7, trouble="no JSON"), examples.BROKEN, "line 7: no JSON"),
        (record(7, target="Maybe"), examples.NO_TARGET, "'Maybe', choices ['Yes', 'No']"),
        (record(7, target=None), examples.NO_TARGET, "none is marked"),
        (record(7, target=2), examples.NO_TARGET, "2"),
        (record(7, target=-1), examples.NO_TARGET, "-1"),
        (record(7, choices=("No",)), examples.FEW_CHOICES, "['No']"),
        (record(7, choices=()), examples.FEW_CHOICES, "[]"),
        (record(1), examples.REPEATED, "line 1: 1"),
    ],
)
def test_what_is_left_out_is_counted_and_named(bad: Record, reason: str, words: str) -> None:
    found, account = judge("rte", "t", [record(1), bad, record(2)])
    assert [example.index for example in found] == [1, 2]
    assert list(account.left_out) == [reason]
    assert words in account.left_out[reason][0]


def test_what_is_kept_is_noted() -> None:
    odd = [
        record(0, prompt=" \n"),
        record(1, choices=("No", "")),
        record(2, choices=("No", "Yes", "Yes"), target="Yes"),
        record(3, choices=("No", "Yes", "Yes"), target=2),
    ]
    found, account = judge("rte", "t", odd)
    assert [example.target for example in found] == [1, 0, 1, 1]  # of equal choices the first counts
    assert account.noted == {
        examples.EMPTY_PROMPT: ["line 0"],
        examples.EMPTY_CHOICE: ["line 1"],
        examples.EQUAL_CHOICES: ["line 2", "line 3"],
    }


def test_the_hash_is_of_all_that_is_scored() -> None:
    base = Example("rte", "t", 0, "a", ("x", "y"), 0)
    others = [
        Example("rte", "t", 0, "b", ("x", "y"), 0),
        Example("rte", "t", 0, "a", ("y", "x"), 0),
        Example("rte", "t", 0, "a", ("x", "y"), 1),
        Example("rte", "t", 0, 'a", "x', ("y",), 0),
    ]
    assert len({example.digest() for example in [base, *others]}) == 5
    assert Example("cb", "u", 9, "a", ("x", "y"), 0).digest() == base.digest()
    assert len(base.digest()) == 16
    assert Example("rte", "t", 0, "lone \ud800 surrogate", ("x", "y"), 0).digest()
