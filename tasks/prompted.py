"""Prompted tasks for finetuning, ranked tasks for evaluation, and mixtures with capped rates (spec 6, 8.1).

Records come from `metro_jax.data.records.write_prompted` and `write_ranked`. Usually nobody calls these functions:
`metro_jax.tasks.prepared` does for all that lies in the data folder. To pick by hand, in a module of your own:

    register_prompted("reviews_liked")                       # reads FOLDER/reviews_liked
    register_ranked("reviews_liked_score_eval")
    register_mixture("all_reviews", ["reviews_liked", "reviews_stars"], cap=500_000)
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from metro_jax.data import preprocessors
from metro_jax.data.epochs import EpochSource, EpochTask
from metro_jax.data.metrics import rank_accuracy, rank_postprocess
from metro_jax.data.registry import add_mixture, add_task
from metro_jax.data.sources import PreparedSource
from metro_jax.data.vocabulary import MetroVocabulary
from metro_jax.evaluation.metrics import Metric, as_generated, find_metrics


def register_prompted(
    name: str,
    folder_task: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    too_long: str | None = None,
    metrics: Sequence[str | Metric] = (),
) -> seqio.Task:
    """Registers the prompted pairs in FOLDER/folder_task (default: FOLDER/name): features `inputs`, `targets`.

    For `EncoderDecoderFeatureConverter`. `folder` pins the data folder; by default `data_dir()` is asked at each use.

    Args:
      too_long: "truncate" or "drop" (spec 6.3); None leaves it to `too_long_examples.choice` in gin.
      metrics: names of `metro_jax.evaluation.metrics`, or functions of (targets, predictions): of generated answers
        against the whole target.
    """
    postprocess = functools.partial(_answer, vocabulary=_vocabulary(folder)) if metrics else None
    return _register(name, folder_task, folder, "prompted", too_long, find_metrics(metrics), postprocess)


def _answer(
    text: str, example: Mapping[str, Any] | None = None, is_target: bool = False, *, vocabulary: MetroVocabulary
) -> str:
    """seqio's postprocessor of prompted tasks: the target as a model can write it, and what a model wrote as it is.

    seqio hands over the target as it was given in `targets_pretokenized`, not cut to a length.
    """
    del example
    return as_generated(text, vocabulary.tokenizer) if is_target else text


def register_ranked(
    name: str, folder_task: str | None = None, folder: str | os.PathLike[str] | None = None
) -> seqio.Task:
    """Registers the ranked rows in FOLDER/folder_task (default: FOLDER/name), scored by `rank_accuracy`.

    For `RankFeatureConverter` or `EncoderDecoderFeatureConverter` without packing. Sources that are too long are cut
    before their eos (spec 8.1).
    """
    return _register(name, folder_task, folder, "ranked", "truncate", [rank_accuracy], rank_postprocess)


def _register(
    name: str,
    folder_task: str | None,
    folder: str | os.PathLike[str] | None,
    kind: str,
    too_long: str | None,
    metric_fns: Sequence[Callable],
    postprocess_fn: Callable | None,
) -> seqio.Task:
    vocabulary = _vocabulary(folder)
    feature = seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32)
    return add_task(
        name,
        source=PreparedSource(folder_task or name, kind, vocabulary, folder),
        output_features={"inputs": feature, "targets": feature},
        preprocessors=[functools.partial(preprocessors.fit, too_long=too_long)],
        postprocess_fn=postprocess_fn,
        metric_fns=list(metric_fns),
    )


def register_epochs(
    name: str,
    tasks: Mapping[str, int | None],
    folder: str | os.PathLike[str] | None = None,
    too_long: str | None = None,
    partial: bool = False,
) -> seqio.Task:
    """Registers one task of the prompted records of many, in the reference's epochs: exactly min(size, cap) examples of
    each, a new slice of the larger ones in every epoch (spec 6.2).

    Args:
      tasks: folder name -> cap (None: no cap).
      partial: a task without the split that is asked for is left out, as it is in a seqio mixture; otherwise only the
        splits that all tasks have are there.
    """
    vocabulary = _vocabulary(folder)
    sources = {task: PreparedSource(task, "prompted", vocabulary, folder) for task in tasks}
    feature = seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32)
    return add_task(
        name,
        EpochTask,
        source=EpochSource(sources, tasks, partial),
        output_features={"inputs": feature, "targets": feature},
        preprocessors=[functools.partial(preprocessors.fit, too_long=too_long)],
        shuffle_buffer_size=None,  # a buffer across epochs would blur them
    )


def _vocabulary(folder: str | os.PathLike[str] | None) -> MetroVocabulary:
    return MetroVocabulary(None if folder is None else os.path.join(folder, "vocab"))


def capped_rate(task: seqio.Task | seqio.Mixture, cap: int | None = None, split: str = "train") -> float:
    """The mixing rate min(size, cap) of a task, from its number of training examples (spec 6.2)."""
    size = task.num_input_examples(split) or 0
    return float(size if cap is None else min(size, cap))


def register_mixture(
    name: str, tasks: Sequence[str] | Mapping[str, int | None], cap: int | None = None, split: str = "train"
) -> seqio.Mixture:
    """Registers a mixture of tasks with rates proportional to min(size, cap) (spec 6.2).

    Args:
      tasks: names of registered tasks, or a mapping of names to their own caps (None: no cap).
      cap: the cap of tasks without one of their own. Sizes are looked up when a data set is built.
      split: the split whose sizes count.
    """
    caps = dict(tasks) if isinstance(tasks, Mapping) else dict.fromkeys(tasks, cap)
    rates = {task: functools.partial(capped_rate, cap=limit, split=split) for task, limit in caps.items()}
    return add_mixture(name, list(rates.items()))
