"""Epochs as the reference has them: min(size, cap) examples of every task, each exactly once (spec 6.2).

A task larger than its cap is walked through along a fixed permutation, a slice of `cap` examples in each epoch. Unlike
a seqio mixture, whose draws are in these proportions only on average, nothing comes twice before everything has come
once. Records are read from front to back and those outside the slice are passed over, so that the state of the iterator
can be saved; within an epoch the tasks are interleaved at random.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from metro_jax.data.records import parse
from metro_jax.data.reference_batches import permutations
from metro_jax.data.registry import PreparedTask
from metro_jax.data.sources import PreparedSource

SEED = 1  # of the published runs (spec 5.5), where none is given
BUFFER = 256  # records of one task among which the next is drawn; one such buffer for each task
CHUNK = 2**15  # examples between which the order of the tasks is random; every chunk has its share of each task


@dataclasses.dataclass(frozen=True)
class _Stream:
    """The records of one task that this host reads, and where each stands in the task's permutation."""

    files: list[str]
    host: tuple[int, int] | None  # (index, count): take every count-th record
    size: int  # examples of the task, on all hosts
    local: int  # on this host
    cap: int | None
    ranks: tf.Tensor | None  # int32 [local]; None: every epoch has the whole task

    def chosen(self, epoch: tf.Tensor) -> tf.Tensor:
        """Bool [local]: the records of an epoch (from 1)."""
        assert self.ranks is not None
        assert self.cap is not None
        begin = tf.cast(tf.math.floormod(epoch * self.cap, self.size), tf.int32)
        return tf.math.floormod(self.ranks - begin, self.size) < self.cap

    def records(self, epoch: tf.Tensor, seed: tf.Tensor | None) -> tuple[tf.data.Dataset, tf.Tensor]:
        """The serialized records of an epoch, and how many they are."""
        dataset: tf.data.Dataset = tf.data.TFRecordDataset(self.files)
        if self.host is not None:
            dataset = dataset.shard(self.host[1], self.host[0])
        count = tf.constant(self.local, tf.int64)
        if self.ranks is not None:
            chosen = self.chosen(epoch)
            numbered: Any = dataset.enumerate()  # the annotations of tf.data know no functions of two elements
            dataset = numbered.filter(lambda i, _: tf.gather(chosen, i)).map(lambda _, record: record)
            count = tf.reduce_sum(tf.cast(chosen, tf.int64))
        return dataset if seed is None else _shuffle(dataset, seed), count


