"""Inference: `python -m metro_jax.infer --gin_file=models/tiny.gin --gin_file=runs/infer.gin ...`.

Predictions or scores of every example of a split, as JSON lines. A run that was stopped continues after the last
complete chunk when it is started again, and gives the same file.
"""

import metro_jax.training  # noqa: F401, I001 - first: it quietens TensorFlow, which seqio loads
import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any

import gin
import jax
import numpy as np
import seqio
import tensorflow as tf
from absl import flags
from etils import epath
from jax.experimental import multihost_utils

from metro_jax.training import gin_utils, inference
from metro_jax.training.checkpoint_paths import absolute
from metro_jax.training.checkpoints import RestoreCheckpointConfig, restore_params
from metro_jax.training.errors import UserError, nearest
from metro_jax.training.inference_files import (
    MODES,
    Shard,
    WriteFn,
    checkpoint_identity,
    claim,
    write_inferences_to_file,
)
from metro_jax.training.models import BaseModel
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.report import abstract_params
from metro_jax.training.utils import DatasetConfig, check_fits, get_task

__all__ = ["infer", "main", "write_inferences_to_file"]


def infer(
    *,
    mode: str = "predict",
    model: BaseModel,
    dataset_cfg: DatasetConfig,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    partitioner: PjitPartitioner | None = None,
    output_dir: str,
    checkpoint_period: int = 100,
    shard_id: int = 0,
    num_shards: int = 1,
    merge_chunked_results: bool = True,
    write_fn: WriteFn = write_inferences_to_file,
    inference_evaluator_cls: Callable[..., seqio.Evaluator] | None = None,
    summarize_config_fn: Callable[..., None] | None = None,
    output_vocab_feature_name: str = "targets",
    file_extension: str = "jsonl",
    dry_run: bool = False,
) -> list[epath.Path]:
    """Predicts or scores every example of one shard of every task of a mixture.

    Args:
        mode: "predict", "predict_with_aux" (with the scores of the predictions) or "score" (of the given targets).
        dataset_cfg: tasks and split; order and number of the examples are those of the task, never shuffled.
        restore_checkpoint_cfg: one checkpoint, or the newest of a model folder.
        output_dir: `TASK-MODE.jsonl-SHARD-of-SHARDS` goes here; shards may share the folder.
        checkpoint_period: batches per chunk; a run that was stopped loses at most one chunk of work.
        shard_id, num_shards: which part of the examples this run takes, of how many.
        merge_chunked_results: one file per task and shard; False leaves the chunks in their folder.
        write_fn: `write_inferences_to_file`, or a function with its first five arguments.
        inference_evaluator_cls: accepted for command lines shared with `metro_jax.eval`; no metrics are computed.
        output_vocab_feature_name: the task feature whose vocabulary turns predicted ids into text.
        dry_run: print what would be done and stop.

    Returns:
        The files, one per task.

    Raises:
        UserError: settings that do not fit together, no checkpoint, no examples, or a folder of another run.
    """
    del inference_evaluator_cls
    partitioner = partitioner or PjitPartitioner()
    method = _method(model, mode)
    check_fits(model, dataset_cfg)
    _check_settings(dataset_cfg, checkpoint_period, shard_id, num_shards)
    if dry_run:
        print(inference.dry_run(model, dataset_cfg, partitioner))
        return []
    partitioner.check_batch_size(dataset_cfg.batch_size)
    (path,) = _one_checkpoint(restore_checkpoint_cfg)
    tasks = seqio.get_subtasks(get_task(dataset_cfg))
    shards = {task.name: Shard(output_dir, task.name, mode, shard_id, num_shards, file_extension) for task in tasks}
    if jax.process_index() == 0:
        claim(output_dir, _manifest(mode, model, dataset_cfg, path, num_shards), list(shards.values()))
        if summarize_config_fn is not None and shard_id == 0:
            summarize_config_fn(output_dir)
    params, _ = restore_params(path, abstract_params(model, partitioner, dataset_cfg.batch_size))

    for task in tasks:
        shard = shards[task.name]
        runner = inference.Runner(
            method, partitioner, params, dataset_cfg.batch_size, dataset_cfg.seed or 0, f"infer/{task.name}/{shard_id}"
        )
        vocabulary = task.output_features[output_vocab_feature_name].vocabulary
        write = functools.partial(_write_chunk, shard, write_fn, mode, vocabulary)
        data = inference.examples_and_features(model, dataset_cfg, task, shard_id, num_shards)
        size = _share(task.num_input_examples(dataset_cfg.split), shard_id, num_shards)
        _infer_task(runner, shard, data, dataset_cfg.batch_size, checkpoint_period, write, size)
        _finish(shard, merge_chunked_results)
    return [shard.path for shard in shards.values()]


