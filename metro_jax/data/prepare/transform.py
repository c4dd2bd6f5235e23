"""The heart of corpus preparation: a chunk of a file to records of token ids, with counts. Pure: it runs anywhere."""

import codecs
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
from metro_jax.text.tokenizer import MetroTokenizer
from metro_jax.text.word_cache import PackedLines

LONGEST_LINE = 511  # ids that training takes of a line, eos included (spec 4.1)
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
        if chunk.format == LINES:
            result = self._lines_to_records(_valid(chunk, problems))
        else:
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
        # A line break inside a line is whitespace like any other.
        text = "\n".join(line.replace("\n", " ") for lines in documents for line in lines)
        last = np.cumsum([len(lines) for lines in documents], dtype=np.int64)
        return _records(self._encode(text.encode() + b"\n" * bool(last.size)), last)

    def _lines_to_records(self, text: bytes) -> Result:
        """The same for lines with blank lines between the documents."""
        lines = self._encode(text, skip_blank=True)
        words = np.flatnonzero(~lines.blank)
        new = np.flatnonzero(np.diff(words) > 1) + 1  # lines before which there was a blank one
        last = np.append(new, len(words)) if len(words) else new
        return _records(PackedLines(lines.packed, lines.sizes[words], lines.counts[words], lines.blank[words]), last)

    def _encode(self, text: bytes, skip_blank: bool = False) -> PackedLines:
        assert self.tokenizer is not None, "records need one"
        return self.tokenizer.training_lines(text, skip_blank=skip_blank)

    def sentences(self, text: str) -> list[str]:
        """The sentences of a text; line breaks end one as well."""
        from sentencex import segment  # type: ignore[attr-defined]  # only documents of one line need it

        return [s for line in text.splitlines() if line.strip() for s in segment(self.language, line)]


def _records(lines: PackedLines, last: np.ndarray) -> Result:
    """The records of documents of these lines; `last` is the line after each. Those without a word are dropped."""
    first = np.append(0, last)[:-1]
    ids_before = np.append(0, np.cumsum(lines.counts))
    ids, length = ids_before[last] - ids_before[first], last - first
    kept = ids > length  # others have nothing but the eos of each line
    result = Result()
    if not kept.all():
        result.counts["empty_documents"] = int(np.count_nonzero(~kept))
    if kept.any():
        result.records = tfrecord.frames(lines.packed, lines.sizes, lines.counts, first[kept], last[kept])
        result.counts.update(
            documents=int(np.count_nonzero(kept)),
            lines=int(length[kept].sum()),
            ids=int(ids[kept].sum()),
            long_lines=int(np.count_nonzero(lines.counts > LONGEST_LINE)),
        )
        result.longest = {"ids": int(ids[kept].max()), "line_lengths": int(length[kept].max())}
    return result


def _valid(chunk: Chunk, problems: list[Problem]) -> bytes:
    """The lines of a chunk that are text; those that are none are left out and become problems."""
    data = chunk.data
    try:
        valid = b"\0" not in data and (data.isascii() or bool(data.decode("utf-8")))
    except UnicodeDecodeError:
        valid = False
    if not valid:
        return "".join(f"{line}\n" for _, line in _decode_line_by_line(chunk, problems)).encode()
    return data.removeprefix(codecs.BOM_UTF8) if chunk.first_line == 1 else data


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
