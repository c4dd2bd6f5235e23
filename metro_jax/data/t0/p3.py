"""The dataset bigscience/P3 as it lies on disk, in either of its layouts, as rows of text.

    FOLDER/data/TASK/{info,stats}.SPLIT.json, SPLIT.tfrecord-00000-of-0000N     as seqio wrote it when T0 was trained
    FOLDER/TASK/SPLIT-00000-of-0000N.parquet                                    as the Hub shows it now

FOLDER may also be the folder `data` itself. Of the columns only the text is used: `inputs_pretokenized`,
`targets_pretokenized`, `answer_choices`, and in the `_score_eval` tasks `idx`, `is_correct`, `weight`; the columns
`inputs` and `targets` hold ids of T5's vocabulary (spec 7.2).
"""

import collections
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

RECORDS, PARQUET = "tfrecord", "parquet"
TEXT = ("inputs_pretokenized", "targets_pretokenized", "answer_choices")
LABELS = ("idx", "is_correct", "weight")
POINTER = b"version https://git-lfs"  # first bytes of the file that stands for one in Git LFS

_RECORD_SHARD = re.compile(r"(?P<split>.+)\.tfrecord-(?P<index>\d+)-of-(?P<count>\d+)")
_PARQUET_SHARD = re.compile(r"(?P<split>.+)-(?P<index>\d+)-of-(?P<count>\d+)\.parquet")


class Row(NamedTuple):
    """One rendered example, or one choice of it where `idx` = (example, choice) is given."""

    inputs: str
    targets: str
    answer_choices: tuple[str, ...] = ()
    idx: tuple[int, int] | None = None
    is_correct: bool = False
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Split:
    """The files of one split of one task."""

    task: str
    name: str
    layout: str
    files: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(os.path.getsize(file) for file in self.files)

    def signature(self) -> dict[str, int]:
        """Name and size of every file: what a later run compares to know that the source is still the same."""
        return {os.path.basename(file): os.path.getsize(file) for file in self.files}


class BrokenSplitError(ValueError):
    """Files of a split are missing or cannot be read."""


def task_folder(folder: pathlib.Path, task: str) -> pathlib.Path | None:
    """Where a task lies below FOLDER, in either layout; None where it does not."""
    for root in (folder, folder / "data"):
        if (root / task).is_dir():
            return root / task
    return None


def task_names(folder: pathlib.Path) -> list[str]:
    """The names of all tasks below FOLDER."""
    names = {
        path.name
        for root in (folder, folder / "data")
        if root.is_dir()
        for path in root.iterdir()
        if path.is_dir() and path.name != "data" and not path.name.startswith(".")
    }
    return sorted(names)


def splits(folder: pathlib.Path, task: str) -> dict[str, Split]:
    """The splits of a task, by name; empty when the task is not there.

    Raises:
      BrokenSplitError: shards are missing, or stand for files that were not fetched.
    """
    where = task_folder(folder, task)
    if where is None:
        return {}
    shards: dict[tuple[str, str], dict[int, pathlib.Path]] = collections.defaultdict(dict)
    counts: dict[tuple[str, str], int] = {}
    for path in sorted(where.iterdir()):
        for layout, pattern in ((RECORDS, _RECORD_SHARD), (PARQUET, _PARQUET_SHARD)):
            if match := pattern.fullmatch(path.name):
                shards[match["split"], layout][int(match["index"])] = path
                counts[match["split"], layout] = int(match["count"])
    for path in where.glob("info.*.json"):
        name = path.name[len("info.") : -len(".json")]
        if (name, RECORDS) not in shards and (name, PARQUET) not in shards:
            counts[name, RECORDS] = json.loads(path.read_text()).get("num_shards", 1)
    found: dict[str, Split] = {}
    for (name, layout), count in sorted(counts.items()):
        files = shards[name, layout]
        if len(files) != count:
            raise BrokenSplitError(
                f"{where}: split {name!r} has {len(files)} of {count} {layout} files; fetch the folder again"
            )
        found.setdefault(name, Split(task, name, layout, tuple(str(files[i]) for i in sorted(files))))
    for split in found.values():
        _check_fetched(split)
    return found


def _check_fetched(split: Split) -> None:
    for file in split.files:
        with open(file, "rb") as stream:
            if stream.read(len(POINTER)) == POINTER:
                raise BrokenSplitError(f"{file}: only a Git LFS pointer is here; run `git lfs pull` in this repository")


def rows(split: Split) -> Iterator[tuple[Row | str, int]]:
    """The rows of a split in the order of its files, each with the bytes of the files that it took.

    A row that is no valid text comes as the reason, a string, in place of the row.

    Raises:
      BrokenSplitError: a file cannot be read, or lacks the columns of text.
    """
    for file in split.files:
        read = _record_rows if split.layout == RECORDS else _parquet_rows
        for columns, size in read(file):
            yield _row(columns, file), size


def _row(columns: Mapping[str, Any], file: str) -> Row | str:
    if columns.get("inputs_pretokenized") is None or columns.get("targets_pretokenized") is None:
        raise BrokenSplitError(
            f"{file}: no column inputs_pretokenized or targets_pretokenized; it has {', '.join(sorted(columns))}"
        )
    try:
        source, target = _text(columns["inputs_pretokenized"]), _text(columns["targets_pretokenized"])
        choices = tuple(_text(choice).strip() for choice in columns.get("answer_choices") or ())
    except UnicodeDecodeError:
        return "invalid UTF-8"
    idx = columns.get("idx")
    if idx is None:
        return Row(source, target, choices)
    weight = columns.get("weight")
    return Row(
        source,
        target,
        choices,
        (int(idx[0]), int(idx[1])),
        bool(columns["is_correct"]),
        1.0 if weight is None else float(weight),
    )


def _text(value: str | bytes) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _record_rows(file: str) -> Iterator[tuple[dict[str, Any], int]]:
    import tensorflow as tf

    scalars = {"inputs_pretokenized", "targets_pretokenized", "is_correct", "weight"}
    try:
        for serialized in tf.data.TFRecordDataset(file).as_numpy_iterator():
            record: bytes = serialized  # type: ignore[assignment]
            feature = tf.train.Example.FromString(record).features.feature
            columns: dict[str, Any] = {}
            for name in (*TEXT, *LABELS):
                if name in feature:
                    values = getattr(feature[name], str(feature[name].WhichOneof("kind")), None)
                    values = [] if values is None else list(values.value)
                    columns[name] = (values[0] if values else None) if name in scalars else values
            yield columns, len(record) + 16  # length, its checksum, the record's checksum
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError, ValueError) as error:
        message = getattr(error, "message", error)
        raise BrokenSplitError(f"{file}: damaged ({message}); fetch it again") from error
    except Exception as error:  # protobuf's DecodeError, whose class depends on the implementation
        if type(error).__name__ != "DecodeError":
            raise
        raise BrokenSplitError(f"{file}: holds something other than tf.train.Example records") from error


def _parquet_rows(file: str) -> Iterator[tuple[dict[str, Any], int]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{file}: reading parquet needs the package pyarrow (pip install pyarrow)") from error
    try:
        with pyarrow.parquet.ParquetFile(file) as source:
            names = [name for name in (*TEXT, *LABELS) if name in source.schema_arrow.names]
            per_row = os.path.getsize(file) // max(1, source.metadata.num_rows)
            for batch in source.iter_batches(batch_size=1024, columns=names):
                for columns in batch.to_pylist():
                    yield columns, per_row
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise BrokenSplitError(f"{file}: not a readable parquet file ({error}); fetch it again") from error
