"""One split of one T0 task: rows of text to prepared records of METRO ids, with an account of what became of each row.

Beside the info file of the records, FOLDER/TASK/source.SPLIT.json says from which files they were made and what was
left out, so that a second run knows what is done. It is written last, also for a split that has nothing usable.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from etils import epath

from metro_jax.data.folder import write_json
from metro_jax.data.record_format import FORMAT
from metro_jax.data.records import RecordWriter, chunks, prompted_features
from metro_jax.data.t0 import p3
from metro_jax.text.ids import EOS
from metro_jax.text.tokenizer import MetroTokenizer

NO_LABEL = "<NO LABEL>"  # what T0's rendering put where a template gave an empty target
LIMIT = 512  # ids after which the reference cuts or drops (spec 6.3); longer rows are counted
SHARD_BYTES = 64 * 2**20  # of source files per shard of records
MAX_SHARDS = 64


@dataclasses.dataclass(frozen=True)
class Unit:
    """A piece of work: `split` of `source` becomes FOLDER/`task`/`target` of records of `kind`.

    `from_choices`: the rows are whole examples, whose answer choices become one ranked record each.
    """

    task: str
    target: str
    kind: str
    source: p3.Split
    from_choices: bool = False

    @property
    def shards(self) -> int:
        """How many shards the records get; by the size of the source, so that it does not depend on the machine."""
        return max(1, min(MAX_SHARDS, self.source.size // SHARD_BYTES))


@dataclasses.dataclass
class Account:
    """What became of the rows of a split."""

    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    longer: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def account_path(folder: str | os.PathLike[str], task: str, split: str) -> epath.Path:
    """Where the account of a prepared split lies."""
    return epath.Path(folder) / task / f"source.{split}.json"


def read_account(folder: str | os.PathLike[str], task: str, split: str) -> dict[str, Any] | None:
    """The account of a prepared split, or None."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads(account_path(folder, task, split).read_text())
    return None


def identity(unit: Unit, tokenizer: MetroTokenizer) -> dict[str, Any]:
    """What decides the records of a unit: the same identity, the same records."""
    return {
        "format": FORMAT,
        "kind": unit.kind,
        "vocabulary": tokenizer.fingerprint(),
        "from_choices": unit.from_choices,
        "shards": unit.shards,
        "source": {"split": unit.source.name, "layout": unit.source.layout, "files": unit.source.signature()},
    }


def is_done(folder: str | os.PathLike[str], unit: Unit, tokenizer: MetroTokenizer) -> bool:
    """Whether an earlier run prepared exactly this."""
    account = read_account(folder, unit.task, unit.target)
    if account is None or account.get("identity") != identity(unit, tokenizer):
        return False
    return account["examples"] == 0 or (epath.Path(folder) / unit.task / f"info.{unit.target}.json").exists()


