"""Evaluation: `python -m metro_jax.eval --gin_file=models/tiny.gin --gin_file=runs/eval.gin ...`."""

import metro_jax.training  # noqa: F401, I001 - first: it quietens TensorFlow, which seqio loads
import functools
import os
import re
import sys
from collections.abc import Callable

import gin
import seqio
from absl import flags

from metro_jax.training import gin_utils, inference
from metro_jax.training.checkpoints import RestoreCheckpointConfig, restore_params
from metro_jax.training.errors import UserError
from metro_jax.training.inference import TaskEvaluator, table, write_json
from metro_jax.training.models import BaseModel
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.report import abstract_params
from metro_jax.training.utils import DatasetConfig, check_fits

METRICS_FILE = "metrics.json"


def evaluate(
    *,
    model: BaseModel,
    dataset_cfg: DatasetConfig,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    partitioner: PjitPartitioner | None = None,
    output_dir: str,
    inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
    summarize_config_fn: Callable[..., None] | None = None,
    dry_run: bool = False,
) -> dict[str, dict[str, dict[str, float]]]:
    """Computes the metrics of every task of a mixture for one or more checkpoints.

    Args:
        dataset_cfg: tasks and split; `task_feature_lengths` None takes the longest example.
        restore_checkpoint_cfg: one checkpoint, the newest of a model folder, or all of them.
        output_dir: METRICS_FILE goes here, and what the evaluator's loggers write.
        dry_run: print what would be done and stop.

    Returns:
        Checkpoint folder -> task -> metric -> value, as in METRICS_FILE.

    Raises:
        UserError: no checkpoint, or no task with metrics.
    """
    partitioner = partitioner or PjitPartitioner()
    check_fits(model, dataset_cfg)
    if dry_run:
        print(inference.dry_run(model, dataset_cfg, partitioner))
        return {}
    paths = restore_checkpoint_cfg.find()
    if not paths:
        raise UserError("no checkpoint to evaluate: set CHECKPOINT_PATH to a checkpoint_<step> or a model folder")
    evaluator = TaskEvaluator(model, dataset_cfg, partitioner, inference_evaluator_cls, output_dir)
    if not evaluator.tasks:
        raise UserError(
            f"{dataset_cfg.mixture_or_task_name!r} has no task with metrics and a split {dataset_cfg.split!r}; name a "
            "ranked task, or one registered with metric functions"
        )
    results = {}
    for path in paths:
        params, _ = restore_params(path, abstract_params(model, partitioner, dataset_cfg.batch_size))
        step = re.fullmatch(r"checkpoint_(\d+)", path.name)
        results[str(path)] = evaluator.evaluate(params, int(step[1]) if step else 0)
        print(f"{path}\n{table(results[str(path)])}", flush=True)
        write_json(os.path.join(output_dir, METRICS_FILE), results)  # each time: what is known is not lost
    if summarize_config_fn is not None:
        summarize_config_fn(output_dir)
    return results


def _run(values: flags.FlagValues) -> None:
    gin_utils.configure(values)
    run = gin_utils.configurable(evaluate, "eval_script.evaluate", "runs/eval.gin")
    if values.dry_run:
        print(gin.config_str())
    run(**({"dry_run": True} if values.dry_run else {}))


main = functools.partial(gin_utils.run, _run)

if __name__ == "__main__":
    # gin files import `metro_jax.eval`, so the function they configure is that module's, not this one's.
    from metro_jax import eval as eval_script

    sys.exit(eval_script.main())
