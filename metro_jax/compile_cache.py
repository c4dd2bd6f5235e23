"""Compiled programs, kept between processes: JAX's persistent cache in a folder of the user's.

The folder is made when the first model is, never at import. METRO_JAX_CACHE moves it, or with "off" does without.
"""

import hashlib
import logging
import os
import pathlib
import platform
import sys

import jax

VARIABLE = "METRO_JAX_CACHE"
OFF = ("off", "0", "none", "no", "false")

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


def describe() -> str:
    """Where compiled programs are kept and how much they take, or why they are not, in words."""
    chosen = kept_in()
    folder = pathlib.Path(chosen) if chosen else cache_folder()
    if folder is None:
        return f"not kept, because {VARIABLE}={os.environ[VARIABLE]}: every process compiles anew"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"kept in {folder}, {size / 2**20:.0f} MiB; {VARIABLE} moves this or turns it off"


def say(message: str) -> None:
    """One line on standard error, unless the program has its own ideas about logging."""
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("metro_jax: %(message)s"))
        log.addHandler(handler)
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    log.info(message)
