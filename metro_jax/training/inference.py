"""Running a model over whole evaluation datasets: scores, predictions, and seqio's evaluator around them."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from metro_jax.training.models import BaseModel, address
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.utils import DatasetConfig, get_mixture_or_task

Outputs = Any


def over_dataset(
    method: Callable[..., Any], partitioner: PjitPartitioner, params: Any, batch_size: int, seed: int = 0
) -> Callable[[tf.data.Dataset], Outputs]:
    """`method(params, batch)` as a function of an enumerated dataset, in the form that seqio's evaluator calls.

    Args:
        method: `score_batch`, `predict_batch` or `predict_batch_with_aux` of a model.
        batch_size: rows per call; the last batch is filled up with copies that are dropped again.

    Returns:
        A function that gives [(index, output)], and the auxiliary values beside it where the method has some.
    """
    wants_rng = "rng" in _parameters(method)
    compiled = jax.jit(method, in_shardings=(None, partitioner.batch_sharding), out_shardings=partitioner.replicated)
    if wants_rng:
        shardings = (None, partitioner.batch_sharding, None)
        compiled = jax.jit(method, in_shardings=shardings, out_shardings=partitioner.replicated)

    def run(dataset: tf.data.Dataset) -> Outputs:
        indices, outputs, aux = [], [], {}
        for number, (index, batch) in enumerate(dataset.batch(batch_size).as_numpy_iterator()):
            rows = len(index)
            padded = {name: np.concatenate([x, np.repeat(x[-1:], batch_size - rows, 0)]) for name, x in batch.items()}
            extra = (address(jax.random.key(seed), "infer", number),) if wants_rng else ()
            with partitioner.context():
                result = jax.device_get(compiled(params, partitioner.shard_batch(padded), *extra))
            if isinstance(result, tuple):
                result, more = result
                for name, value in more.items():
                    aux.setdefault(name, []).extend(value[:rows])
            indices.extend(int(i) for i in index)
            outputs.extend(result[:rows])
        pairs = list(zip(indices, outputs, strict=True))
        return (pairs, aux) if aux else pairs

    return run


def _parameters(method: Callable[..., Any]) -> Sequence[str]:

    return list(inspect.signature(method).parameters)


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
        """Task -> metric -> value, for these parameters."""
        if not self.tasks:
            return {}
        functions: dict[str, Any] = {
            name: over_dataset(method, self.partitioner, params, self.cfg.batch_size)
            for name, method in (
                ("score_fn", getattr(self.model, "score_batch", None)),
                ("predict_fn", getattr(self.model, "predict_batch", None)),
                ("predict_with_aux_fn", getattr(self.model, "predict_batch_with_aux", None)),
            )
            if method is not None
        }
        metrics, _ = self._evaluator.evaluate(compute_metrics=True, step=step, **functions)
        return {task: _numbers(values) for task, values in metrics.result().items()}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    scalars = {name: getattr(value, "value", value) for name, value in values.items()}
    return {name: float(value) for name, value in scalars.items() if np.ndim(value) == 0 and not isinstance(value, str)}


def table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Tasks and their metrics, aligned."""
    rows = [(task, name, f"{value:.3f}") for task, values in metrics.items() for name, value in values.items()]
    rows = [("task", "metric", "value"), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(f"{task:{widths[0]}}  {name:{widths[1]}}  {value:>{widths[2]}}" for task, name, value in rows)


def write_json(path: epath.PathLike, content: Any) -> None:
    """Written beside and renamed, so that a reader never sees half of it."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
