"""Which stages of a quickstart are done: one marker file per stage, bound to what went into it by a fingerprint.

A marker is written when a stage begins and again when it ends, each time as a whole. A stage that ended with the same
fingerprint is not run again; one that was interrupted goes on with what it left; one whose settings or predecessors
changed starts anew, without what it left.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

MARKERS = ".stages"


class FolderInUseError(RuntimeError):
    """Another quickstart is writing to the folder."""


@dataclasses.dataclass
class Marker:
    """What is known of one stage: the fingerprint of its inputs, whether it ended, what it reported."""

    fingerprint: str
    done: bool
    result: dict[str, Any]


def fingerprint(*parts: Any) -> str:
    """A hash of JSON values: the same for the same values, another for others."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class StageFolder:
    """The markers of one output folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._markers = folder / MARKERS

    def prepare(self) -> None:
        """Makes the folder.

        Raises:
          FileExistsError: it holds something that is no quickstart, or is a file.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{self.folder}: is a file; name a folder with --out")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not self._markers.is_dir():
            raise FileExistsError(
                f"{self.folder}: holds files that are not a quickstart's; name an empty or new folder with --out"
            )
        self._markers.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(self, patience: float = 30.0) -> Iterator[int]:
        """Keeps a second quickstart out of the folder; gives the descriptor of the lock.

        The lock ends with the last process that holds the descriptor: a training process whose parent was killed keeps
        it until its next progress line, which `patience` (seconds) waits for.

        Raises:
          FolderInUseError: somebody else holds it.
        """
        with open(self._markers / "lock", "w") as file:
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise FolderInUseError(
                            f"{self.folder}: another quickstart is running here; wait for it, or name another --out"
                        ) from None
                    time.sleep(0.2)
            yield file.fileno()

    def read(self, stage: str) -> Marker | None:
        """The marker of a stage; None when there is none or it cannot be read."""
        try:
            return Marker(**json.loads((self._markers / f"{stage}.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def begin(self, stage: str, mark: str, outputs: Sequence[str]) -> dict[str, Any] | None:
        """The result of a stage that has ended already, or None after making its outputs ready to be (re)written."""
        marker = self.read(stage)
        present = all((self.folder / output).exists() for output in outputs)
        if marker is not None and marker.fingerprint == mark and marker.done and present:
            return marker.result
        if marker is None or marker.fingerprint != mark:
            for output in outputs:
                remove(self.folder / output)
        self._write(stage, Marker(mark, False, {}))
        return None

    def end(self, stage: str, mark: str, result: dict[str, Any]) -> None:
        """Notes that a stage has ended, and what it reported."""
        self._write(stage, Marker(mark, True, result))

    def _write(self, stage: str, marker: Marker) -> None:
        text = json.dumps(dataclasses.asdict(marker), indent=2, sort_keys=True) + "\n"
        write_text(self._markers / f"{stage}.json", text)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file as a whole: a reader finds the old content or the new one, never a part."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def remove(path: pathlib.Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
