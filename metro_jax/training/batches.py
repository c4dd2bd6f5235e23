"""The batches of a run: read in shards whose order does not depend on who reads them, with a position to save.

A batch of B rows is dealt into `num_shards` blocks, and every block has a tf.data iterator of its own. A process reads
the blocks that its devices hold. Any number of processes that divides `num_shards` therefore sees the same batches, and
can go on where any other such number stopped.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from metro_jax.training.errors import UserError
from metro_jax.training.partitioning import DataLayout
from metro_jax.training.utils import DatasetConfig, get_dataset, get_task


class Batches:
    """An endless iterator over this process's rows of every batch.

    Args:
        layout: this process's share.
        num_shards: blocks per batch, a multiple of the layout's; None means one per share.
        seed: used where the configuration has none.

    Raises:
        UserError: unknown task or split, lengths missing, rows that the shards cannot share.
    """

    def __init__(
        self,
        cfg: DatasetConfig,
        layout: DataLayout,
        feature_converter_cls: Callable[..., seqio.FeatureConverter],
        seed: int,
        num_shards: int | None = None,
    ) -> None:
        self.cfg = cfg
        self.num_shards = num_shards or layout.num_shards
        if self.num_shards % layout.num_shards:
            raise UserError(
                f"the data is read in {self.num_shards} shards, which {layout.num_shards} groups of processes cannot "
                f"share evenly; set utils.DatasetConfig.num_shards to a multiple of {layout.num_shards}"
            )
        each = self.num_shards // layout.num_shards
        self.shards = range(layout.shard_id * each, (layout.shard_id + 1) * each)
        datasets = [get_dataset(cfg, i, self.num_shards, feature_converter_cls, seed=seed) for i in self.shards]
        features: Any = datasets[0].element_spec
        self.shapes = {name: (cfg.batch_size, *spec.shape[1:]) for name, spec in features.items()}  # of all processes
        self.iterators: dict[int, Any] = dict(zip(self.shards, map(iter, datasets), strict=True))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            blocks = [next(iterator) for iterator in self.iterators.values()]
        except StopIteration:
            raise UserError(
                f"{self.cfg.mixture_or_task_name!r}, split {self.cfg.split!r}, gives no batch: it has no examples, or "
                f"all of them are filtered out with TASK_FEATURE_LENGTHS={dict(self.cfg.task_feature_lengths)}"
            ) from None
        if len(blocks) == 1:
            return {name: np.asarray(rows) for name, rows in blocks[0].items()}
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def evaluation_batches(
    cfg: DatasetConfig, feature_converter_cls: Callable[..., seqio.FeatureConverter], seed: int, most: int
) -> Iterator[Mapping[str, np.ndarray]]:
    """The first `most` batches of one pass over a dataset, whole in every process; the last is filled up with pads.

    Every process reads everything: shares of a finite dataset differ in length, and processes must not differ in the
    number of steps they take together.
    """
    get_task(cfg)
    dataset = get_dataset(cfg, 0, 1, feature_converter_cls, num_epochs=1, seed=seed, drop_remainder=False)
    batches: Any = dataset.take(most).as_numpy_iterator()
    for batch in batches:
        missing = cfg.batch_size - len(next(iter(batch.values())))
        yield {name: np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) for name, rows in batch.items()}


def save_position(batches: Batches, folder: Any) -> None:
    """Writes where each of this process's iterators stands."""
    for shard, iterator in batches.iterators.items():
        tf.train.Checkpoint(ds=iterator).write(position_prefix(folder, shard, batches.num_shards))


def restore_position(batches: Batches, folder: Any) -> None:
    """Moves this process's iterators to where they stood; the folder has positions of as many shards."""
    for shard, iterator in batches.iterators.items():
        prefix = position_prefix(folder, shard, batches.num_shards)
        tf.train.Checkpoint(ds=iterator).read(prefix).assert_consumed()


def position_prefix(folder: Any, shard: int, num_shards: int) -> str:
    """T5X's name for the files of one shard's position."""
    return f"{folder}/train_ds-{shard:05d}-of-{num_shards:05d}"
