"""The journal of a preparation: what has been written safely, so that a killed run goes on where it stopped."""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from metro_jax.data.prepare.errors import stopped_by

NAME = "journal.jsonl"


class Journal:
    """An append-only file of JSON lines. A line that was cut off when the process died does not count."""

    def __init__(self, folder: pathlib.Path) -> None:
        """`folder` holds the journal and the shards in the making."""
        self.path = folder / NAME
        self._file: IO[bytes] | None = None

    def read(self) -> Iterator[dict[str, Any]]:
        """The entries so far; none when there is no journal. What follows the last whole entry is cut off."""
        if not self.path.exists():
            return
        good = 0
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    entry = None
                if entry is None:
                    break
                good += len(line)
                yield entry
        os.truncate(self.path, good)

    def append(self, entry: dict[str, Any]) -> None:
        """Adds an entry; StoppedError when the disk is full."""
        try:
            if self._file is None:
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            write_all(self._file, json.dumps(entry, sort_keys=True).encode() + b"\n")
        except OSError as error:
            raise stopped_by(error, self.path) or error from error

    def close(self) -> None:
        """Closes the file; entries can be appended again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_all(file: IO[bytes], data: bytes) -> None:
    """Writes all of the data to an unbuffered file, which may take it in parts."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
