"""Prepared records: text is normalised and encoded once, offline, into sharded TFRecords of token ids.

Three kinds, each a tf.train.Example with these features:

* documents (pretraining, spec 4.1): `ids`, all lines of a document one after the other, every line ended by eos, and
  `line_lengths`.
* prompted (finetuning, spec 6.1): `inputs` (`<s>` ... `</s>`), `targets` (... `</s>`), and the text as it was given in
  `inputs_pretokenized`, `targets_pretokenized`.
* ranked (rank classification, spec 8.1): one row per example and choice, as the `_score_eval` tasks of P3: the features
  of prompted records and `idx` = [example, choice], `is_correct`, `weight`.

The functions `*_features` turn one piece of text into the features of one record; `RecordWriter` puts records into
shards; the functions `write_*` join the two for an iterable in memory order.
"""

import collections
import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import rich.progress
import tensorflow as tf
from etils import epath

from metro_jax.data.folder import write_json
from metro_jax.data.record_format import FIELDS, describe, shard_names
from metro_jax.text.ids import EOS
from metro_jax.text.tokenizer import MetroTokenizer

CHUNK = 256  # examples encoded in one call of the tokenizer

Item = TypeVar("Item")


def document_features(lines: Sequence[str], tokenizer: MetroTokenizer) -> dict[str, Any]:
    """The record of one document. A line without any word becomes a lone eos, which separates documents (spec 4.1)."""
    rows = tokenizer.training_ids_batch(lines, bos=False)
    return {"ids": list(itertools.chain.from_iterable(rows)), "line_lengths": [len(row) for row in rows]}


def prompted_features(pairs: Sequence[tuple[str, str]], tokenizer: MetroTokenizer) -> list[dict[str, Any]]:
    """The records of prompted (inputs, targets) pairs: whitespace collapsed, training-path ids (spec 6.1)."""
    inputs = tokenizer.training_ids_batch([" ".join(source.split()) for source, _ in pairs])
    targets = tokenizer.training_ids_batch([" ".join(target.split()) for _, target in pairs], bos=False)
    return [
        {"inputs": i, "targets": t, "inputs_pretokenized": pair[0], "targets_pretokenized": pair[1]}
        for i, t, pair in zip(inputs, targets, pairs, strict=True)
    ]


def ranked_features(
    text: str, choice: str, tokenizer: MetroTokenizer, *, idx: tuple[int, int], is_correct: bool, weight: float = 1.0
) -> dict[str, Any]:
    """The record of one choice of an example, encoded as the evaluation does (Hub path, at most 255 labels; 8.1)."""
    return {
        "inputs": tokenizer.encode(text),
        "targets": tokenizer.encode_choice(choice),
        "inputs_pretokenized": text,
        "targets_pretokenized": choice,
        "idx": list(idx),
        "is_correct": is_correct,
        "weight": weight,
    }


def serialize(features: Mapping[str, Any], kind: str) -> bytes:
    """A record as bytes, the same bytes for the same features."""
    example = tf.train.Example()
    for name, field in FIELDS[kind].items():
        value = features[name]
        feature = example.features.feature[name]
        if field.dtype == "string":
            feature.bytes_list.value.append(value.encode("utf-8"))
        elif field.dtype == "float32":
            feature.float_list.value.append(value)
        else:
            feature.int64_list.value.extend([int(value)] if field.shape == () else value)
    return example.SerializeToString(deterministic=True)


def parse(serialized: tf.Tensor, kind: str) -> dict[str, tf.Tensor]:
    """The features of a record in the dtypes of `FIELDS` (ids: int32)."""
    stored = {"string": tf.string, "float32": tf.float32}
    description = {}
    for name, field in FIELDS[kind].items():
        dtype = stored.get(field.dtype, tf.int64)
        if field.shape == (None,):
            description[name] = tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True)
        else:
            description[name] = tf.io.FixedLenFeature(field.shape, dtype)
    parsed = tf.io.parse_single_example(serialized, description)
    return {name: tf.cast(parsed[name], field.dtype) if field.dtype != "string" else parsed[name]
            for name, field in FIELDS[kind].items()}  # fmt: skip


