"""A result folder: results go to it batch by batch, and a run that was stopped goes on in it.

    FOLDER/run.json                        what is evaluated: model, protocol, templates with their counts
    FOLDER/scores/I-of-N.jsonl             one line per example, written by process I of N

A line has task, template, index, hash (what the example says), scores, best and target. A folder belongs to one model
and one protocol, and every example in it to one text: anything else is refused, never mixed. More tasks, templates or
examples may be added to it, by any number of processes.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from metro_jax.evaluation.examples import Example
from metro_jax.evaluation.progress import size

RUN, SCORES = "run.json", "scores"
FORMAT = 1
Key = tuple[str, str, int]


class OtherRunError(ValueError):
    """A result folder of another model, protocol or data."""


class Score(NamedTuple):
    """The result of one example."""

    digest: str
    scores: tuple[float, ...]
    best: int
    target: int


class Shard(NamedTuple):
    """Process `index` (from 0) of `count`."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From "1/4", counted from 1 as people do."""
        first, _, second = text.partition("/")
        if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
            raise ValueError(f"--shard {text}: give I/N with I from 1 to N, such as 1/4")
        return cls(int(first) - 1, int(second))

    def part(self, examples: Sequence[Example]) -> list[Example]:
        """This process's share: every N-th of the examples in order of size, so that shares cost the same."""
        order = sorted(examples, key=lambda example: (size(example), example.key))
        return order[self.index :: self.count]


class Folder:
    """A result folder.

    Args:
        identity: what must be the same for all results in it: nested dictionaries of plain values.
    """

    def __init__(self, path: pathlib.Path, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity
        self.scores: dict[Key, Score] = {}

    def open(self, manifest: dict[str, Any], examples: Sequence[Example]) -> None:
        """Reads what is there, and refuses what is not of this model, protocol and data; then writes the manifest.

        Args:
            manifest: what else belongs to the description of the run: templates with their counts.

        Raises:
            OtherRunError: with what differs.
        """
        file = self.path / RUN
        if file.exists():
            differences = differing(read_json(file).get("identity", {}), self.identity)
            if differences:
                raise OtherRunError(
                    f"{self.path} holds results of another evaluation and is not continued: {'; '.join(differences)}. "
                    "Choose another --out, or remove this folder"
                )
        self.scores = read_scores(self.path)
        for example in examples:
            known = self.scores.get(example.key)
            if known is not None and known.digest != example.digest():
                task, template, index = example.key
                raise OtherRunError(
                    f"{self.path} holds results of other data and is not continued: example {index} of {task}, "
                    f"template {template!r}, said something else (hash {known.digest}, now {example.digest()}). "
                    "Choose another --out, or remove this folder"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(file, {"format": FORMAT, "identity": self.identity, **manifest})

    @contextlib.contextmanager
    def writer(self, shard: Shard) -> Iterator["Writer"]:
        """Appends results of one process.

        Raises:
            OtherRunError: another process writes the same part now.
        """
        path = self.path / SCORES / f"{shard.index + 1}-of-{shard.count}.jsonl"
        path.parent.mkdir(exist_ok=True)
        mend(path)
        with path.open("a", encoding="utf-8") as stream:
            _lock(stream, path)
            yield Writer(stream, self.scores)


class Writer:
    """Results of one process on their way to disk."""

    def __init__(self, stream: Any, scores: dict[Key, Score]) -> None:
        self.stream, self.scores = stream, scores

    def write(self, found: Sequence[tuple[Example, Sequence[float], int]]) -> None:
        """The results of one batch, on disk when this returns."""
        for example, scores, best in found:
            task, template, index = example.key
            score = Score(example.digest(), tuple(scores), best, example.target)
            line = {"task": task, "template": template, "index": index, "hash": score.digest, "scores": list(scores)}
            self.stream.write(json.dumps({**line, "best": best, "target": example.target}) + "\n")
            self.scores[example.key] = score
        self.stream.flush()


def _lock(stream: Any, path: pathlib.Path) -> None:
    """Held until the stream is closed, or the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OtherRunError(
            f"{path} is being written by another process: wait for it, or give every process its own --shard I/N"
        ) from None
    except OSError:  # a file system without locks
        return


def mend(path: pathlib.Path) -> None:
    """Cuts off the line that a killed run left unfinished."""
    if not path.exists():
        return
    with path.open("rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        tail = b""
        while end and b"\n" not in tail:
            step = min(end, 1 << 16)
            end -= step
            stream.seek(end)
            tail = stream.read(step) + tail
        stream.truncate(end + tail.rfind(b"\n") + 1)


def read_scores(path: pathlib.Path) -> dict[Key, Score]:
    """Every result in a folder, of all processes; a last line that is not finished does not count.

    Raises:
        ValueError: a line that is no result.
    """
    found: dict[Key, Score] = {}
    for file in sorted((path / SCORES).glob("*.jsonl")):
        with file.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith("\n"):
                    break
                try:
                    row = json.loads(line)
                    key = row["task"], row["template"], row["index"]
                    found[key] = Score(row["hash"], tuple(row["scores"]), row["best"], row["target"])
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{file}, line {number}: no result ({error}); remove this line, and the run does it again"
                    ) from None
    return found


def differing(before: Any, now: Any, name: str = "") -> list[str]:
    """What two identities do not have in common, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*before, *now]))
        found = [differing(before.get(key), now.get(key), f"{name} {key}".strip()) for key in keys]
        return [words for part in found for words in part]
    return [] if before == now else [f"{name} was {before!r} and is {now!r}"]


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A file of this folder. Raises ValueError where it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): the folder is damaged; choose another") from None


def write_json(path: pathlib.Path, value: Any) -> None:
    """Complete or not at all; several processes may write the same."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
