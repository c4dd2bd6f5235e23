"""What every benchmark of two sides does the same way: interleaved rounds, medians, a line about the machine."""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata

Work = Callable[[], object]


def interleave(sides: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Seconds of every side in every round, after one round of warming up; the order turns around each round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        order = list(sides.items())
        for name, work in order if number % 2 else reversed(order):
            gc.collect()
            start = time.perf_counter()
            work()
            if number > 0:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """How many times as fast `fast` is: the median of the rounds' ratios, and their range."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def machine(*packages: str) -> str:
    """Processor, versions and load: what a figure needs beside it."""
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores{load}"
    return f"Python {platform.python_version()}, {', '.join(versions)}; {processor()}, {cores}"


def processor() -> str:
    """Name of the processor, where the system says it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
