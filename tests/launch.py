"""`python -m metro_jax.train` in processes of their own, on the quick stand-in model."""

import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
PREPARED = "metro_jax.tasks.prepared"
BINDINGS = {
    "MIXTURE_OR_TASK_MODULE": f"'{PREPARED}'",
    "MIXTURE_OR_TASK_NAME": "'both'",
    "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 4}",
    "TRAIN_STEPS": "4",
    "BATCH_SIZE": "8",
    "utils.create_learning_rate_scheduler.warmup_steps": "2",
    "train_eval/utils.DatasetConfig.split": "'train'",
}


def stand_in_gin(folder: pathlib.Path) -> str:
    """A gin file that puts the stand-in in the place of METRO."""
    file = folder / "stand_in.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\ninclude 'runs/pretrain.gin'\nfrom tests.training import stand_in\n"
        "MODEL = @stand_in.BagModel()\nstand_in.BagModel.optimizer_def = %OPTIMIZER\n"
    )
    return str(file)


def command(file: str, *more: str, **bindings: str | None) -> list[str]:
    """Arguments of a run; a binding that is None is left out."""
    settings = [f"--gin.{name}={value}" for name, value in (BINDINGS | bindings).items() if value is not None]
    return ["train", f"--gin_file={file}", *settings, *more]


def launch(arguments: list[str], data: pathlib.Path, processes: int = 1, devices: int = 1) -> list[subprocess.Popen]:
    """Starts as many processes, with so many devices each; what they say is one text per process."""
    environment = os.environ | {
        "METRO_DATA_DIR": str(data),
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    together: list[list[str]] = [[]]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = [f"--coordinator_address=127.0.0.1:{port}", f"--process_count={processes}"]
        together = [[*where, f"--process_index={index}"] for index in range(processes)]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "metro_jax.train", *arguments[1:], *more],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for more in together
    ]


def finish(processes: list[subprocess.Popen], statuses: tuple[int, ...] = (0,), timeout: float = 300) -> list[str]:
    """Waits for all of them and returns what they said."""
    said = [process.communicate(timeout=timeout)[1] for process in processes]
    for process, text in zip(processes, said, strict=True):
        assert process.returncode in statuses, f"status {process.returncode}\n{text[-3000:]}"
    return said


def wait_for(path: pathlib.Path, processes: list[subprocess.Popen], timeout: float = 300) -> None:
    """Returns when `path` exists; fails when a process ends before that."""
    until = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        for process in processes:
            assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
