"""What can go wrong while text is prepared, said where and with the next step."""

import dataclasses
import errno


class BadInputError(ValueError):
    """Input that is not text of the expected form; the message says file, line, reason and what to do."""


class StoppedError(RuntimeError):
    """Preparation stopped cleanly before its end; the same command continues."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One piece of bad input; `line` counts from 1, and is 0 where the whole file is meant."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}" if self.line else f"{self.path}: {self.reason}"


# Disk full; quota used up; file size limit.
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file is too large"}


def stopped_by(error: OSError, path: object) -> StoppedError | None:
    """The error to raise when writing to `path` failed for want of room, None for other failures."""
    if error.errno not in _FULL:
        return None
    return StoppedError(
        f"{path}: {_FULL[error.errno]} ({error.strerror}); what is written so far is kept: make room (or raise the "
        "limit), then run the same command again, which continues where it stopped"
    )
