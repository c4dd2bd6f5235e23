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
from metro_jax.training.errors import UserError, nearest
from metro_jax.training.speed import Speed, clock, describe

METRICS_FILE = "metrics.jsonl"
TRAIN, TOKENS, GRADIENT_NORM = "train", "tokens", "gradient_norm"
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
    if name in ("learning_rate", GRADIENT_NORM):
        return float(f"{value:.6g}")
    return round(value, 2 if name == "ppl" else 3)


class Progress:
    """Sums of metrics between two log lines, and where the lines go.

    Losses are fetched one step late, so that reading them never makes the device wait.

    Args:
        model_dir: METRICS_FILE and TensorBoard's files are there.
        total_steps: of the run.
        period: steps per line.
        eval_period: steps between evaluations.
        first_step: where this process starts; later lines of an earlier attempt are removed from METRICS_FILE.
        saved: what `state()` returned for the checkpoint that this process continues from.
        checkpoints: steps of those already there.
        best_metric: "split/metric" whose values are collected.
        scores: where they are collected, by step.
        writes: False keeps the numbers and writes nothing (all processes but the first).
        flops_per_step, peak_flops: of the model and of all devices together; both give the utilisation.
    """

    def __init__(
        self,
        model_dir: str,
        total_steps: int,
        period: int,
        eval_period: int = 1,
        first_step: int = 0,
        saved: Mapping[str, Any] | None = None,
        checkpoints: Sequence[int] = (),
        best_metric: str | None = None,
        scores: dict[int, float] | None = None,
        writes: bool = True,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self.total_steps = total_steps
        self.period = period
        self.checkpoints = list(checkpoints)
        self.scores = {} if scores is None else scores
        self._best = best_metric.rsplit("/", 1) if best_metric else None
        self._stream = sys.stderr if stream is None else stream
        self._sums: dict[str, list[float]] = {k: list(v) for k, v in (saved or {}).get("sums", {}).items()}
        self._pending: collections.deque[tuple[int, Any]] = collections.deque()
        self._speed = Speed(flops_per_step, peak_flops)
        self._compiling = time.monotonic()  # 0 once the first step is done
        self._dir, self._writes = model_dir, writes
        self._writers: dict[str, metric_writers.MetricWriter] = {}
        self._path = epath.Path(model_dir) / METRICS_FILE
        kept = _lines_to_keep(self._path, first_step, period, eval_period)
        for line in kept:
            self._score(line["step"], line["split"], line)
        self._evaluated = {line["step"] for line in kept if line["split"] != TRAIN}
        if writes:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _rewrite(self._path, kept)

    def start(self) -> None:
        """Speed is measured from here on."""
        self._speed.start()

    def waited(self, seconds: float) -> None:
        """So long did the loop wait for data."""
        self._speed.waited += seconds

    def add(self, step: int, metrics: Any, examples: int) -> None:
        """Takes the metrics of the update that led to `step`; looks at those of the update before.

        Args:
            examples: rows of the batch.

        Raises:
            NonFiniteLoss: with the step, the loss terms and the last good checkpoint.
        """
        self._pending.append((step, metrics))
        self._speed.steps += 1
        self._speed.examples += examples
        if self._compiling:  # the first step says nothing about the speed of the others
            self.flush()
            print(f"first step after {time.monotonic() - self._compiling:.1f} s", file=self._stream, flush=True)
            self._compiling = 0.0
            self.start()
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
        self._speed.tokens += values.pop(TOKENS, (0.0, 0.0))[0]
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
        values, speed = _averages(self._sums), self._speed.measure()
        self.write(step, {TRAIN: {**values, **speed}})
        shown = [f"{name} {rounded(name, values[name]):.3f}" for name in SHOWN if name in values]
        if GRADIENT_NORM in values:
            shown.append(f"norm {values[GRADIENT_NORM]:.3g}")
        width = len(str(self.total_steps))
        print(
            f"step {step:{width}d}/{self.total_steps}  {'  '.join(shown)}  lr {values.get('learning_rate', 0.0):.2e}  "
            f"{describe(speed)}  {clock(self._speed.seconds_per_step * (self.total_steps - step))} left",
            file=self._stream,
            flush=True,
        )
        if step % self.period == 0:  # a line cut short by the end of the run does not end its period
            self._sums = {}
        self.start()

    def write(self, step: int, lines: Mapping[str, Mapping[str, float]]) -> None:
        """A line of METRICS_FILE per split, all at once, and a point per metric in TensorBoard's folder of it."""
        if not self._writes:
            return
        text = "".join(json.dumps({"step": step, "split": name, **values}) + "\n" for name, values in lines.items())
        with self._path.open("a") as file:
            file.write(text)
        for name, values in lines.items():
            self.writer(name).write_scalars(step, dict(values))

    def writer(self, split: str) -> metric_writers.MetricWriter:
        """TensorBoard's files of one split; what is written goes out in a thread of its own."""
        if split not in self._writers:
            writer = metric_writers.SummaryWriter(os.path.join(self._dir, split))
            self._writers[split] = metric_writers.AsyncWriter(writer)
        return self._writers[split]

    def averages(self, step: int, name: str, metrics: Iterable[Any]) -> dict[str, float]:
        """Sums the metrics of evaluation batches, shows them, and returns their averages."""
        sums: dict[str, list[float]] = {}
        for batch in metrics:
            for key, (total, count) in jax.device_get(batch).items():
                pair = sums.setdefault(key, [0.0, 0.0])
                pair[0] += float(total)
                pair[1] += float(count)
        values = _averages(sums)
        shown = "  ".join(f"{key} {rounded(key, values[key]):.3f}" for key in SHOWN if key in values)
        print(f"eval of {name} after step {step}: {shown}", file=self._stream, flush=True)
        return values

    def evaluated(self, step: int, lines: Mapping[str, Mapping[str, float]]) -> None:
        """Takes the results of an evaluation, by split."""
        self._evaluated.add(step)
        self.write(step, lines)
        for split, values in lines.items():
            self._score(step, split, values)

    def is_evaluated(self, step: int) -> bool:
        """Whether the evaluation after this step is already in METRICS_FILE."""
        return step in self._evaluated

    def _score(self, step: int, split: str, values: Mapping[str, float]) -> None:
        if self._best and split == self._best[0]:
            if self._best[1] not in values:
                raise UserError(
                    f"best_metric: {split} has no {self._best[1]!r}{nearest(self._best[1], values)}; it has "
                    f"{', '.join(sorted(set(values) - {'step', 'split'}))}"
                )
            self.scores[step] = values[self._best[1]]

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold so that the next line is the same after a restart."""
        return {"sums": self._sums}

    def close(self) -> None:
        """Waits for TensorBoard's files."""
        for writer in self._writers.values():
            writer.close()


def _averages(sums: Mapping[str, Any]) -> dict[str, float]:
    return summarize({name: (total, count) for name, (total, count) in sums.items()})


def _lines_to_keep(path: epath.Path, last_step: int, period: int, eval_period: int) -> list[dict[str, Any]]:
    """All but the lines that the run is about to write again, and those that only an earlier run's end has caused."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut short when the process was killed
            continue
        due = entry["step"] % (period if entry["split"] == TRAIN else eval_period) == 0
        if due and entry["step"] <= last_step:
            kept.append(entry)
    return kept


def _rewrite(path: epath.Path, lines: Iterable[Mapping[str, Any]]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    temporary.replace(path)
