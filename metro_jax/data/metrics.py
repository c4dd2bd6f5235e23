"""Rank classification from the scores of single rows (spec 8.1)."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class RankLabel(NamedTuple):
    """What a row stands for: [example, choice], whether the choice is right, and the weight of the example."""

    idx: tuple[int, int]
    is_correct: bool
    weight: float


def rank_postprocess(target: Any, example: Mapping[str, Any] | None = None, is_target: bool = False, **_: Any) -> Any:
    """seqio's postprocessor of ranked tasks: the label of a row in place of its target text."""
    if not is_target:
        return target
    if example is None or not {"idx", "is_correct", "weight"} <= set(example):
        raise ValueError(
            f"rank classification needs idx, is_correct and weight in every row but found {sorted(example or {})}; "
            "prepare the data with write_ranked and register it with register_ranked"
        )
    first, second = (int(i) for i in example["idx"])
    return RankLabel((first, second), bool(example["is_correct"]), float(example["weight"]))


def rank_accuracy(targets: Sequence[RankLabel], scores: Sequence[float]) -> dict[str, float]:
    """Accuracy in percent, and the number of examples it is taken over.

    Rows are grouped by idx[0] and ordered by idx[1]. The prediction is the first choice with the largest score (the sum
    of log-probabilities, eos included, not divided by length), the reference the first correct choice.

    Rows added to fill a batch do no harm: negative indices, weights of 0, repeated rows and scores beyond the last
    target are ignored. Examples without a correct choice (cut off by a limit on the number of rows) are left out. A
    score that is not a number makes its example count as wrong.

    Raises:
      ValueError: fewer scores than rows, or no complete example.
    """
    row_scores = np.asarray(scores, np.float64).reshape(-1)
    if len(row_scores) < len(targets):
        raise ValueError(f"{len(row_scores)} scores for {len(targets)} rows: every choice needs a score")
    groups: dict[int, dict[int, tuple[float, RankLabel]]] = collections.defaultdict(dict)
    for label, score in zip(targets, row_scores, strict=False):
        example, choice = label.idx
        if example >= 0 and choice >= 0 and label.weight > 0:
            groups[example].setdefault(choice, (float(score), label))

    right = total = 0.0
    examples = 0
    for group in groups.values():
        rows = [group[choice] for choice in sorted(group)]
        correct = [label.is_correct for _, label in rows]
        if not any(correct):
            continue
        values = np.array([score for score, _ in rows])
        weight = rows[0][1].weight
        hit = not np.isnan(values).any() and int(values.argmax()) == correct.index(True)
        right, total, examples = right + weight * hit, total + weight, examples + 1
    if not examples:
        raise ValueError(
            f"no example with a correct choice among {len(targets)} rows: score at least all choices of one example"
        )
    return {"accuracy": 100.0 * right / total, "examples": float(examples)}
