"""Training: `python -m metro_jax.train --gin_file=models/tiny.gin --gin_file=runs/pretrain.gin --gin.MODEL_DIR=...`.

Pretraining and finetuning are the same loop (`training/loop.py`); the gin files say what model, data and checkpoints it
works on.
"""

import metro_jax.training  # noqa: F401, I001 - first: it quietens TensorFlow, which seqio loads
import contextlib
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np
import seqio
from absl import flags

from metro_jax.training import flops, gin_utils, report
from metro_jax.training.batches import Batches
from metro_jax.training.checkpoints import CheckpointConfig, Checkpointer, checkpoint_steps, data_shards, restore_params
from metro_jax.training.errors import UserError
from metro_jax.training.evaluation import Evaluation
from metro_jax.training.loop import Loop
from metro_jax.training.models import BaseModel
from metro_jax.training.optimizers import Optimizer
from metro_jax.training.partitioning import DataLayout, PjitPartitioner
from metro_jax.training.preemption import Preemption
from metro_jax.training.progress import TRAIN, Progress
from metro_jax.training.trainer import Trainer
from metro_jax.training.utils import DatasetConfig, check_fits

SEED = "random_seed"


def train(
    *,
    model: BaseModel,
    model_dir: str,
    train_dataset_cfg: DatasetConfig,
    train_eval_dataset_cfg: DatasetConfig | None = None,
    infer_eval_dataset_cfg: DatasetConfig | None = None,
    checkpoint_cfg: CheckpointConfig | None = None,
    partitioner: PjitPartitioner | None = None,
    trainer_cls: Callable[..., Trainer] = Trainer,
    total_steps: int,
    eval_steps: int = 20,
    eval_period: int = 1000,
    stats_period: int | None = None,
    relative_steps: int | None = None,
    random_seed: int = 1,
    use_hardware_rng: bool = False,
    summarize_config_fn: Callable[..., None] | None = None,
    inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
    run_eval_before_training: bool = False,
    profile_steps: Sequence[int] | None = None,
    dry_run: bool = False,
) -> tuple[int, Optimizer]:
    """Trains until `total_steps`, continuing from the newest checkpoint of `model_dir` if there is one.

    Args:
        train_dataset_cfg: training batches.
        train_eval_dataset_cfg: losses are taken on `eval_steps` batches of it every `eval_period` steps.
        infer_eval_dataset_cfg: tasks whose metrics are computed from scores and predictions, as often.
        checkpoint_cfg: `restore.path` gives first parameters, without moments or step (finetuning), and is not looked
            at again once `model_dir` has a checkpoint of its own.
        stats_period: steps per log line; None means min(100, eval_period).
        relative_steps: train this many steps beyond the newest checkpoint, instead of until `total_steps`.
        random_seed: of initialisation, dropout, the generator's draws and, by default, the data.
        profile_steps: (first, last) update to record for TensorBoard's profiler, in `model_dir`/profile.
        dry_run: print what would be done and stop.

    Returns:
        The last step and the training state.

    Raises:
        UserError: settings, data or checkpoints that do not fit together; a loss that is not finite.
    """
    partitioner = partitioner or PjitPartitioner()
    checkpoint_cfg = checkpoint_cfg or CheckpointConfig()
    for cfg in filter(None, (train_dataset_cfg, train_eval_dataset_cfg, infer_eval_dataset_cfg)):
        check_fits(model, cfg)
    own = checkpoint_steps(model_dir)
    initial = checkpoint_cfg.restore.find() if checkpoint_cfg.restore and not own else []
    partitioner.check_batch_size(train_dataset_cfg.batch_size)
    layout = partitioner.data_layout(train_dataset_cfg.batch_size)
    newest = f"{model_dir}/checkpoint_{own[-1]}" if own else None
    batches, continues = _open_data(model, train_dataset_cfg, layout, random_seed, newest)
    trainer = trainer_cls(
        model=model,
        partitioner=partitioner,
        input_shapes=batches.shapes,
        random_seed=random_seed,
        use_hardware_rng=use_hardware_rng,
    )
    if dry_run:
        print(report.dry_run(trainer, batches.shapes))
        return 0, trainer.abstract_state

    with contextlib.ExitStack() as stack:
        scores: dict[int, float] = {}
        checkpointer = stack.enter_context(Checkpointer(model_dir, checkpoint_cfg.save, scores))
        step, state, saved = _start(trainer, checkpointer, initial, batches if continues else None, random_seed)
        total_steps = step + relative_steps if relative_steps else total_steps
        progress = Progress(
            model_dir,
            total_steps,
            stats_period or min(100, eval_period),
            eval_period,
            first_step=step,
            saved=saved,
            checkpoints=checkpointer.steps(),
            scores=scores,
            best_metric=checkpoint_cfg.save.best_metric if checkpoint_cfg.save else None,
            writes=jax.process_index() == 0,
            **_utilisation(trainer, batches.shapes),
        )
        stack.callback(progress.close)
        if summarize_config_fn is not None and jax.process_index() == 0:
            summarize_config_fn(model_dir, progress.writer(TRAIN), step)
        loop = Loop(
            trainer=trainer,
            partitioner=partitioner,
            batches=batches,
            checkpointer=checkpointer,
            progress=progress,
            evaluation=Evaluation(
                model,
                trainer,
                partitioner,
                train_eval_dataset_cfg,
                infer_eval_dataset_cfg,
                eval_steps,
                random_seed,
                inference_evaluator_cls,
                f"{model_dir}/inference_eval",
            ),
            preemption=stack.enter_context(Preemption()),
            total_steps=total_steps,
            eval_period=eval_period,
            save_period=checkpoint_cfg.save.period if checkpoint_cfg.save else None,
            run_state={SEED: random_seed},
            saves_position=layout.is_first,
            evaluate_first=run_eval_before_training,
            profile_steps=profile_steps,
            profile_dir=f"{model_dir}/profile",
        )
        return loop.run(step, state)


