"""Watching a run: metrics summed on the host, one line per period, JSONL and TensorBoard, and the stop at NaN."""

import collections
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import jax
from clu import metric_writers
from etils import epath

from metro_jax.objectives import summarize
from metro_jax.training.errors import UserError

METRICS_FILE = "metrics.jsonl"
# What the line shows besides these: the learning rate, speed and time left. The files have everything.
SHOWN = (
    "loss",
    "nll_loss",
    "generator_loss",
    "rtd_loss",
    "replaced_accuracy",
    "accuracy",
)


class NonFiniteLoss(UserError):
    """A loss or the gradient became NaN or infinite."""


def rounded(name: str, value: float) -> float:
    """To 3 decimals as the reference logs losses (bits) and accuracies (percent), `ppl` to 2 (spec 5.4)."""
    if name in ("learning_rate", "gradient_norm"):
        return float(f"{value:.6g}")
    return round(value, 2 if name == "ppl" else 3)


class Progress:
    """Sums of metrics between two log lines, and where the lines go.

    Losses are fetched one step late, so that reading them never makes the device wait.

    Args:
        model_dir: METRICS_FILE and TensorBoard's files go here; None (processes other than the first) writes nothing.
        total_steps: of the run.
        period: steps per line.
        eval_period: steps between evaluations.
        first_step: where this process starts; later lines of an earlier attempt are removed from METRICS_FILE.
        saved: what `state()` returned for the checkpoint that this process continues from.
        checkpoints: steps of those already there.
    """

    def __init__(
        self,
        model_dir: str | None,
        total_steps: int,
        period: int,
        eval_period: int = 1,
        first_step: int = 0,
        saved: Mapping[str, Any] | None = None,
        checkpoints: Sequence[int] = (),
        stream: TextIO | None = None,
    ) -> None:
        self.total_steps = total_steps
        self.period = period
        self.checkpoints = list(checkpoints)
        self._stream = sys.stderr if stream is None else stream
        self._sums: dict[str, list[float]] = {k: list(v) for k, v in (saved or {}).get("sums", {}).items()}
        self._pending: collections.deque[tuple[int, Any]] = collections.deque()
        self._tokens = self._steps = 0
        self._since = time.monotonic()
        self._seconds_per_step = 0.0
        self._compiling = True
        self._dir = model_dir
        self._writers: dict[str, metric_writers.MetricWriter] = {}
        if model_dir is not None:
            self._path = epath.Path(model_dir) / METRICS_FILE
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _keep_lines(self._path, first_step, period, eval_period)

    def start(self) -> None:
        """Speed is measured from here on."""
        self._since, self._tokens, self._steps = time.monotonic(), 0, 0

    def add(self, step: int, metrics: Any, tokens: int) -> None:
        """Takes the metrics of the update that led to `step`; looks at those of the update before.

        Raises:
            NonFiniteLoss: with the step, the loss terms and the last good checkpoint.
        """
        self._pending.append((step, metrics))
        self._tokens += tokens
        self._steps += 1
        if self._compiling:  # the first step says nothing about the speed of the others
            self.flush()
            self.start()
            self._compiling = False
        while len(self._pending) > 1:
            self._absorb(*self._pending.popleft())
        if step % self.period == 0 or step == self.total_steps:
            self.flush()
            self._line(step)

    def flush(self) -> None:
        """Waits for the metrics that are still on the devices; a checkpoint after this is known to be finite."""
        while self._pending:
            self._absorb(*self._pending.popleft())

    def _absorb(self, step: int, metrics: Any) -> None:
        values = {name: (float(total), float(count)) for name, (total, count) in jax.device_get(metrics).items()}
        if not all(math.isfinite(total) for total, _ in values.values()):
            raise NonFiniteLoss(self._explain(step, values))
        for name, (total, count) in values.items():
            if name == "learning_rate":
                self._sums[name] = [total, count]
            else:
                sums = self._sums.setdefault(name, [0.0, 0.0])
                sums[0] += total
                sums[1] += count

    def _explain(self, step: int, values: Mapping[str, tuple[float, float]]) -> str:
        terms = ", ".join(f"{name} {value:.6g}" for name, value in _averages(values).items())
        # The parameters after update step - 1 are the ones that gave this loss, finite or not.
        good = [saved for saved in self.checkpoints if saved < step - 1]
        suspect = [saved for saved in self.checkpoints if saved >= step - 1]
        last = f"Last good checkpoint: checkpoint_{good[-1]}" if good else "No good checkpoint was written yet"
        remove = f" (remove {', '.join(f'checkpoint_{saved}' for saved in suspect)} first)" if suspect else ""
        return (
            f"update {step} gave a loss or gradient that is not finite: {terms}. {last}. Lower the learning rate, clip "
            "the gradient (MetroAdamW.clip_norm=2.0) or compute in float32; the same command then continues from the "
            f"newest checkpoint{remove}"
        )

    def _line(self, step: int) -> None:
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        if self._steps:
            self._seconds_per_step = seconds / self._steps
        values = _averages(self._sums)
        speed = {"tokens_per_second": round(self._tokens / seconds, 1), "steps_per_second": self._steps / seconds}
        self.write(step, "train", {**values, **speed})
        left = self._seconds_per_step * (self.total_steps - step)
        shown = [f"{name} {rounded(name, values[name]):.3f}" for name in SHOWN if name in values]
        width = len(str(self.total_steps))
        print(
            f"step {step:{width}d}/{self.total_steps}  {'  '.join(shown)}  lr {values.get('learning_rate', 0.0):.2e}  "
            f"{speed['tokens_per_second']:,.0f} tokens/s  {clock(left)} left",
            file=self._stream,
            flush=True,
        )
        if step % self.period == 0:  # a line cut short by the end of the run does not end its period
            self._sums = {}
        self.start()

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One line of METRICS_FILE and one point per metric in TensorBoard, under the folder `split`."""
        if self._dir is None:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        if split not in self._writers:
            writer = metric_writers.SummaryWriter(os.path.join(self._dir, split))
            self._writers[split] = metric_writers.AsyncWriter(writer)
        self._writers[split].write_scalars(step, dict(values))

    def evaluation(self, step: int, name: str, metrics: Iterable[Any]) -> dict[str, float]:
        """Sums and logs the metrics of evaluation batches; returns their averages."""
        sums: dict[str, list[float]] = {}
        for batch in metrics:
            for key, (total, count) in jax.device_get(batch).items():
                pair = sums.setdefault(key, [0.0, 0.0])
                pair[0] += float(total)
                pair[1] += float(count)
        values = _averages(sums)
        self.write(step, f"training_eval/{name}", values)
        shown = "  ".join(f"{key} {rounded(key, values[key]):.3f}" for key in SHOWN if key in values)
        print(f"eval of {name} after step {step}: {shown}", file=self._stream, flush=True)
        return values

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold so that the next line is the same after a restart."""
        return {"sums": self._sums}

    def close(self) -> None:
        """Waits for TensorBoard's files."""
        for writer in self._writers.values():
            writer.close()


def _averages(sums: Mapping[str, Any]) -> dict[str, float]:
    return summarize({name: (total, count) for name, (total, count) in sums.items()})


def clock(seconds: float) -> str:
    """h:mm:ss."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def _keep_lines(path: epath.Path, last_step: int, period: int, eval_period: int) -> None:
    """Drops lines that the run is about to write again, and those that only the end of an earlier run has caused."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:  # cut short when the process was killed
            continue
        due = entry["step"] % (period if entry["split"] == "train" else eval_period) == 0
        if due and entry["step"] <= last_step:
            kept.append(line)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
