"""Programs compiled once per shape, and announced, since the first call of a shape takes seconds."""

import time
from collections.abc import Callable
from typing import Any

import jax

from metro_jax.compile_cache import kept_in, say

SHORT = 1.0  # seconds; what compiles faster is not worth a line after the first one


class Program:
    """A function compiled once per shape and static arguments, with a line that says so.

    Args:
        name: what the line calls it.
        function: takes arrays by position and static values by name.
    """

    said = False  # of the process: the first compilation is announced before it starts
    compiler_options: dict[str, Any] | None = None  # of XLA, for tests, where compiling takes longer than running

    def __init__(self, name: str, function: Callable[..., Any], static: tuple[str, ...]) -> None:
        self.name, self.function, self.compiled = name, function, {}
        self._jitted = jax.jit(function, static_argnames=static)

    def __call__(self, *arrays: Any, **static: Any) -> Any:
        key = (
            jax.tree.structure(arrays),
            tuple((x.shape, str(x.dtype), x.sharding) for x in jax.tree.leaves(arrays)),
            tuple(sorted(static.items(), key=lambda item: item[0])),
        )
        if key not in self.compiled:
            self.compiled[key] = self._compile(arrays, static)
        return self.compiled[key](*arrays)

    def lower(self, *arrays: Any, **static: Any) -> Any:
        """The program before it is compiled; shapes do for arrays."""
        return self._jitted.lower(*arrays, **static)

    def _compile(self, arrays: tuple[Any, ...], static: dict[str, Any]) -> Any:
        first, Program.said = not Program.said, True
        if first:
            say(f"compiling {self.name} for this shape; later calls are fast")
        start = time.perf_counter()
        compiled = self.lower(*arrays, **static).compile(compiler_options=self.compiler_options)
        taken = time.perf_counter() - start
        if first or taken > SHORT:
            where = f", kept in {kept_in()}" if kept_in() else ""
            say(f"{self.name}: compiled or fetched in {taken:.1f} s{where}")
        return compiled