class EpochSource(seqio.DataSource):
    """The examples of prompted tasks in epochs with caps."""

    def __init__(self, sources: Mapping[str, PreparedSource], caps: Mapping[str, int | None], partial: bool = False):
        """
        Args:
          sources: in the order in which the tasks draw their permutations.
          caps: the cap of each.
          partial: a task without the split that is asked for is left out.
        """
        super().__init__(splits=(), performs_internal_shuffling=True)
        self.sources, self.caps, self.partial = dict(sources), dict(caps), partial
        self._epochs: int | None = None

    @property
    def splits(self) -> Sequence[str]:
        """The splits that every task has; with `partial` those that some task has."""
        found = [set(source.splits) for source in self.sources.values()]
        return tuple(sorted(set.union(*found) if self.partial else set.intersection(*found)))

    def having(self, split: str) -> dict[str, PreparedSource]:
        """The tasks that a split is made of."""
        return {name: s for name, s in self.sources.items() if not self.partial or split in s.splits}

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """True: a host reads whole shards where each host gets some, and every n-th record elsewhere."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """All shard files of all tasks."""
        return [file for source in self.having(split).values() for file in source.list_shards(split)]

    def num_input_examples(self, split: str) -> int:
        """The examples of an epoch."""
        sizes = {name: source.num_input_examples(split) for name, source in self.having(split).items()}
        return sum(size if (cap := self.caps[name]) is None else min(size, cap) for name, size in sizes.items())

    @contextlib.contextmanager
    def lasting(self, epochs: int | None) -> Iterator[None]:
        """Data sets built inside last so many epochs; None is for ever."""
        before, self._epochs = self._epochs, epochs
        try:
            yield
        finally:
            self._epochs = before

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """The records, epoch after epoch. Raises VocabularyMismatchError as `PreparedSource`."""
        seed = SEED if seed is None else int(seed)
        streams = self._streams(split, seed, shard_info)
        build = functools.partial(_epoch, streams, seed if shuffle else None)
        last = np.iinfo(np.int64).max if self._epochs is None else self._epochs + 1
        records = tf.data.Dataset.range(1, last).flat_map(build)
        return records.map(lambda record: parse(record, "prompted"), tf.data.AUTOTUNE)

    def _streams(self, split: str, seed: int, shard_info: seqio.ShardInfo | None) -> list[_Stream]:
        names = list(self.having(split))
        sizes = [self.sources[name].num_input_examples(split) for name in names]
        caps = [self.caps[name] for name in names]
        streams = []
        for name, size, cap, permutation in zip(names, sizes, caps, permutations(sizes, caps, seed), strict=True):
            self.sources[name].check_vocabulary(split)
            ranks = None
            if permutation is not None:
                ranks = np.empty(size, np.int32)
                ranks[permutation] = np.arange(size, dtype=np.int32)
            streams.append(_stream(list(self.sources[name].list_shards(split)), size, cap, ranks, shard_info))
        return streams


def _stream(
    files: list[str], size: int, cap: int | None, ranks: np.ndarray | None, shard_info: seqio.ShardInfo | None
) -> _Stream:
    """What one host reads of a task. Record j of shard s of n is example s + j n: so the shards are written."""
    index, hosts = (0, 1) if shard_info is None else (shard_info.index, shard_info.num_shards)
    by_file = len(files) >= hosts
    mine = list(range(len(files)))[index::hosts] if by_file else list(range(len(files)))
    examples = np.concatenate([np.arange(shard, size, len(files)) for shard in mine])
    if not by_file:
        examples = examples[index::hosts]
    local = None if ranks is None else tf.constant(ranks[examples])  # here, so that no graph holds a copy
    host = None if by_file else (index, hosts)
    return _Stream([files[i] for i in mine], host, size, len(examples), cap, local)


def _epoch(streams: Sequence[_Stream], seed: int | None, epoch: tf.Tensor) -> tf.data.Dataset:
    """The serialized records of one epoch: the tasks one after the other, or with a seed all mixed."""
    if seed is None:
        datasets = [stream.records(epoch, None)[0] for stream in streams]
        return functools.reduce(lambda one, other: one.concatenate(other), datasets)
    seeds = [tf.constant(seed, tf.int64) * 1_000_003 + epoch * 1_009 + number for number in range(len(streams))]
    parts = [stream.records(epoch, own) for stream, own in zip(streams, seeds, strict=True)]
    counts = tf.stack([count for _, count in parts])
    return tf.data.Dataset.choose_from_datasets(
        [dataset for dataset, _ in parts], _order(counts, tf.stack([tf.constant(seed, tf.int64), epoch]))
    )


def _order(counts: tf.Tensor, seed: tf.Tensor) -> tf.data.Dataset:
    """Task numbers, task t counts[t] times, in random order; evenly over chunks, so that no order is held as a
    whole."""
    chunks = tf.reduce_sum(counts) // CHUNK + 1
    # Where in the chunks a task's examples fall; in 1024ths, so that adding them to a count is exact.
    phase = tf.random.stateless_uniform(tf.shape(counts), seed, 0, 1024, tf.int64)

    def before(chunk: tf.Tensor) -> tf.Tensor:
        return (counts * chunk * 1024 // chunks + phase) // 1024

    def order(chunk: tf.Tensor) -> tf.data.Dataset:
        tasks = tf.repeat(tf.range(tf.size(counts, tf.int64)), before(chunk + 1) - before(chunk))
        own = tf.stack([seed[0], seed[1] * 1_000_003 + chunk])
        shuffled = tf.random.experimental.stateless_shuffle(tasks, own)  # type: ignore[attr-defined]
        return tf.data.Dataset.from_tensor_slices(shuffled)

    return tf.data.Dataset.range(chunks).flat_map(order)


def _shuffle(dataset: tf.data.Dataset, seed: tf.Tensor) -> tf.data.Dataset:
    """`dataset.shuffle`, whose Python wrapper makes a stateful seed generator inside a function: then no state could be
    saved."""
    variant = tf.raw_ops.ShuffleDataset(  # type: ignore[attr-defined]
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=tf.constant(BUFFER, tf.int64),
        seed=seed,
        seed2=tf.constant(0, tf.int64),
        output_types=[tf.string],
        output_shapes=[[]],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


class EpochTask(PreparedTask):
    """A task over an `EpochSource`, which knows by itself how to go from one epoch to the next."""

    def get_dataset(self, *args: Any, num_epochs: int | None = 1, **kwargs: Any) -> tf.data.Dataset:
        """As `seqio.Task.get_dataset`."""
        assert isinstance(self.source, EpochSource)
        with self.source.lasting(num_epochs):
            return super().get_dataset(*args, num_epochs=1, **kwargs)
