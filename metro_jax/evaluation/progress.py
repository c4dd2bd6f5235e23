"""How far a run is, and how long it will take."""

import time
from collections.abc import Sequence
from typing import Any

from metro_jax.evaluation.examples import Example


def size(example: Example) -> int:
    """What an example costs, near enough for shares and for the time left: its characters."""
    return len(example.prompt) + sum(map(len, example.choices)) + 16


class Progress:
    """Examples done, and the time left by their size: a bar on a terminal, elsewhere a line now and then."""

    EVERY = 30.0  # seconds between lines

    def __init__(self, todo: Sequence[Example], before: int, wanted: bool | None) -> None:
        import rich.console

        self.total, self.before, self.done = len(todo), before, 0
        self.left = sum(map(size, todo))
        self.whole = self.left
        self.console = rich.console.Console(stderr=True)
        self.wanted = wanted is not False
        self.bar: Any = None
        self.start = self.said = time.monotonic()

    def __enter__(self) -> "Progress":
        import rich.progress as rich

        if self.wanted and self.before:
            self.console.print(f"{self.before} examples are done already")
        columns = (
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.TimeRemainingColumn(elapsed_when_finished=True),
        )
        self.bar = rich.Progress(
            *columns,
            console=self.console,
            disable=not (self.wanted and self.console.is_terminal),
            speed_estimate_period=120,
        )
        self.task = self.bar.add_task(self._words(), total=self.whole)
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def _words(self) -> str:
        return f"scoring, {self.done} of {self.total} examples"

    def advance(self, examples: Sequence[Example]) -> None:
        """These are done."""
        self.done += len(examples)
        work = sum(map(size, examples))
        self.left -= work
        self.bar.update(self.task, advance=work, description=self._words())
        now = time.monotonic()
        if self.wanted and not self.console.is_terminal and now - self.said > self.EVERY:
            self.said = now
            rest = self.left * (now - self.start) / (self.whole - self.left)
            self.console.print(f"{self._words()}, about {duration(rest)} left")


def duration(seconds: float) -> str:
    """As people say it."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
