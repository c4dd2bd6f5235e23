"""Functions compiled to machine code by numba, kept on disk for the next start.

numba keeps what it compiled in `__pycache__` beside the source, or, where that cannot be written, in a folder of the
user's (NUMBA_CACHE_DIR names another one). It looks at the source file of a function alone to tell whether that is out
of date: a kernel calls no function of another file and takes constants of other files as arguments.
"""

from collections.abc import Callable
from typing import Any

try:
    import numba
    from numba import types
    from numba.core import event
except ImportError as error:
    raise ImportError(f"{error}: preparing text needs more packages: pip install 'metro_jax[data]'") from error

__all__ = ["BYTES", "OnCompiling", "helper", "kernel", "types"]

#: Bytes that are only read, as those of a bytes object.
BYTES = types.Array(types.uint8, 1, "C", readonly=True)


def kernel(*signatures: Any) -> Callable[[Callable], Any]:
    """Compiles a function for these types of arguments, or loads what was compiled before."""

    def compiled(function: Callable) -> Any:
        try:
            return numba.njit(list(signatures), cache=True, error_model="numpy")(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            # There is no folder that can be written.
            return numba.njit(list(signatures), error_model="numpy")(function)

    return compiled


def helper(function: Callable) -> Any:
    """A function for kernels of the same file, compiled into them; it may make no arrays.

    numba counts the references to every array that a function is given, with instructions that cost more than most
    helpers do. Those that make none can do without (`_nrt`, as numba itself has it for its functions on strings).
    """
    return numba.njit(error_model="numpy", _nrt=False)(function)  # type: ignore[call-overload]


class OnCompiling(event.Listener):
    """Calls a function once, when something is compiled that was not kept on disk; to be used in a `with` statement."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell: Callable[[], None] | None = tell

    def on_start(self, event: Any) -> None:
        """numba begins to compile."""
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()

    def on_end(self, event: Any) -> None:
        """Nothing to do."""

    def __enter__(self) -> "OnCompiling":
        event.register("numba:compile", self)
        return self

    def __exit__(self, *_: object) -> None:
        event.unregister("numba:compile", self)
