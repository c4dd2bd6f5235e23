"""What a training run evaluates on the way: losses of held-out batches, and metrics from scores and predictions."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import seqio

from metro_jax.training.batches import evaluation_batches
from metro_jax.training.inference import TaskEvaluator, table
from metro_jax.training.models import BaseModel
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.progress import Progress
from metro_jax.training.trainer import Trainer
from metro_jax.training.utils import DatasetConfig


class Evaluation:
    """Both kinds of evaluation, for given parameters and step.

    Args:
        losses_cfg: losses are taken on `num_batches` batches of it; None takes none.
        metrics_cfg: tasks whose metrics are computed as `seqio.Evaluator` does; None computes none.
        output_dir: for the evaluator's loggers.
    """

    def __init__(
        self,
        model: BaseModel,
        trainer: Trainer,
        partitioner: PjitPartitioner,
        losses_cfg: DatasetConfig | None,
        metrics_cfg: DatasetConfig | None,
        num_batches: int,
        seed: int,
        evaluator_cls: Callable[..., seqio.Evaluator],
        output_dir: str,
    ) -> None:
        self.model, self.trainer, self.partitioner = model, trainer, partitioner
        self.losses_cfg = losses_cfg if num_batches else None
        self.num_batches, self.seed = num_batches, seed
        self.evaluator = None
        if metrics_cfg is not None:
            self.evaluator = TaskEvaluator(model, metrics_cfg, partitioner, evaluator_cls, output_dir)

    def __call__(self, step: int, params: Any, progress: Progress) -> None:
        """Evaluates and hands the results to `progress`, all of them or, when cut short, none."""
        lines: dict[str, dict[str, float]] = {}
        if self.losses_cfg is not None:
            name = self.losses_cfg.mixture_or_task_name
            lines[f"training_eval/{name}"] = progress.averages(step, name, self._losses(params, self.losses_cfg))
        if self.evaluator is not None:
            for task, values in self.evaluator.evaluate(params, step).items():
                lines[f"inference_eval/{task}"] = values
                if jax.process_index() == 0:
                    print(table({task: values}), file=sys.stderr)
        progress.evaluated(step, lines)

    def _losses(self, params: Any, cfg: DatasetConfig) -> Iterator[Any]:
        batches = evaluation_batches(cfg, self.model.FEATURE_CONVERTER_CLS, self.seed, self.num_batches)
        for index, batch in enumerate(batches):
            yield self.trainer.eval(params, self.partitioner.shard_whole_batch(batch), index)