def _open_data(
    model: BaseModel, cfg: DatasetConfig, layout: DataLayout, seed: int, newest: str | None
) -> tuple[Batches, bool]:
    """The training batches, and whether the position saved in the newest checkpoint applies to them."""
    converter = model.FEATURE_CONVERTER_CLS
    if newest is None:
        return Batches(cfg, layout, converter, seed, cfg.num_shards), False
    saved = data_shards(newest)
    if saved is not None and saved % layout.num_shards == 0:
        return Batches(cfg, layout, converter, seed, saved), True
    if saved is None:
        why = "it was saved without a position in the data"
    else:
        why = f"its data is read in {saved} shards, which {layout.num_shards} groups of processes cannot share evenly"
    print(f"{newest}: {why}. Parameters, moments and step continue; reading starts anew, in another order, so the run "
          "will not equal an uninterrupted one", file=sys.stderr)  # fmt: skip
    step = int(newest.rsplit("_", 1)[1])
    anew = int(np.random.SeedSequence([seed, step]).generate_state(1)[0] >> 1)
    return Batches(cfg, layout, converter, anew, cfg.num_shards), False


def _start(
    trainer: Trainer, checkpointer: Checkpointer, initial: Sequence[Any], batches: Batches | None, seed: int
) -> tuple[int, Optimizer, Mapping[str, Any]]:
    """Step, state and log sums to begin with: the run's own newest checkpoint, given parameters, or fresh ones."""
    if checkpointer.latest_step() is not None:
        step, state_dict, saved = checkpointer.restore(trainer.abstract_state_dict(), batches)
        path = checkpointer.folder / f"checkpoint_{step}"
        if saved.get(SEED, seed) != seed:
            raise UserError(
                f"{path} was made with RANDOM_SEED={saved[SEED]}, not {seed}: dropout, draws and data would not be the "
                f"run's. Set RANDOM_SEED={saved[SEED]}, or another MODEL_DIR with INITIAL_CHECKPOINT_PATH={path}"
            )
        print(f"continuing from {path}", file=sys.stderr)
        return step, trainer.restore_state(state_dict), saved
    if not initial:
        return 0, trainer.init_state(), {}
    params, dropped = restore_params(initial[-1], trainer.abstract_state_dict()["target"])
    left = f"; left behind: {', '.join(dropped)}" if dropped else ""
    print(f"parameters from {initial[-1]}, without moments and step{left}", file=sys.stderr)
    return 0, trainer.init_state(params), {}


def _utilisation(trainer: Trainer, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What model FLOPs utilisation is computed from, where the peak of the devices is known."""
    devices = trainer.partitioner.mesh.devices.flat
    peak = flops.peak_flops(devices[0])
    if peak is None:
        return {}
    return {"flops_per_step": trainer.flops_per_step(shapes), "peak_flops": peak * len(devices)}


def _run(values: flags.FlagValues) -> None:
    gin_utils.configure(values)
    run = gin_utils.configurable(train, "train_script.train", "runs/pretrain.gin or runs/finetune.gin")
    if values.dry_run:
        print(gin.config_str())
    run(**({"dry_run": True} if values.dry_run else {}))


main = functools.partial(gin_utils.run, _run)

if __name__ == "__main__":
    # gin files import `metro_jax.train`, so the function they configure is that module's, not this one's.
    from metro_jax import train as train_script

    sys.exit(train_script.main())