def encode(
    folder: str | os.PathLike[str], unit: Unit, tokenizer: MetroTokenizer, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Writes the records of a unit and returns its account; `advance` hears of the bytes of source files read.

    Raises:
      BrokenSplitError: the source cannot be read; an earlier version of the records stays as it was.
    """
    _remove_leftovers(pathlib.Path(folder) / unit.task, unit.target)
    account = Account()
    rows = _readable(p3.rows(unit.source), account, advance)
    features = _ranked(rows, unit, tokenizer, account) if unit.kind == "ranked" else _prompted(rows, tokenizer, account)
    first = next(features, None)
    found: dict[str, Any] = {"examples": 0}
    if first is not None:
        writer_of = ShufflingWriter if unit.target == "train" else RecordWriter
        with writer_of(folder, unit.task, unit.target, unit.kind, tokenizer, unit.shards) as writer:
            for shard, record in _with_first(first, features):
                for name in ("inputs", "targets"):
                    account.longer[name] += len(record[name]) > LIMIT
                writer.write(record, shard)
            writer.dropped.update(account.dropped)
        found = {"examples": writer.info["examples"], "totals": writer.info["totals"]}
    found |= {
        "dropped": dict(account.dropped),
        "longer": dict(account.longer) | {"limit": LIMIT},
        "identity": identity(unit, tokenizer),
    }
    path = account_path(folder, unit.task, unit.target)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return found


class ShufflingWriter(RecordWriter):
    """Writes records in turn to the shards, then each shard in random order, always the same one.

    Some data sets of P3 are sorted by their label (dbpedia_14), which no buffer of a training pipeline undoes. Every
    shard has its share of all parts of the data and fits in memory, so order within the shards is all that is needed.
    """

    def _publish(self) -> None:
        for index in range(self._shards):
            path = str(self._temporary(index))
            found: list[Any] = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
            random.Random(f"{self._folder.name} {self._split} {index}").shuffle(found)
            with tf.io.TFRecordWriter(path) as writer:
                for record in found:
                    writer.write(record)
        super()._publish()


def _with_first(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _remove_leftovers(folder: pathlib.Path, split: str) -> None:
    """Temporary shards of a run that was killed."""
    for path in folder.glob(f".{split}.*.tmp"):
        path.unlink()


def _readable(
    rows: Iterator[tuple[p3.Row | str, int]], account: Account, advance: Callable[[int], None]
) -> Iterator[p3.Row]:
    for row, size in rows:
        advance(size)
        if isinstance(row, str):
            account.dropped[row] += 1
        else:
            yield row


def _prompted(
    rows: Iterator[p3.Row], tokenizer: MetroTokenizer, account: Account
) -> Iterator[tuple[int | None, Mapping[str, Any]]]:
    """Records of whole examples; without a target, or with the mark of none, they are dropped (spec 6.1)."""
    for chunk in chunks(rows):
        labelled = [row for row in chunk if row.targets.strip() != NO_LABEL]
        account.dropped["no label"] += len(chunk) - len(labelled)
        for features in prompted_features([(row.inputs, row.targets) for row in labelled], tokenizer):
            if features["targets"] == [EOS]:
                account.dropped["empty target"] += 1
            else:
                yield None, features
    account.dropped += collections.Counter()  # forget reasons that never occurred


def _ranked(
    rows: Iterator[p3.Row], unit: Unit, tokenizer: MetroTokenizer, account: Account
) -> Iterator[tuple[int | None, Mapping[str, Any]]]:
    """One record per choice, all choices of an example in one shard, one after the other (spec 8.1)."""
    groups = _choices_of_examples(rows, account) if unit.from_choices else _examples_of_choices(rows)
    for number, group in enumerate(groups):
        if not any(row.is_correct for row in group):
            account.dropped["no correct choice"] += 1
            continue
        source = tokenizer.encode(group[0].inputs)
        for row in group:
            yield number, _choice_features(row, source, tokenizer)


def _choice_features(row: p3.Row, source: list[int], tokenizer: MetroTokenizer) -> dict[str, Any]:
    """The record of one choice, as `records.ranked_features`, of an example whose text is encoded already."""
    return {
        "inputs": source,
        "targets": tokenizer.encode_choice(row.targets.strip()),
        "inputs_pretokenized": row.inputs,
        "targets_pretokenized": row.targets.strip(),
        "idx": list(row.idx or (0, 0)),
        "is_correct": row.is_correct,
        "weight": row.weight,
    }


def _examples_of_choices(rows: Iterator[p3.Row]) -> Iterator[Sequence[p3.Row]]:
    """The consecutive rows of one example, in the order of the choices."""
    group: list[p3.Row] = []
    for row in rows:
        if row.idx is None:
            raise p3.BrokenSplitError("a _score_eval task needs the columns idx and is_correct; this one has none")
        if group and (group[0].idx or (0,))[0] != row.idx[0]:
            yield sorted(group, key=lambda member: member.idx or (0, 0))
            group = []
        group.append(row)
    if group:
        yield sorted(group, key=lambda member: member.idx or (0, 0))


def _choices_of_examples(rows: Iterator[p3.Row], account: Account) -> Iterator[Sequence[p3.Row]]:
    """An example with its answer choices, as rows of one choice each."""
    for number, row in enumerate(rows):
        if not row.answer_choices:
            account.dropped["no answer choices"] += 1
            continue
        target = row.targets.strip()
        yield [
            row._replace(targets=choice, idx=(number, index), is_correct=choice == target)
            for index, choice in enumerate(row.answer_choices)
        ]