def _infer_task(
    runner: inference.Runner,
    shard: Shard,
    data: tuple[tf.data.Dataset, tf.data.Dataset],
    batch_size: int,
    period: int,
    write: Callable[..., None],
    size: int | None,
) -> None:
    """Chunk after chunk, beginning after the ones that are there."""
    state = np.asarray([shard.is_complete, len(shard.chunks()), shard.examples()])
    complete, chunk, done = (int(x) for x in multihost_utils.broadcast_one_to_all(state))  # process 0 is the writer
    if complete:
        print(f"{shard.name} is complete already", file=sys.stderr)
        return
    if done:
        print(f"{shard.name}: continuing after {done:,} examples", file=sys.stderr)
    watch = inference.Watch(shard.name, size, done)
    # The order is fixed, so passing over what is done leads to the same place whatever the source is.
    rows = tf.data.Dataset.zip(data).skip(done).prefetch(2 * batch_size).as_numpy_iterator()
    while pairs := list(itertools.islice(rows, period * batch_size)):
        outputs, aux = [], {}
        for first in range(0, len(pairs), batch_size):
            features = [feature for _, feature in pairs[first : first + batch_size]]
            batch = {name: np.stack([feature[name] for feature in features]) for name in features[0]}
            result, more = runner(batch, watch.done)
            outputs.extend(result)
            aux = jax.tree.map(lambda a, b: np.concatenate([a, b]), aux, more) if aux else more
            watch.add(len(features))
        write(chunk, (outputs, aux), [example for example, _ in pairs])
        chunk += 1
    if not chunk:
        raise UserError(f"{shard.name}: there are no examples; look at the split, and at num_shards")
    watch.say()


def _write_chunk(
    shard: Shard, write_fn: WriteFn, mode: str, vocabulary: seqio.Vocabulary, chunk: int, inferences: Any, examples: Any
) -> None:
    if jax.process_index() == 0:
        shard.write_chunk(chunk, lambda path: write_fn(path, inferences, examples, mode, vocabulary))


def _finish(shard: Shard, merge: bool) -> None:
    if jax.process_index() == 0:
        shard.finish(merge)
    multihost_utils.sync_global_devices(f"inferred {shard.name}")  # nobody leaves before the file is there
    print(shard.path if merge else f"{shard.path}: its chunks are left unmerged", flush=True)


def _method(model: BaseModel, mode: str) -> Callable[..., Any]:
    if mode not in MODES:
        raise UserError(f"mode={mode!r} must be one of {', '.join(map(repr, MODES))}{nearest(str(mode), MODES)}")
    method = getattr(model, MODES[mode], None)
    if method is None:
        can = [repr(m) for m, name in MODES.items() if hasattr(model, name)]
        instead = f"it can {', '.join(can)}" if can else "use models.EncoderDecoderModel, as runs/infer.gin does"
        raise UserError(f"mode={mode!r}: {type(model).__name__} has no {MODES[mode]}; {instead}")
    return method


def _check_settings(cfg: DatasetConfig, checkpoint_period: int, shard_id: int, num_shards: int) -> None:
    if cfg.task_feature_lengths is None:
        raise UserError('inference needs lengths: set TASK_FEATURE_LENGTHS={"inputs": 512, "targets": 256} or the like')
    if checkpoint_period < 1:
        raise UserError(f"checkpoint_period={checkpoint_period} must be at least 1 (batches)")
    if num_shards < 1 or not 0 <= shard_id < num_shards:
        raise UserError(f"shard_id={shard_id} is not among the {num_shards} shards: give 0 to num_shards - 1")


def _one_checkpoint(cfg: RestoreCheckpointConfig) -> list[epath.Path]:
    if cfg.mode == "all":
        raise UserError("mode='all' of RestoreCheckpointConfig is for evaluation; inference takes one checkpoint")
    paths = cfg.find()
    if not paths:
        raise UserError("no checkpoint to infer with: set CHECKPOINT_PATH to a checkpoint_<step> or a model folder")
    return paths


def _manifest(mode: str, model: BaseModel, cfg: DatasetConfig, path: epath.Path, num_shards: int) -> dict[str, Any]:
    """What every shard in a folder has in common."""
    options = getattr(model, "decoding_options", None)
    return {
        "mode": mode,
        "task": cfg.mixture_or_task_name,
        "split": cfg.split,
        "examples": {t.name: t.num_input_examples(cfg.split) for t in seqio.get_subtasks(get_task(cfg))},
        "task_feature_lengths": dict(cfg.task_feature_lengths),
        "seed": cfg.seed,
        "num_shards": num_shards,
        "checkpoint": str(absolute(path)),
        "checkpoint_identity": checkpoint_identity(path),
        "model": f"{type(model).__name__}({model.config!r})",
        "decoding": None if mode == "score" else repr(options),
    }


def _share(examples: int | None, shard_id: int, num_shards: int) -> int | None:
    return None if examples is None else len(range(shard_id, examples, num_shards))


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("shard_id", None, "Overrides --gin.infer.shard_id.", flag_values=values)


def _run(values: flags.FlagValues) -> None:
    gin_utils.configure(values)
    run = gin_utils.configurable(infer, "infer_script.infer", "runs/infer.gin")
    given: dict[str, Any] = {} if values.shard_id is None else {"shard_id": values.shard_id}
    if values.dry_run:
        print(gin.config_str())
        given["dry_run"] = True
    run(**given)


main = functools.partial(gin_utils.run, _run, define=_define_flags)

if __name__ == "__main__":
    # gin files import `metro_jax.infer`, so the function they configure is that module's, not this one's.
    from metro_jax import infer as infer_script

    sys.exit(infer_script.main())
