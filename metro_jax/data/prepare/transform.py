"""The heart of corpus preparation: a chunk of a file to records of token ids, with counts. Pure: it runs anywhere."""

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from metro_jax.data.prepare import tfrecord
from metro_jax.data.prepare.errors import Problem
from metro_jax.data.prepare.inputs import JSONL, LINES, Chunk
from metro_jax.text.ids import EOS
from metro_jax.text.tokenizer import MetroTokenizer

LONGEST_LINE = 511  # ids that training takes of a line, eos included (spec 4.1)
BATCH = 20_000  # lines encoded in one call, which has a price of its own; more of them take memory
KEPT_PROBLEMS = 20  # of a chunk, told in full; all are counted
Located = tuple[int, str]  # number and text of a line


@dataclasses.dataclass
class Result:
    """The framed records of a chunk, counts, and what was wrong; results of several chunks can be added up."""

    records: bytes = b""
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    longest: dict[str, int] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Transform:
    """How text becomes records: the field of JSON lines, the language whose sentences are found."""

    tokenizer: MetroTokenizer | None  # none is needed for `documents`
    text_field: str = "text"
    language: str = "en"

    def __call__(self, chunk: Chunk) -> Result:
        """The records of a chunk."""
        problems = list(chunk.problems)
        result = self.records(self.documents(chunk, problems))
        result.counts["bad_input"] += len(problems)
        result.problems = sorted(problems, key=lambda problem: problem.line)[:KEPT_PROBLEMS]
        return result

    def documents(self, chunk: Chunk, problems: list[Problem]) -> Iterator[list[str]]:
        """The documents of a chunk, each a list of sentences; what is bad is left out and added to the problems."""
        rows = _decode(chunk, problems)
        if chunk.format == LINES:
            yield from _group(rows)
            return
        for _, text in _json_texts(rows, chunk.path, self.text_field, problems) if chunk.format == JSONL else rows:
            if text.strip():
                yield self.sentences(text)

    def records(self, documents: Iterable[list[str]]) -> Result:
        """The framed records of documents, each a list of lines. Documents without a word are dropped and counted."""
        documents = list(documents)
        packed, ends, lengths = self._encode([line for lines in documents for line in lines])
        lines = np.array([len(lines) for lines in documents], np.int64)  # of each document
        last = np.cumsum(lines)  # the line after each document
        bytes_before, ids_before = np.append(0, ends), np.append(0, np.cumsum(lengths))
        ids = ids_before[last] - ids_before[last - lines]
        kept = ids > lines  # others have nothing but the eos of each line
        spans = [
            places[kept].tolist() for places in (bytes_before[last - lines], bytes_before[last], last - lines, last)
        ]
        frames = [
            tfrecord.frame(tfrecord.document(packed[begin:end], lengths[first:after].tolist()))
            for begin, end, first, after in zip(*spans, strict=True)
        ]
        result = Result(b"".join(frames))
        if len(frames) < len(documents):
            result.counts["empty_documents"] = len(documents) - len(frames)
        if frames:
            long_lines = int(np.count_nonzero(lengths > LONGEST_LINE))
            result.counts.update(
                documents=len(frames), lines=int(lines[kept].sum()), ids=int(ids[kept].sum()), long_lines=long_lines
            )
            result.longest = {"ids": int(ids[kept].max()), "line_lengths": int(lines[kept].max())}
        return result

    def _encode(self, lines: list[str]) -> tuple[bytes, np.ndarray, np.ndarray]:
        """The varints of the ids of lines, where each line ends in them, and how many ids it has."""
        assert self.tokenizer is not None, "records need one"
        rows = [self.tokenizer.training_varints(lines[i : i + BATCH]) for i in range(0, len(lines), BATCH)]
        packed = b"".join(rows)
        data = np.frombuffer(packed, np.uint8)
        last_bytes = np.flatnonzero(data < 128)  # one of each id
        alone = np.diff(last_bytes, prepend=-1) == 1
        eos = np.flatnonzero(alone & (data[last_bytes] == EOS))
        if len(eos) != len(lines):  # in some vocabularies unknown text has the id of eos
            single = [self.tokenizer.training_varints([line]) for line in lines]
            packed = b"".join(single)
            ends = np.cumsum([len(row) for row in single], dtype=np.int64)
            eos = np.searchsorted(np.flatnonzero(np.frombuffer(packed, np.uint8) < 128), ends - 1)
            return packed, ends, np.diff(eos, prepend=-1)
        return packed, last_bytes[eos] + 1, np.diff(eos, prepend=-1)

    def sentences(self, text: str) -> list[str]:
        """The sentences of a text; line breaks end one as well."""
        from sentencex import segment  # type: ignore[attr-defined]  # only documents of one line need it

        return [s for line in text.splitlines() if line.strip() for s in segment(self.language, line)]


def _decode(chunk: Chunk, problems: list[Problem]) -> Iterable[Located]:
    """The lines of a chunk as text; those that are none are left out and become problems."""
    mark = "\ufeff" if chunk.first_line == 1 else ""
    try:
        text = chunk.data.decode("utf-8")
    except UnicodeDecodeError:
        return _decode_line_by_line(chunk, problems)
    if "\0" in text:
        return _decode_line_by_line(chunk, problems)
    lines = text.removeprefix(mark).removesuffix("\n").split("\n") if text else []
    if "\r" in text:
        lines = [line.rstrip("\r") for line in lines]
    return zip(itertools.count(chunk.first_line), lines)


def _decode_line_by_line(chunk: Chunk, problems: list[Problem]) -> Iterator[Located]:
    for number, line in enumerate(chunk.data.removesuffix(b"\n").split(b"\n"), chunk.first_line):
        line = line.rstrip(b"\r")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            problems.append(
                Problem(
                    chunk.path, number, f"not UTF-8: byte {line[error.start]:#04x} at {error.start} ({error.reason})"
                )
            )
            continue
        if "\0" in text:
            problems.append(Problem(chunk.path, number, "a NUL byte: binary data, no text"))
            continue
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def _group(rows: Iterable[Located]) -> Iterator[list[str]]:
    """Lines between blank lines."""
    lines: list[str] = []
    for _, text in rows:
        if text and not text.isspace():
            lines.append(text)
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines


def _json_texts(rows: Iterable[Located], path: str, field: str, problems: list[Problem]) -> Iterator[Located]:
    """The text field of JSON lines."""
    for number, line in rows:
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except ValueError as error:
            problems.append(Problem(path, number, f"not JSON ({error})"))
            continue
        except RecursionError:
            problems.append(Problem(path, number, "JSON nested too deeply"))
            continue
        text = value.get(field) if isinstance(value, dict) else None
        if not isinstance(text, str):
            names = ", ".join(sorted(value)[:8]) if isinstance(value, dict) else f"a {type(value).__name__}"
            problems.append(Problem(path, number, f"no text in field {field!r}; there is {names} (--text-field)"))
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            problems.append(
                Problem(path, number, f"half a character ({error.object[error.start]!a}), not Unicode text")
            )
            continue
        yield number, text