class RecordWriter:
    """Writes one split of one task: FOLDER/TASK/SPLIT.tfrecord-00000-of-0000N and FOLDER/TASK/info.SPLIT.json.

    To be used in a `with` statement. The shards are written under temporary names; when the block ends without an error
    they are renamed and the info file is written last. After an error nothing new is left behind, and an earlier
    version of the split stays as it was. Records go to the shards in turn unless `write` names one.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        task: str,
        split: str,
        kind: str,
        tokenizer: MetroTokenizer,
        shards: int = 1,
    ):
        """Raises ValueError for an unknown kind or fewer than one shard."""
        if kind not in FIELDS:
            raise ValueError(f"kind={kind!r}: records are of the kinds {', '.join(FIELDS)}")
        if shards < 1:
            raise ValueError(f"shards={shards}: at least one shard is needed")
        self._folder = epath.Path(folder) / task
        self._split, self._kind, self._tokenizer = split, kind, tokenizer
        self._shards = shards
        self._writers: list[tf.io.TFRecordWriter] = []
        self._examples = 0
        self._tokens: collections.Counter[str] = collections.Counter()
        self._longest: collections.Counter[str] = collections.Counter()
        self.dropped: collections.Counter[str] = collections.Counter()  # reason -> number; goes into the info file

    def __enter__(self) -> "RecordWriter":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writers = [tf.io.TFRecordWriter(str(self._temporary(i))) for i in range(self._shards)]
        return self

    def write(self, features: Mapping[str, Any], shard: int | None = None) -> None:
        """Appends a record to a shard (by default to the next in turn)."""
        for name, field in FIELDS[self._kind].items():
            if field.shape == (None,):
                self._tokens[name] += len(features[name])
                self._longest[name] = max(self._longest[name], len(features[name]))
        index = self._examples if shard is None else shard
        self._writers[index % self._shards].write(serialize(features, self._kind))
        self._examples += 1

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            for writer in self._writers:
                writer.close()
            if error_type is None:
                self._publish()
        finally:
            for index in range(self._shards):
                with contextlib.suppress(FileNotFoundError):
                    self._temporary(index).unlink()

    @property
    def info(self) -> dict[str, Any]:
        """What the info file says of the records written so far."""
        vocabulary, vocab_size = self._tokenizer.fingerprint(), self._tokenizer.vocab_size
        return describe(self._kind, self._shards, vocabulary, vocab_size) | {
            "examples": self._examples,
            "totals": dict(self._tokens),
            "longest": dict(self._longest),
            "dropped": dict(self.dropped),
        }

    def _publish(self) -> None:
        if not self._examples:
            raise ValueError(
                f"{self._folder}: split {self._split!r} would have no records; check the input it is made of"
            )
        info = self._folder / f"info.{self._split}.json"
        with contextlib.suppress(FileNotFoundError):
            info.unlink()  # until all shards are in place the split counts as missing
        shards = shard_names(self._split, self._shards)
        for old in self._folder.glob(f"{self._split}.tfrecord-*"):
            if old.name not in shards:
                old.unlink()
        for index, name in enumerate(shards):
            self._temporary(index).replace(self._folder / name)
        write_json(info, self.info)

    def _temporary(self, index: int) -> epath.Path:
        return self._folder / f".{self._split}.{index:05d}.{os.getpid()}.tmp"


def write_documents(
    folder: str | os.PathLike[str],
    task: str,
    split: str,
    documents: Iterable[Sequence[str]],
    tokenizer: MetroTokenizer,
    shards: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes pretraining documents, each a list of lines (sentences), and returns what the info file says.

    Documents without a word are dropped and counted.
    """
    with RecordWriter(folder, task, split, "documents", tokenizer, shards) as writer:
        for lines in watched(documents, f"{task}/{split}", progress):
            features = document_features(lines, tokenizer)
            if len(features["ids"]) > len(features["line_lengths"]):
                writer.write(features)
            else:
                writer.dropped["empty document"] += 1
    return writer.info


def write_prompted(
    folder: str | os.PathLike[str],
    task: str,
    split: str,
    pairs: Iterable[tuple[str, str]],
    tokenizer: MetroTokenizer,
    shards: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes prompted (inputs, targets) text pairs and returns what the info file says.

    Pairs with an empty target are dropped and counted (spec 6.1).
    """
    with RecordWriter(folder, task, split, "prompted", tokenizer, shards) as writer:
        for chunk in chunks(watched(pairs, f"{task}/{split}", progress)):
            for features in prompted_features(chunk, tokenizer):
                if features["targets"] == [EOS]:
                    writer.dropped["empty target"] += 1
                else:
                    writer.write(features)
    return writer.info


def write_ranked(
    folder: str | os.PathLike[str],
    task: str,
    split: str,
    examples: Iterable[tuple[str, Sequence[str], str]],
    tokenizer: MetroTokenizer,
    shards: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes (inputs, choices, right choice) examples, one record per choice, and returns what the info file says.

    All choices of an example go to the same shard, one after the other; every choice equal to the right one is correct.

    Raises:
      ValueError: an example has no choices, or its answer is not one of them.
    """
    with RecordWriter(folder, task, split, "ranked", tokenizer, shards) as writer:
        for number, (text, choices, answer) in enumerate(watched(examples, f"{task}/{split}", progress)):
            if answer not in choices:
                raise ValueError(
                    f"{task}/{split}: the answer {answer!r} of example {number} is not among its choices "
                    f"{list(choices)}; give the choices as the template renders them, the right one included"
                )
            for index, choice in enumerate(choices):
                features = ranked_features(text, choice, tokenizer, idx=(number, index), is_correct=choice == answer)
                writer.write(features, shard=number)
    return writer.info


def chunks(items: Iterable[Item], size: int = CHUNK) -> Iterator[list[Item]]:
    """The items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def watched(items: Iterable[Item], label: str, show: bool) -> Iterator[Item]:
    """The items, with a progress bar (count, speed and, when the number is known, time left) if `show`."""
    if not show:
        yield from items
        return
    total = len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns) as bar:
        yield from bar.track(items, total=total, description=label)


def read_records(folder: str | os.PathLike[str], task: str, split: str, kind: str) -> Iterator[dict[str, np.ndarray]]:
    """The records of a split as NumPy values, shard after shard, for looking at data and for tests."""
    paths = sorted(str(path) for path in (epath.Path(folder) / task).glob(f"{split}.tfrecord-*"))
    dataset = tf.data.TFRecordDataset(paths).map(lambda serialized: parse(serialized, kind))
    yield from dataset.as_numpy_iterator()  # type: ignore[misc]
