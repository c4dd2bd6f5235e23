"""Input files: finding them, opening them whatever their compression, telling their format, cutting them into chunks.

A chunk is a run of whole documents of one file; it is cut in the same way whatever the number of processes, and the
place where it ends is enough to go on from there later.
"""

import dataclasses
import glob
import gzip
import io
import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

from metro_jax.data.prepare.errors import BadInputError, Problem

LINES, DOCUMENTS, JSONL = "lines", "documents", "jsonl"
FORMATS = {
    LINES: "a sentence per line, blank lines between documents",
    DOCUMENTS: "a document per line",
    JSONL: "JSON lines, the text in a field of each",
}
COMPRESSED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
HEAD = 1 << 16  # bytes from which a file's format is told
MAX_LINE = 16 << 20  # a longer line is no line of text: line breaks are missing, or it is no text
MAX_DOCUMENT = 16 << 20  # a longer document of many lines is cut, so that memory stays flat
BLOCK = 1 << 20  # bytes read at a time, at most
_BLANK_LINE = re.compile(rb"^[ \t\r\v\f]*\n", re.MULTILINE)
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A file to read: its name, size and time on disk, and its format; `problem` says why it can't be read."""

    path: str
    size: int
    modified: int  # nanoseconds
    format: str
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Whole documents of a file, `data` their lines as they are; `end` counts decompressed bytes."""

    path: str
    format: str
    first_line: int
    data: bytes
    end: int
    next_line: int
    last: bool  # of its file
    problems: list[Problem]
    read: int  # bytes of the file on disk read so far


def find_inputs(patterns: Sequence[str], format_: str = "auto") -> list[InputFile]:
    """The files that names, folders and globs stand for, ordered by name, each once.

    Folders are searched to the bottom; names that begin with a dot are left out.
    Raises FileNotFoundError for a pattern that stands for nothing, ValueError for an unknown format.
    """
    if format_ != "auto" and format_ not in FORMATS:
        raise ValueError(f"format {format_!r} is unknown: choose auto, {', '.join(FORMATS)}")
    paths: set[str] = set()
    for pattern in patterns:
        found = {pattern} if os.path.exists(pattern) else set(glob.glob(pattern, recursive=True))
        files = {name for path in found for name in _files(path)}
        if not files:
            near = pathlib.Path(pattern).parent
            raise FileNotFoundError(
                f"{pattern}: no such file, folder or glob, or no files in it; {near} "
                + ("is there" if near.is_dir() else "is not there either")
            )
        paths |= files
    return [_look_at(path, format_) for path in sorted(paths)]


def _files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(folder, name) for name in names if not name.startswith("."))


def _look_at(path: str, format_: str) -> InputFile:
    status = os.stat(path)
    head, problem = b"", ""
    stream, raw = open_input(path)
    with raw, stream:
        try:
            while len(head) < HEAD and (block := stream.readline(HEAD)):
                head += block
        except BROKEN as error:
            problem = f"broken compressed data ({error})"
    if head:
        problem = "the file is binary, not text (it has a NUL byte)" if b"\0" in head else ""
    chosen = _format(path, head) if format_ == "auto" else format_
    return InputFile(path, status.st_size, status.st_mtime_ns, chosen, problem or ("" if head else "the file is empty"))


def _format(path: str, head: bytes) -> str:
    name = pathlib.Path(path)
    suffix = pathlib.Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix
    if suffix in JSON_SUFFIXES:
        return JSONL
    stripped = [line.strip() for line in head.strip().split(b"\n")]
    return LINES if b"" in stripped else DOCUMENTS


class _ZstdReader(io.RawIOBase):
    """Decompresses zstd frames one after the other; EOFError when the last one is cut off."""

    def __init__(self, raw: IO[bytes], path: str) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise ImportError(f"{path} is compressed with zstd: pip install 'metro_jax[data]'") from error
        self._new, self._error = zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError
        self._raw, self._object, self._held = raw, None, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not self._held:
            block = getattr(self._object, "unused_data", b"") if self._object and self._object.eof else b""
            block = block or self._raw.read(1 << 16)
            if not block:
                if self._object is not None and not self._object.eof:
                    raise EOFError("zstd data ended before the end of their frame")
                return 0
            if self._object is None or self._object.eof:
                self._object = self._new()
            try:
                self._held = self._object.decompress(block)
            except self._error as error:
                raise zlib.error(str(error)) from error
        count = min(len(buffer), len(self._held))
        buffer[:count], self._held = self._held[:count], self._held[count:]
        return count


def open_input(path: str) -> tuple[IO[bytes], IO[bytes]]:
    """The decompressed stream of a file, and the file itself (for its position); gzip and zstd by their first bytes.

    Raises ImportError when zstandard is needed and missing.
    """
    raw = open(path, "rb")  # noqa: SIM115
    magic = raw.read(4)
    raw.seek(0)
    if magic.startswith(COMPRESSED[".gz"]):
        return gzip.GzipFile(fileobj=raw), raw  # type: ignore[return-value]
    if magic == COMPRESSED[".zst"]:
        return io.BufferedReader(_ZstdReader(raw, path), 1 << 16), raw  # type: ignore[arg-type]
    return raw, raw


def chunks(file: InputFile, size: int, start: int = 0, line: int = 1) -> Iterator[Chunk]:
    """The chunks of a file of about `size` bytes, from a decompressed position (where line number `line` begins) on.

    Raises BadInputError when the position is beyond the end: the file is not the one that was read before.
    """
    stream, raw = open_input(file.path)
    with raw, stream:
        if stream is raw:
            stream.seek(start)
        else:
            _skip(stream, start, file.path)
        reader = _Reader(file, stream, raw, start, line)
        while not reader.ended:
            yield reader.chunk(size)


def _skip(stream: IO[bytes], start: int, path: str) -> None:
    """Goes to a decompressed position, by reading: compressed streams know no other way."""
    left = start
    while left:
        block = stream.read(min(left, 1 << 20))
        if not block:
            raise BadInputError(f"{path}: is shorter than when it was read before; start again with --overwrite")
        left -= len(block)


class _Reader:
    """Reads runs of lines and keeps count of them."""

    def __init__(self, file: InputFile, stream: IO[bytes], raw: IO[bytes], position: int, line: int) -> None:
        self._file, self._stream, self._raw = file, stream, raw
        self._position, self._line, self.ended = position, line, False
        self._held = bytearray()  # read, and in no chunk yet
        self._problems: list[Problem] = []

    def chunk(self, size: int) -> Chunk:
        """The next chunk; the last one may be empty."""
        first, total = self._line, 0
        parts: list[bytes] = []
        while True:
            lines = self._lines(size - total) if total < size else self._rest_of_document(total) or self._lines(1)
            if not lines:
                self.ended = True
                break
            parts.append(lines)
            total += len(lines)
            last_line = lines[lines.rfind(b"\n", 0, len(lines) - 1) + 1 :]
            boundary = self._file.format != LINES or not last_line.strip()
            if (total >= size and boundary) or total >= MAX_DOCUMENT:
                break
        problems, self._problems = self._problems, []
        return Chunk(self._file.path, self._file.format, first, b"".join(parts), self._position, self._line, self.ended,
                     problems, self._raw.tell())  # fmt: skip

    def _lines(self, size: int) -> bytes:
        """The lines up to the one with byte number `size`, at least one; none at the end of the file.

        The lines before an endless one are fewer; it is left out itself, and an empty line stands for it.
        """
        held, size = self._held, max(size, 1)
        while len(held) < size and self._read():
            pass
        end = held.find(b"\n", size - 1) + 1
        begin = held.rfind(b"\n", 0, max(0, end - 1) if end else len(held)) + 1  # of the last line
        while not end:
            searched = len(held)
            if searched - begin > MAX_LINE or not self._read():
                break
            end = held.find(b"\n", searched) + 1
        length = (end - 1 if end else len(held)) - begin
        if length <= MAX_LINE:
            return self._take(end or len(held))
        return self._take(begin) if begin else self._leave_out()

    def _rest_of_document(self, total: int) -> bytes:
        """Lines that are held, to the first blank one or so many that a chunk of `total` bytes is full; maybe none."""
        blank = _BLANK_LINE.search(self._held)
        end = blank.end() if blank else self._held.rfind(b"\n") + 1
        if end > MAX_LINE:  # one of these lines may be too long
            end = self._held.rfind(b"\n", 0, MAX_LINE) + 1
        if total + end >= MAX_DOCUMENT:
            end = self._held.find(b"\n", MAX_DOCUMENT - total - 1) + 1
        return self._take(end)

    def _read(self) -> bool:
        """Reads some more; False when there is no more."""
        try:
            block = self._stream.read1(BLOCK)  # type: ignore[attr-defined]
        except BROKEN as error:
            self._problems.append(self._problem(f"broken compressed data ({error})", self._held.count(b"\n")))
            del self._held[self._held.rfind(b"\n") + 1 :]  # half a line
            self._stream = io.BytesIO()
            return False
        self._held += block
        return bool(block)

    def _take(self, size: int) -> bytes:
        """So many of the bytes that are held, which are whole lines."""
        lines = bytes(self._held[:size])
        del self._held[:size]
        self._position += size
        self._line += lines.count(b"\n") + (not lines.endswith(b"\n") and bool(lines))
        return lines

    def _leave_out(self) -> bytes:
        """Reads to the end of an endless line, keeping nothing."""
        length = 0
        while not (end := self._held.find(b"\n") + 1):
            length += len(self._held)
            self._held.clear()
            if not self._read():
                break
        length += end
        del self._held[:end]
        self._problems.append(self._problem(f"a line of {length} bytes, more than {MAX_LINE}: no text, or text without "
                                            "line breaks"))  # fmt: skip
        self._position += length
        self._line += 1
        return b"\n"

    def _problem(self, reason: str, lines: int = 0) -> Problem:
        """A problem in the line that is so many lines ahead."""
        return Problem(self._file.path, self._line + lines, reason)
