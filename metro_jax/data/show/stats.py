"""Figures on a task or mixture: lengths, share of padding with and without packing, share of rows that are too long."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import seqio
import tensorflow as tf

from metro_jax.data import feature_converters as fc
from metro_jax.text.ids import PAD

STREAM = {"inputs": "encoder_input_tokens", "targets": "decoder_target_tokens"}


@dataclasses.dataclass
class Stats:
    """Of the looked-at rows of one task.

    Attributes:
      available: records of the split on disk.
      lengths: ids per row as stored (pretraining: of the blocks), by feature.
      limits: the lengths asked for.
      padding, packed_padding: share of pad ids in rows of that length, one example per row and packed; the latter is
        None where rows are never packed.
    """

    available: int
    lengths: dict[str, np.ndarray]
    limits: Mapping[str, int]
    padding: dict[str, float]
    packed_padding: dict[str, float] | None

    @property
    def too_long(self) -> dict[str, float]:
        """Share of rows longer than their limit, by feature."""
        return {name: float((rows > self.limits[name]).mean()) for name, rows in self.lengths.items() if len(rows)}

    @property
    def examined(self) -> int:
        """Rows looked at."""
        return len(next(iter(self.lengths.values())))


def converter_class(task: seqio.Task | seqio.Mixture) -> type[fc._MetroFeatureConverter]:
    """The feature converter that belongs to the data of a task."""
    features = set(task.output_features)
    if "generator_targets" in features:
        return fc.MetroPretrainingFeatureConverter
    source = getattr(task, "source", None)
    if getattr(source, "kind", None) == "documents":
        return fc.SpanCorruptionFeatureConverter
    return fc.EncoderDecoderFeatureConverter


def task_stats(task: seqio.Task, split: str, limits: Mapping[str, int], most: int, seed: int = 0) -> Stats:
    """The figures of one task, over at most `most` of its examples (pretraining: blocks).

    Raises:
      ValueError: the split has no example.
    """
    kind = getattr(task.source, "kind", "prompted")
    examples = task.get_dataset(dict(limits), split, shuffle=False, seed=seed, num_epochs=1).take(most)
    stored = examples if kind == "documents" else task.source.get_dataset(split, shuffle=False, seed=seed).take(most)
    lengths: dict[str, list[int]] = {name: [] for name in limits}
    for row in _rows(stored):
        for name, found in lengths.items():
            found.append(len(row[name]))
    if not lengths["inputs"]:
        raise ValueError(f"{task.name}: split {split!r} has no examples to count")
    converter = converter_class(task)
    packed = None if kind == "ranked" else _padding(converter(pack=True)(examples, dict(limits)))
    return Stats(
        available=task.num_input_examples(split) or 0,
        lengths={name: np.asarray(found) for name, found in lengths.items()},
        limits=dict(limits),
        padding=_padding(converter(pack=False)(examples, dict(limits))),
        packed_padding=packed,
    )


def _rows(dataset: tf.data.Dataset) -> Iterator[dict[str, Any]]:
    return cast(Iterator[dict[str, Any]], iter(dataset.as_numpy_iterator()))


def _padding(rows: tf.data.Dataset) -> dict[str, float]:
    """The share of pad ids in encoder and decoder rows."""
    pads, total = dict.fromkeys(STREAM, 0), dict.fromkeys(STREAM, 0)
    for batch in _rows(rows.batch(64)):
        for name, feature in STREAM.items():
            pads[name] += int((batch[feature] == PAD).sum())
            total[name] += batch[feature].size
    return {name: pads[name] / total[name] for name in STREAM if total[name]}


def plot(stats: Mapping[str, Stats], path: pathlib.Path, title: str) -> None:
    """A PNG with a histogram of the lengths of each feature, over all tasks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(STREAM), figsize=(10, 3.6), layout="constrained")
    for axis, name in zip(axes, STREAM, strict=True):
        rows = np.concatenate([one.lengths[name] for one in stats.values()])
        limit = next(iter(stats.values())).limits[name]
        longest = max(limit, int(np.quantile(rows, 0.995)))
        shown = np.minimum(rows, longest)
        axis.hist(shown, bins=min(60, longest), range=(0, longest), color="#3a6ea5")
        axis.axvline(limit, color="#c0392b", linestyle="--", label=f"limit {limit}")
        longer = float((rows > limit).mean())
        axis.set_title(
            f"{name}: median {np.median(rows):.0f}, longest {rows.max()}, {longer:.1%} too long", fontsize=10
        )
        axis.set_xlabel("ids" + (f" (longer than {longest} drawn there)" if rows.max() > longest else ""))
        axis.set_ylabel("examples")
        axis.set_ylim(top=1.25 * axis.get_ylim()[1])  # room for the legend
        axis.legend(loc="upper right", fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def tasks_of(found: seqio.Task | seqio.Mixture, split: str) -> list[seqio.Task]:
    """The tasks of a task or mixture that have the split. Raises ValueError when none has."""
    members = [found] if isinstance(found, seqio.Task) else list(found.tasks)
    present = [task for task in members if split in task.splits]
    if not present:
        known = sorted(set(itertools.chain.from_iterable(task.splits for task in members)))
        raise ValueError(f"{found.name}: no split {split!r}; there is {', '.join(known)}")
    return present
