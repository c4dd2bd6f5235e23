"""What conversion can refuse. Every message says what was found, why it won't do, and what to do next."""

from collections.abc import Mapping, Sequence


class ConversionError(ValueError):
    """A checkpoint that cannot be read or written as asked."""


class MissingFileError(ConversionError, FileNotFoundError):
    """A file that should be there is not."""


class FolderExistsError(ConversionError, FileExistsError):
    """The destination already holds something."""


class UnsafePickleError(ConversionError):
    """A pickle that asks for more than arrays and plain containers; nothing of it was executed."""


class TensorMismatchError(ConversionError):
    """Names or shapes do not fit the format; the message lists all of them.

    Args:
        what: the checkpoint, for the message.
        problems: for each kind of problem ("missing", "unknown", "misshapen", ...) all the lines that describe it.
        hint: the next step.
    """

    def __init__(self, what: str, problems: Mapping[str, Sequence[str]], hint: str) -> None:
        self.problems = {kind: list(lines) for kind, lines in problems.items() if lines}
        counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in self.problems.items())
        listing = "".join(
            f"\n  {kind}:" + "".join(f"\n    {line}" for line in lines) for kind, lines in self.problems.items()
        )
        super().__init__(f"{what}: the tensors do not fit the format ({counts}). {hint}{listing}")
