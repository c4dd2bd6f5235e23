"""A TPU program as soon as the compiler has scheduled it and given every buffer its place.

What a plan reads (operations, their order, memory, collectives) is settled then, after seconds; the machine code, which
is nearly all of the compiler's time, changes none of it. JAX returns nothing before that, but XLA writes the program
down when it is told to dump: it is read there while the compiler goes on in a thread.
"""

import pathlib
import re
import tempfile
import threading
import time
from typing import Any

# XLA's names. The program is written before the report of its memory, and this one last of all.
PROGRAM = "*.after_optimizations_after_buffer_assignment.txt"
REPORT = "-memory-usage-report.txt"
MAIN_MEMORY = re.compile(r"Memory Space: default \(color=0\)\s+Total bytes: (\d+)")
INTERVAL = 0.5  # seconds between two looks


def scheduled_program(lowered: Any, options: dict[str, Any] | None) -> tuple[str, int | None]:
    """The program's text, and the bytes of main memory that it takes, arguments included.

    Raises:
        jax.errors.JaxRuntimeError: what the compiler says against the program, such as that it is too large.
        RuntimeError: the compiler ended and had written nothing down.
    """
    failure: list[BaseException] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)

        def work() -> None:
            try:
                lowered.compile(compiler_options={**(options or {}), "xla_dump_to": name})
            except BaseException as error:  # handed on to the caller below
                failure.append(error)

        worker = threading.Thread(target=work, daemon=True, name="compiler")
        worker.start()
        while True:
            ended = not worker.is_alive()
            if failure:
                raise failure[0]
            found = read(folder)
            if found is not None:
                return found
            if ended:
                raise RuntimeError(
                    f"the compiler wrote no program to {name}: this libtpu names its files differently; "
                    "use --complete, which waits for the machine code"
                )
            worker.join(INTERVAL)


def read(folder: pathlib.Path) -> tuple[str, int | None] | None:
    """Text and memory of the largest program in a folder of dumps; None while it is not all there."""
    programs = sorted(folder.glob(PROGRAM), key=lambda path: path.stat().st_size)
    if not programs:
        return None
    size = programs[-1].stat().st_size
    time.sleep(0.1)
    text = programs[-1].read_text()
    if len(text.encode()) != size or not text.rstrip().endswith("}"):
        return None
    report = programs[-1].with_name(programs[-1].name.replace("_after_buffer_assignment.txt", REPORT))
    total = MAIN_MEMORY.search(report.read_text()) if report.exists() else None
    return text, int(total[1]) if total else None
