"""A seqio data source over prepared records that looks at the disk when a data set is built, not before."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import seqio
import tensorflow as tf
from etils import epath

from metro_jax.data.folder import data_dir, read_info, splits
from metro_jax.data.record_format import shard_names
from metro_jax.data.records import parse
from metro_jax.data.vocabulary import MetroVocabulary


class VocabularyMismatchError(ValueError):
    """Records were prepared with another vocabulary than the one they are read with."""


class PreparedSource(seqio.DataSource):
    """The records of one prepared task.

    Attributes:
      task: the folder name of the task inside the data folder.
      kind: the kind of records the task must have.
    """

    def __init__(self, task: str, kind: str, vocabulary: MetroVocabulary, folder: str | os.PathLike[str] | None = None):
        """`folder` pins the data folder; without it `data_dir()` is asked at each use."""
        super().__init__(splits=())
        self.task, self.kind = task, kind
        self._vocabulary, self._pinned = vocabulary, folder

    @property
    def folder(self) -> epath.Path:
        """The data folder."""
        return data_dir() if self._pinned is None else epath.Path(self._pinned)

    @property
    def splits(self) -> Sequence[str]:
        """The complete splits on disk. Raises FileNotFoundError for a task that is not there."""
        return splits(self.folder, self.task)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False: a host reads whole shards, or every n-th record where there are fewer shards than hosts."""
        return False

    def info(self, split: str) -> dict[str, Any]:
        """The info file of a split.

        Raises:
          ValueError: the records are of another kind. FileNotFoundError: task or split are missing.
        """
        info = read_info(self.folder, self.task, split)
        if info.get("kind") != self.kind:
            raise ValueError(
                f"{self.folder / self.task}: holds {info.get('kind')} records, but {self.kind} records are wanted; "
                "register it as what it is or name another task"
            )
        return info

    def num_input_examples(self, split: str) -> int:
        """The number of records of a split."""
        return int(self.info(split)["examples"])

    def list_shards(self, split: str) -> Sequence[str]:
        """The shard files of a split."""
        names = shard_names(split, self.info(split)["num_shards"])
        return [str(self.folder / self.task / name) for name in names]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """The records of a split.

        Raises:
          VocabularyMismatchError: they were prepared with another vocabulary.
        """
        self.check_vocabulary(split)
        files = seqio.FileDataSource(
            functools.partial(_read, kind=self.kind), split_to_filepattern={split: self.list_shards(split)}
        )
        return files.get_dataset(split=split, shuffle=shuffle, seed=seed, shard_info=shard_info)

    def check_vocabulary(self, split: str) -> None:
        """Refuses records of another vocabulary, naming both hashes."""
        prepared, present = self.info(split)["vocabulary"], self._vocabulary.fingerprint()
        if prepared != present:
            raise VocabularyMismatchError(
                f"{self.folder / self.task}: split {split!r} was prepared with vocabulary {prepared}, but the one in "
                f"{self._vocabulary.folder} is {present}; prepare the data again with this vocabulary, or put back the "
                "one it was prepared with"
            )

    def __repr__(self) -> str:
        return f"PreparedSource({self.task!r}, {self.kind!r}, folder={self._pinned or 'data folder'})"


def _read(files: tf.Tensor, kind: str) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(files).map(lambda record: parse(record, kind), num_parallel_calls=tf.data.AUTOTUNE)
