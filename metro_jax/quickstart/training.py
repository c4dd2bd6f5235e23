"""The two training stages: `python -m metro_jax.train` in a process of its own, watched line by line."""

import collections
import importlib.util
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

METRICS_FILE = "metrics.jsonl"
SECONDS_TO_SAVE = 120  # what a stopped training may take for its last checkpoint
# Lines of the training process that people want to see; the rest is in the log.
_SHOWN = re.compile(r"^(step |eval of |continuing |stopped |parameters from |error: )")


NEEDED = ("clu", "gin", "matplotlib", "optax", "orbax", "seqio", "tensorflow")


def check_installed() -> None:
    """Raises ImportError when packages of the extra `train` are missing, before anything is begun."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"training needs {', '.join(missing)}: install them with pip install 'metro_jax[train]'")


class TrainingFailedError(RuntimeError):
    """The training process ended with an error."""


def command(recipe: str, bindings: Mapping[str, str]) -> list[str]:
    """The command line of one training stage; values of bindings are as gin reads them."""
    settings = [f"--gin.{name}={value}" for name, value in bindings.items()]
    return [sys.executable, "-m", "metro_jax.train", f"--gin_file={recipe}", *settings]


def as_typed(arguments: Sequence[str], data_dir: pathlib.Path) -> str:
    """A training command as one would type it in a shell."""
    return f"METRO_DATA_DIR={shlex.quote(str(data_dir))} python {shlex.join(arguments[1:])}"


def run(
    arguments: Sequence[str], data_dir: pathlib.Path, log: pathlib.Path, show: Callable[[str], None], lock: int
) -> None:
    """Runs a training command, shows its progress lines, keeps everything it says in `log`.

    On Ctrl-C the training process saves a checkpoint before it ends; only then is KeyboardInterrupt passed on.

    Args:
      lock: descriptor of a lock that the training process holds as well, should it outlive this one.

    Raises:
      TrainingFailedError: it ended with an error; holds the last lines.
    """
    environment = {**os.environ, "METRO_DATA_DIR": str(data_dir), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    last: collections.deque[str] = collections.deque(maxlen=8)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file, _start(arguments, environment, lock) as process:
        assert process.stdout is not None
        print(f"$ {as_typed(arguments, data_dir)}", file=file)
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                last.append(line.rstrip())
                if _SHOWN.match(line):
                    show(line.rstrip())
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        said = "\n  ".join(last)
        raise TrainingFailedError(
            f"{as_typed(arguments, data_dir)}\nended with status {process.returncode}; everything it said is in {log}. "
            f"Its last words:\n  {said}"
        )


def _start(arguments: Sequence[str], environment: Mapping[str, str], lock: int) -> subprocess.Popen[str]:
    """The process, deaf to Ctrl-C: a terminal sends that to both, but who stops is decided here."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        return subprocess.Popen(
            arguments,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=(lock,),
        )
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def _stop(process: subprocess.Popen[str]) -> None:
    """Asks the process to save and end, and ends it when it does not."""
    process.terminate()
    try:
        process.communicate(timeout=SECONDS_TO_SAVE)
    except subprocess.TimeoutExpired:
        process.kill()


def read_metrics(model_dir: pathlib.Path, split: str = "train") -> list[dict[str, float]]:
    """What a training run logged: one mapping per line, with `step` and the metrics of the period before it."""
    entries = []
    for line in (model_dir / METRICS_FILE).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry.pop("split") == split:
            entries.append(entry)
    return entries
