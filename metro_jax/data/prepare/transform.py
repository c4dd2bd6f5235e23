"""The heart of corpus preparation: a chunk of a file to records of token ids, with counts. Pure: it runs anywhere."""

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from metro_jax.data.prepare import tfrecord
from metro_jax.data.prepare.errors import Problem
from metro_jax.data.prepare.inputs import JSONL, LINES, Chunk
from metro_jax.text.tokenizer import MetroTokenizer

LONGEST_LINE = 511  # ids that training takes of a line, eos included (spec 4.1)
BATCH = 2000  # lines encoded in one call
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
        result = Result()
        frames = []
        counts, tokenizer = result.counts, self.tokenizer
        assert tokenizer is not None, "records need one"
        longest: collections.Counter[str] = collections.Counter()
        documents = list(documents)
        flat = [line for lines in documents for line in lines]
        # All documents together: a call of the tokenizer has a price of its own.
        rows = itertools.chain.from_iterable(
            tokenizer.training_varints_batch(flat[start : start + BATCH]) for start in range(0, len(flat), BATCH)
        )
        for lines in documents:
            data, lengths = tfrecord.document(list(itertools.islice(rows, len(lines))))
            ids = sum(lengths)
            if ids == len(lengths):  # nothing but the eos of each line
                counts["empty_documents"] += 1
                continue
            frames.append(tfrecord.frame(data))
            counts.update(documents=1, lines=len(lengths), ids=ids,
                          long_lines=sum(length > LONGEST_LINE for length in lengths))  # fmt: skip
            longest["ids"] = max(longest["ids"], ids)
            longest["line_lengths"] = max(longest["line_lengths"], len(lengths))
        result.records, result.longest = b"".join(frames), dict(longest)
        return result

    def sentences(self, text: str) -> list[str]:
        """The sentences of a text; line breaks end one as well."""
        from sentencex import segment  # type: ignore[attr-defined]  # only documents of one line need it

        return [s for line in text.splitlines() if line.strip() for s in segment(self.language, line)]


def _decode(chunk: Chunk, problems: list[Problem]) -> Iterator[Located]:
    """The lines of a chunk as text; those that are none are left out and become problems."""
    for number, line in enumerate(chunk.lines, chunk.first_line):
        line = line.rstrip(b"\r\n")
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
        if text.strip():
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
