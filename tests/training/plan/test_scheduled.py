"""Programs read from XLA's dumps; that libtpu writes them so is seen in test_compile.py."""

import pathlib
import threading

import pytest

from metro_jax.training.plan import scheduled

TEXT = "HloModule jit_step, is_scheduled=true\n\nENTRY %main () -> f32[] {\n  ROOT %c = f32[] constant(1)\n}\n"
REPORT = "Memory Space: default (color=0)\nTotal bytes: 4096 (4.0KiB)\n\nMemory Space: 3\nTotal bytes: 84 (84B)\n"


def write(folder: pathlib.Path, name: str = "module_0004.jit_step", text: str = TEXT, report: str = REPORT) -> None:
    (folder / f"{name}.after_optimizations-memory-usage-report.txt").write_text(report)
    (folder / f"{name}.after_optimizations_after_buffer_assignment.txt").write_text(text)


class Lowered:
    """Stands for what JAX lowers: writes a dump and then goes on until `released`, or fails."""

    def __init__(self, writes: bool = True, error: Exception | None = None) -> None:
        self.writes, self.error, self.released = writes, error, threading.Event()
        self.options: dict = {}

    def compile(self, compiler_options: dict) -> None:
        self.options = compiler_options
        if self.error is not None:
            raise self.error
        if self.writes:
            write(pathlib.Path(compiler_options["xla_dump_to"]))
            self.released.wait(60)


def test_a_program_is_read_while_the_compiler_goes_on():
    lowered = Lowered()
    text, peak = scheduled.scheduled_program(lowered, {"other": 1})
    assert not lowered.released.is_set()
    lowered.released.set()
    assert (text, peak) == (TEXT, 4096)
    assert lowered.options["other"] == 1


def test_what_the_compiler_says_against_it_is_raised():
    with pytest.raises(ValueError, match="Ran out of memory"):
        scheduled.scheduled_program(Lowered(error=ValueError("Ran out of memory")), None)


def test_no_dump_at_all_is_an_error_that_says_what_to_do():
    with pytest.raises(RuntimeError, match="use --complete"):
        scheduled.scheduled_program(Lowered(writes=False), None)


def test_the_largest_module_is_taken_and_half_a_file_is_not(tmp_path):
    assert scheduled.read(tmp_path) is None
    write(tmp_path, "module_0000.small", text="HloModule small\n}\n", report="")
    assert scheduled.read(tmp_path) == ("HloModule small\n}\n", None)
    write(tmp_path, text=TEXT[:-8])
    assert scheduled.read(tmp_path) is None
    write(tmp_path)
    assert scheduled.read(tmp_path) == (TEXT, 4096)
