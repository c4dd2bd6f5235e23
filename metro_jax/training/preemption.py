"""Being asked to end: SIGTERM (a preempted machine, a job's time limit) and Ctrl-C."""

import signal
import sys
from types import TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Whether the run should save and leave after a step; use as a context manager.

    One process notes the signal and says so after the step it is in; a second signal ends it at once. Several processes
    agree: JAX's coordination service tells all of them of a SIGTERM that any of them got, and after which step to stop.
    """

    def __init__(self) -> None:
        self._received = False
        self._together = jax.process_count() > 1
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if not self._together:
            try:
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread, where signals do not arrive anyway
                pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True
        print("saving a checkpoint before stopping; once more to stop at once", file=sys.stderr, flush=True)

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; several processes ask after every step and hear the same."""
        if self._together:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received
