"""Accuracies over templates, their spread, and how far they would move on another sample of examples.

Accuracies are in percent. All templates of a task show the same examples, so the bootstrap draws examples, each with
its results in all templates, and never single results. Templates are not drawn: they are those of the benchmark.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0


def seed_of(name: str) -> int:
    """A seed for the draws of one task: its own, so that tasks are independent, and the same for every model."""
    return zlib.crc32(name.encode())


class Results(NamedTuple):
    """Right or wrong of every template and example of a task; an example may be missing from a template."""

    templates: list[str]
    indices: list[int]
    correct: Bool[np.ndarray, "templates examples"]
    present: Bool[np.ndarray, "templates examples"]

    def accuracies(self) -> Float[np.ndarray, "templates"]:
        """Percent right of every template."""
        return 100.0 * self.correct.sum(1) / self.present.sum(1)

    def mean(self) -> float:
        """The task's score: the mean over templates (spec 8.1)."""
        return float(self.accuracies().mean())


def tabulate(results: Mapping[str, Mapping[int, bool]]) -> Results:
    """From template -> example -> right; templates without any example are left out."""
    templates = [template for template, row in results.items() if row]
    indices = sorted({index for template in templates for index in results[template]})
    place = {index: n for n, index in enumerate(indices)}
    correct = np.zeros((len(templates), len(indices)), bool)
    present = np.zeros_like(correct)
    for row, template in enumerate(templates):
        for index, right in results[template].items():
            present[row, place[index]], correct[row, place[index]] = True, right
    return Results(templates, indices, correct, present)


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Mean, median, minimum, maximum, and the standard deviation of a sample (n - 1), None for a single value."""
    array = np.asarray(values, np.float64)
    return {
        "mean": float(array.mean()),
        "median": float(np.median(array)),
        "min": float(array.min()),
        "max": float(array.max()),
        "std": float(array.std(ddof=1)) if len(array) > 1 else None,
    }


def draws(examples: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[Int[np.ndarray, "examples"]]:
    """How often each example is drawn, for every resample; the same for the same arguments."""
    rng = np.random.default_rng([seed, examples])
    for _ in range(resamples):
        yield np.bincount(rng.integers(examples, size=examples), minlength=examples)


def bootstrap(results: Results, resamples: int = RESAMPLES, seed: int = SEED) -> Float[np.ndarray, "resamples"]:
    """The task's score in every resample of its examples."""
    correct, present = results.correct.astype(np.float64), results.present.astype(np.float64)
    means = []
    for count in draws(len(results.indices), resamples, seed):
        shown = present @ count
        with np.errstate(invalid="ignore"):  # a template none of whose few examples was drawn
            means.append(np.nanmean(np.where(shown > 0, correct @ count / np.maximum(shown, 1), np.nan)))
    return 100.0 * np.asarray(means)


def interval(replicates: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of the replicates."""
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(replicates, [tail, 100.0 - tail])
    return float(low), float(high)


def wilson(right: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a proportion, in percent."""
    from scipy import stats

    found = stats.binomtest(right, total).proportion_ci(level, method="wilson")
    return 100.0 * float(found.low), 100.0 * float(found.high)


def paired(first: Results, second: Results) -> tuple[Results, Results]:
    """Both on the templates and examples that they share, so that differences are between the same questions.

    Raises:
        ValueError: they share none.
    """
    templates = [template for template in first.templates if template in second.templates]
    indices = sorted(set(first.indices) & set(second.indices))
    made = []
    for results in (first, second):
        rows = [results.templates.index(template) for template in templates]
        place = {index: n for n, index in enumerate(results.indices)}
        columns = [place[index] for index in indices]
        made.append((results.correct[np.ix_(rows, columns)], results.present[np.ix_(rows, columns)]))
    both = made[0][1] & made[1][1]
    kept = both.any(1)
    if not kept.any():
        raise ValueError("the two results share no example")
    names = [template for template, keep in zip(templates, kept, strict=True) if keep]
    pair = [Results(names, indices, (correct & both)[kept], both[kept]) for correct, _ in made]
    return pair[0], pair[1]


def permutation_test(first: Results, second: Results, resamples: int = 9999, seed: int = SEED) -> float:
    """Two-sided p of a paired permutation test on the difference of two task scores: scipy's, exact for few examples.

    An example's results of the two models are exchanged together in all templates.

    Args:
        first, second: as `paired` gives them.
    """
    from scipy import stats

    weight = 1.0 / (first.present.sum(1) * len(first.templates))
    a, b = (weight @ results.correct for results in (first, second))
    if np.array_equal(a, b):
        return 1.0

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return (x - y).sum(axis=axis)

    test = stats.permutation_test(
        (a, b),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(a)),  # bounds memory to 32 MB an array
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def mcnemar(first: Results, second: Results) -> list[dict[str, float | int | str]]:
    """Per template, the examples only one of the two gets right, and the exact two-sided p of McNemar's test."""
    from scipy import stats

    rows = []
    for n, template in enumerate(first.templates):
        only_first = int((first.correct[n] & ~second.correct[n]).sum())
        only_second = int((second.correct[n] & ~first.correct[n]).sum())
        total = only_first + only_second
        p = float(stats.binomtest(only_first, total).pvalue) if total else 1.0
        rows.append({"template": template, "only_first": only_first, "only_second": only_second, "p": p})
    return rows


def adjusted(p_values: Sequence[float]) -> list[float]:
    """p values of several tests, adjusted by Holm's method: the chance of any false alarm stays at the level."""
    order = sorted(range(len(p_values)), key=lambda n: p_values[n])
    made, highest = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[n]))
        made[n] = highest
    return made
