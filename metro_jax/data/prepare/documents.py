"""From a chunk of a file to documents of sentences; what is no text is left out and named."""

import codecs
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from metro_jax.data.prepare.errors import Problem
from metro_jax.data.prepare.inputs import JSONL, LINES, Chunk

Located = tuple[int, str]  # number and text of a line


@dataclasses.dataclass(frozen=True)
class Documents:
    """How documents are found: the field of JSON lines, the language whose sentences are found."""

    text_field: str = "text"
    language: str = "en"

    def __call__(self, chunk: Chunk, problems: list[Problem]) -> Iterator[list[str]]:
        """The documents of a chunk, each a list of sentences; what is bad is left out and added to the problems."""
        rows = _decode(chunk, problems)
        if chunk.format == LINES:
            yield from _group(rows)
            return
        for _, text in _json_texts(rows, chunk.path, self.text_field, problems) if chunk.format == JSONL else rows:
            if text.strip():
                yield self.sentences(text)

    def sentences(self, text: str) -> list[str]:
        """The sentences of a text; line breaks end one as well."""
        try:
            from sentencex import segment  # type: ignore[attr-defined]  # only documents of one line need it
        except ImportError as error:
            raise ImportError(f"{error}: finding sentences needs it: pip install 'metro_jax[data]'") from error
        return [s for line in text.splitlines() if line.strip() for s in segment(self.language, line)]


def valid_lines(chunk: Chunk, problems: list[Problem]) -> bytes:
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
