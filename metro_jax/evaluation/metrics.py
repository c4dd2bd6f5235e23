"""Metrics of generated texts against one target each, in percent; for seqio tasks, or for any two lists of strings.

Each function takes (targets, predictions), the names by which seqio and T5X recognise it, and returns name -> value.
`METRICS` has them by the names used in a data folder's metrics.json; what T0 uses for which task, the catalogue of
`metro_jax.data.t0` knows. Ranked choices are the affair of `metro_jax.data.metrics`.

ROUGE and BLEU come from the packages rouge-score and sacrebleu, which are imported when they are first needed.
"""

import collections
import importlib
import re
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from metro_jax.data.folder import nearest
from metro_jax.text.tokenizer import MetroTokenizer

ROUGE = ("rouge1", "rouge2", "rougeLsum")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SENTENCE_END = re.compile(r"(?<=[.?!]) ")


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """`accuracy`: the share of predictions that are the target, character by character."""
    return {"accuracy": _percent(target == prediction for target, prediction in _pairs(targets, predictions))}


def squad(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """`exact_match` and `f1` (of words) as SQuAD 1.1 defines them: case, punctuation and articles do not count."""
    pairs = [(_plain(target), _plain(prediction)) for target, prediction in _pairs(targets, predictions)]
    return {
        "exact_match": _percent(target == prediction for target, prediction in pairs),
        "f1": _percent(_f1(target.split(), prediction.split()) for target, prediction in pairs),
    }


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """`rouge1`, `rouge2`, `rougeLsum`: F-measures without stemming, mean over examples, by the package rouge-score.

    For rougeLsum a text is cut into sentences after `.`, `?` or `!` and a blank.
    """
    scorer = _library("rouge_score.rouge_scorer", "rouge-score").RougeScorer(ROUGE)
    lines = [[_SENTENCE_END.sub("\n", text) for text in pair] for pair in _pairs(targets, predictions)]
    scores = [scorer.score(target, prediction) for target, prediction in lines]
    return {name: _percent(score[name].fmeasure for score in scores) for name in ROUGE}


def bleu(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """`bleu` of the corpus by the package sacrebleu: tokenizer `intl` as in T0, lower-cased as METRO's texts are."""
    targets, predictions = (list(texts) for texts in zip(*_pairs(targets, predictions), strict=True))
    library = _library("sacrebleu", "sacrebleu")
    return {"bleu": library.corpus_bleu(predictions, [targets], tokenize="intl", lowercase=True).score}


Metric = Callable[[Sequence[str], Sequence[str]], dict[str, float]]
METRICS: dict[str, Metric] = {"accuracy": accuracy, "squad": squad, "rouge": rouge, "bleu": bleu}


def find_metrics(names: Iterable[str | Metric]) -> list[Metric]:
    """The functions of these names; functions stay as they are. Raises ValueError for an unknown name."""
    found = []
    for name in names:
        if isinstance(name, str) and name not in METRICS:
            raise ValueError(f"metric {name!r} is not known; {nearest(name, METRICS)}")
        found.append(METRICS[name] if isinstance(name, str) else name)
    return found


def as_generated(text: str, tokenizer: MetroTokenizer) -> str:
    """A target in the letters a model can write: encoded and decoded, so without capitals and surplus whitespace."""
    return tokenizer.decode(tokenizer.training_ids(" ".join(text.split())))


def _pairs(targets: Sequence[str], predictions: Sequence[str]) -> list[tuple[str, str]]:
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions: every target needs one")
    if not len(targets):
        raise ValueError("no targets and predictions: there is nothing to measure")
    return list(zip(targets, predictions, strict=True))


def _percent(values: Iterable[float]) -> float:
    return 100.0 * float(np.mean([float(value) for value in values]))


def _plain(text: str) -> str:
    """Text as the evaluation of SQuAD 1.1 compares it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(target: list[str], prediction: list[str]) -> float:
    common = sum((collections.Counter(target) & collections.Counter(prediction)).values())
    if not target or not prediction:  # an answer of articles only, such as "the a": equal or not
        return float(target == prediction)
    return 2.0 * common / (len(target) + len(prediction))


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this metric needs the package {package} ({error}): pip install 'metro_jax[metrics]'"
        ) from error
