"""Running a model over whole datasets: scores, predictions, and seqio's evaluator around them."""

import inspect
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import jax
import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from metro_jax.data.t0.summary import evaluation_means
from metro_jax.training.models import BaseModel, address
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.progress import clock
from metro_jax.training.report import abstract_params, describe_mesh, parameter_table
from metro_jax.training.trees import flatten
from metro_jax.training.utils import DatasetConfig, get_mixture_or_task, get_task

Outputs = Any
SECONDS_PER_LINE = 5.0


class Runner:
    """`method(params, batch)` for batches of at most `batch_size` rows, compiled once.

    Args:
        method: `score_batch`, `predict_batch` or `predict_batch_with_aux` of a model.
        batch_size: rows per call; a smaller batch is filled up with copies of its last row that are dropped again.
        purpose: the random keys of methods that want some are folded from `seed`, this and the numbers of the call.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        partitioner: PjitPartitioner,
        params: Any,
        batch_size: int,
        seed: int = 0,
        purpose: str = "infer",
    ) -> None:
        self._params, self._partitioner, self._batch_size = params, partitioner, batch_size
        self._key, self._purpose = jax.random.key(seed), purpose
        self._wants_rng = "rng" in inspect.signature(method).parameters
        shardings = (None, partitioner.batch_sharding, *([None] if self._wants_rng else []))
        self._compiled = jax.jit(method, in_shardings=shardings, out_shardings=partitioner.replicated)

    def __call__(self, batch: Mapping[str, np.ndarray], *numbers: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Outputs, one per row, and the auxiliary values beside them (empty where the method has none)."""
        rows = len(next(iter(batch.values())))
        extra = (address(self._key, self._purpose, *numbers),) if self._wants_rng else ()
        with self._partitioner.context():
            result = jax.device_get(self._compiled(self._params, self._place(batch, rows), *extra))
        outputs, aux = result if isinstance(result, tuple) else (result, {})
        return outputs[:rows], jax.tree.map(lambda x: x[:rows], aux)

    def _place(self, batch: Mapping[str, np.ndarray], rows: int) -> dict[str, jax.Array]:
        """The whole batch, which every process has read, filled up with copies of its last row."""
        missing = self._batch_size - rows
        full = {name: np.concatenate([x, np.repeat(x[-1:], missing, 0)]) for name, x in batch.items()}
        return self._partitioner.shard_whole_batch(full)


class Watch:
    """A line on stderr every few seconds: examples done, of how many, per second, time left.

    Args:
        label: begins the line.
        total: examples in all; None where nobody knows.
        done: examples that an earlier run has left.
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        done: int = 0,
        period: float = SECONDS_PER_LINE,
        stream: TextIO | None = None,
    ) -> None:
        self.label, self.total, self.done, self._period = label, total, done, period
        self._stream = sys.stderr if stream is None else stream
        self._first, self._since = done, time.monotonic()
        self._said = self._since

    def add(self, examples: int) -> None:
        """Counts, and says so when it is time."""
        self.done += examples
        if time.monotonic() - self._said >= self._period:
            self.say()

    def say(self) -> None:
        """The line."""
        self._said = time.monotonic()
        speed = (self.done - self._first) / max(self._said - self._since, 1e-9)
        line = f"{self.label}: {self.done:,}"
        if self.total is not None:
            line += f"/{self.total:,}"
        line += f" examples  {speed:,.1f} examples/s"
        if self.total is not None and speed > 0:
            line += f"  {clock(max(self.total - self.done, 0) / speed)} left"
        print(line, file=self._stream, flush=True)


def over_dataset(
    method: Callable[..., Any],
    partitioner: PjitPartitioner,
    params: Any,
    batch_size: int,
    seed: int = 0,
    label: str | None = None,
) -> Callable[[tf.data.Dataset], Outputs]:
    """`method(params, batch)` as a function of an enumerated dataset, in the form that seqio's evaluator calls.

    Args:
        method, batch_size: as for `Runner`.
        label: of progress lines; None prints none.

    Returns:
        A function that gives [(index, output)], and the auxiliary values beside it where the method has some.
    """
    runner = Runner(method, partitioner, params, batch_size, seed)

    def run(dataset: tf.data.Dataset) -> Outputs:
        indices, outputs, aux = [], [], {}
        size = int(dataset.cardinality())
        watch = Watch(label or "", size if size >= 0 else None, period=SECONDS_PER_LINE if label else math.inf)
        for number, (index, batch) in enumerate(dataset.batch(batch_size).as_numpy_iterator()):
            result, more = runner(batch, number)
            for name, value in more.items():
                aux.setdefault(name, []).extend(value)
            indices.extend(int(i) for i in index)
            outputs.extend(result)
            watch.add(len(index))
        pairs = list(zip(indices, outputs, strict=True))
        return (pairs, aux) if aux else pairs

    return run


def dry_run(model: BaseModel, cfg: DatasetConfig, partitioner: PjitPartitioner) -> str:
    """What evaluation or inference would work on: the mesh, a table of the parameters, the features of a batch."""
    partitioner.check_batch_size(cfg.batch_size)
    params = flatten(abstract_params(model, partitioner, cfg.batch_size))
    lines = [describe_mesh(partitioner), "", *parameter_table(params), "", "batch:", *_batch_lines(model, cfg)]
    return "\n".join(lines)


def _batch_lines(model: BaseModel, cfg: DatasetConfig) -> list[str]:
    if cfg.task_feature_lengths is None:
        names = sorted(model.FEATURE_CONVERTER_CLS.MODEL_FEATURES)
        return [f"  {name} ({cfg.batch_size}, longest example)" for name in names]
    _, features = examples_and_features(model, cfg, get_task(cfg))
    specs: Any = features.element_spec
    shapes = {name: (cfg.batch_size, *spec.shape) for name, spec in specs.items()}
    return [f"  {name} {shape}" for name, shape in sorted(shapes.items())]


def examples_and_features(
    model: BaseModel, cfg: DatasetConfig, task: seqio.Task | seqio.Mixture, shard_id: int = 0, num_shards: int = 1
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """One shard of a task's examples in their fixed order, and in step with them what the model reads of each."""
    examples = task.get_dataset(
        sequence_length=cfg.task_feature_lengths,
        split=cfg.split,
        shuffle=False,
        num_epochs=1,
        shard_info=seqio.ShardInfo(index=shard_id, num_shards=num_shards),
        use_cached=cfg.use_cached,
        seed=cfg.seed,
    )
    return examples, model.FEATURE_CONVERTER_CLS(pack=False)(examples, cfg.task_feature_lengths)


