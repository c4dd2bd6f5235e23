"""Compiled programs: kept between processes, and announced, since the first call of a shape takes seconds.

The folder is made when the first model is, never at import. METRO_JAX_CACHE moves it, or with "off" does without.
"""

import hashlib
import logging
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

VARIABLE = "METRO_JAX_CACHE"
OFF = ("off", "0", "none", "no", "false")
SHORT = 1.0  # seconds; what compiles faster is not worth a line after the first one

log = logging.getLogger("metro_jax")


def cache_folder() -> pathlib.Path | None:
    """Where things are kept for this user; None when METRO_JAX_CACHE turns it off."""
    chosen = os.environ.get(VARIABLE, "").strip()
    if chosen.lower() in OFF:
        return None
    if chosen:
        return pathlib.Path(chosen).expanduser()
    if os.name == "nt":
        base = pathlib.Path(os.environ.get("LOCALAPPDATA", pathlib.Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = pathlib.Path.home() / "Library" / "Caches"
    else:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return base / "metro_jax"


def _processor() -> str:
    """What tells apart machines that share a home: programs for one processor may not run on another."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        described = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        described = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, unless the user has chosen a folder for it or none."""
    folder = cache_folder()
    if folder is None or kept_in() is not None:
        return
    folder = folder / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is not writable")
    except OSError as error:
        say(f"compiled programs are not kept: {error}; set {VARIABLE} to another folder, or to off")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def kept_in() -> str | None:
    """The folder JAX keeps compiled programs in, if any."""
    return getattr(jax.config, "jax_compilation_cache_dir", None)


def say(message: str) -> None:
    """One line on standard error, unless the program has its own ideas about logging."""
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("metro_jax: %(message)s"))
        log.addHandler(handler)
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    log.info(message)


class Program:
    """A function compiled once per shape and static arguments, with a line that says so.

    Args:
        name: what the line calls it.
        function: takes arrays by position and static values by name.
    """

    said = False  # of the process: the first compilation is announced before it starts
    compiler_options: dict[str, Any] | None = None  # of XLA, for tests, where compiling takes longer than running

    def __init__(self, name: str, function: Callable[..., Any], static: tuple[str, ...]) -> None:
        self.name, self.compiled = name, {}
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

    def _compile(self, arrays: tuple[Any, ...], static: dict[str, Any]) -> Any:
        first, Program.said = not Program.said, True
        if first:
            say(f"compiling {self.name} for this shape; later calls are fast")
        start = time.perf_counter()
        compiled = self._jitted.lower(*arrays, **static).compile(compiler_options=self.compiler_options)
        taken = time.perf_counter() - start
        if first or taken > SHORT:
            where = f", kept in {kept_in()}" if kept_in() else ""
            say(f"{self.name}: compiled or fetched in {taken:.1f} s{where}")
        return compiled
