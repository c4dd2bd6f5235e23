"""The tokenizer's benchmark: runs, compares equal ids and prints what it promises."""

import pathlib
import re
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "tokenizer.py"


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_prints_sizes_and_ratio():
    result = run("--characters", "20000", "--rounds", "2")
    assert result.returncode == 0, result.stderr
    assert re.search(r"texts \d+, 2\d{4} characters, \d+ ids; 2 rounds", result.stdout)
    assert float(re.search(r"encode_batch to peer: (\d+\.\d+) \(median", result.stdout)[1]) > 0  # type: ignore[index]


def test_refuses_nothing_to_measure():
    result = run("--rounds", "0")
    assert result.returncode != 0
    assert "must be at least 1" in result.stderr