class TaskEvaluator:
    """The metrics of every task of a mixture, as `seqio.Evaluator` computes them.

    Args:
        evaluator_cls: `seqio.Evaluator` or a partial of it (loggers, num_examples, use_memory_cache).
        output_dir: for its loggers.
    """

    def __init__(
        self,
        model: BaseModel,
        cfg: DatasetConfig,
        partitioner: PjitPartitioner,
        evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
        output_dir: str | None = None,
    ) -> None:
        get_mixture_or_task(cfg.mixture_or_task_name, cfg.module)
        partitioner.check_batch_size(cfg.batch_size)
        self.model, self.cfg, self.partitioner = model, cfg, partitioner
        if output_dir is not None:
            epath.Path(output_dir).mkdir(parents=True, exist_ok=True)
        self._evaluator = evaluator_cls(
            mixture_or_task_name=cfg.mixture_or_task_name,
            feature_converter=model.FEATURE_CONVERTER_CLS(pack=False),
            eval_split=cfg.split,
            use_cached=cfg.use_cached,
            seed=cfg.seed,
            sequence_length=cfg.task_feature_lengths,
            log_dir=output_dir,
        )

    @property
    def tasks(self) -> list[str]:
        """Tasks that have metrics and this split."""
        return [task.name for task in self._evaluator.eval_tasks]

    def evaluate(self, params: Any, step: int) -> dict[str, dict[str, float]]:
        """Task -> metric -> value, for these parameters; of T0 Eval also the means over templates."""
        if not self.tasks:
            return {}
        functions: dict[str, Any] = {
            name: over_dataset(method, self.partitioner, params, self.cfg.batch_size, label=f"step {step}")
            for name, method in (
                ("score_fn", getattr(self.model, "score_batch", None)),
                ("predict_fn", getattr(self.model, "predict_batch", None)),
                ("predict_with_aux_fn", getattr(self.model, "predict_batch_with_aux", None)),
            )
            if method is not None
        }
        metrics, _ = self._evaluator.evaluate(compute_metrics=True, step=step, **functions)
        results = {task: _numbers(values) for task, values in metrics.result().items()}
        return results | evaluation_means(results)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    scalars = {name: getattr(value, "value", value) for name, value in values.items()}
    return {name: float(value) for name, value in scalars.items() if np.ndim(value) == 0 and not isinstance(value, str)}


def table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Tasks and their metrics, aligned."""
    rows = [(task, name, f"{value:.3f}") for task, values in metrics.items() for name, value in values.items()]
    return "\n".join(_aligned([("task", "metric", "value"), *rows], right=(2,)))


def _aligned(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> list[str]:
    """Columns as wide as their widest cell; those of `right` end there, the others begin."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def cell(row: tuple[str, ...], i: int) -> str:
        return row[i].rjust(widths[i]) if i in right else row[i].ljust(widths[i])

    return ["  ".join(cell(row, i) for i in range(len(row))).rstrip() for row in rows]


def write_json(path: epath.PathLike, content: Any) -> None:
    """Written beside and renamed, so that a reader never sees half of it."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
