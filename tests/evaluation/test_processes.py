"""Runs in processes of their own: killed ones go on, and several together write one report."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow
QUICK = """
import sys
from metro_jax.inference.compilation import Program
Program.compiler_options = {"xla_backend_optimization_level": 0}
from metro_jax import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def start(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "METRO_JAX_CACHE": "off"}
    return subprocess.Popen(
        [sys.executable, "-c", QUICK, "eval", "t0", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def command(golden_dir: pathlib.Path, data: pathlib.Path, out: pathlib.Path) -> list[str]:
    return [str(golden_dir / "hub_tiny"), "--data", str(data), "--out", str(out), "--tasks", "rte", "copa"]


def accuracies(out: pathlib.Path) -> list[float]:
    tasks = json.loads((out / "results.json").read_text())["tasks"]
    return [entry["accuracy"] for row in tasks for entry in row["templates"] if "accuracy" in entry]


@pytest.fixture(scope="module")
def alone(golden_dir: pathlib.Path, data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    out = tmp_path_factory.mktemp("alone")
    finish(start(*command(golden_dir, data, out)))
    return accuracies(out)


def test_a_killed_run_goes_on(
    golden_dir: pathlib.Path, data: pathlib.Path, tmp_path: pathlib.Path, alone: list[float]
) -> None:
    process = start(*command(golden_dir, data, tmp_path), "--batch-size", "2")
    part, until = tmp_path / "scores" / "1-of-1.jsonl", time.monotonic() + 300
    while not part.exists() or part.read_bytes().count(b"\n") < 4:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = part.read_bytes().count(b"\n")
    assert done < 6 * 18
    _, err = finish(start(*command(golden_dir, data, tmp_path)))
    assert f"{6 * 18 - done} examples in" in err
    assert part.read_bytes().count(b"\n") == 6 * 18
    assert accuracies(tmp_path) == alone


def test_processes_that_jax_joins(
    golden_dir: pathlib.Path, data: pathlib.Path, tmp_path: pathlib.Path, alone: list[float]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--coordinator_address", f"127.0.0.1:{port}", "--process_count", "2"]
    together = [
        start(*command(golden_dir, data, tmp_path), *where, "--process_index", str(index)) for index in range(2)
    ]
    (first, _), (second, _) = [finish(process) for process in together]
    assert "Files in" in first
    assert "Files in" not in second
    assert accuracies(tmp_path) == alone
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["1-of-2.jsonl", "2-of-2.jsonl"]
