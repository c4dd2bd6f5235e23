"""Training: `python -m metro_jax.train --gin_file=models/tiny.gin --gin_file=runs/pretrain.gin --gin.MODEL_DIR=...`.

Pretraining and finetuning are the same loop; the gin files say what model, data and checkpoints it works on.
"""

import metro_jax.training  # noqa: F401, I001 - first: it quietens TensorFlow, which seqio loads
import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin
import jax
import numpy as np
import seqio
from absl import flags, logging

from metro_jax.training import gin_utils, report
from metro_jax.training.checkpoints import CheckpointConfig, Checkpointer, checkpoint_steps, restore_params
from metro_jax.training.errors import UserError
from metro_jax.training.inference import TaskEvaluator, table
from metro_jax.training.models import BaseModel
from metro_jax.training.optimizers import Optimizer
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.progress import Progress
from metro_jax.training.trainer import Trainer
from metro_jax.training.utils import DatasetConfig, check_fits, get_dataset


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
    dry_run: bool = False,
) -> tuple[int, Optimizer]:
    """Trains until `total_steps`, continuing from the newest checkpoint of `model_dir` if there is one.

    Args:
        train_dataset_cfg: training batches.
        train_eval_dataset_cfg: losses are taken on `eval_steps` batches of each of its tasks every `eval_period` steps.
        infer_eval_dataset_cfg: tasks whose metrics are computed from scores and predictions, as often.
        checkpoint_cfg: `restore.path` gives first parameters, without moments or step (finetuning), and is not looked
            at again once `model_dir` has a checkpoint of its own.
        stats_period: steps per log line; None means min(100, eval_period).
        relative_steps: train this many steps beyond the newest checkpoint, instead of until `total_steps`.
        random_seed: of initialisation, dropout, the generator's draws and, by default, the data.
        dry_run: print what would be done and stop.

    Returns:
        The last step and the training state.

    Raises:
        UserError: settings, data or checkpoints that do not fit together; a loss that is not finite.
    """
    partitioner = partitioner or PjitPartitioner()
    checkpoint_cfg = checkpoint_cfg or CheckpointConfig()
    stats_period = stats_period or min(100, eval_period)
    for cfg in filter(None, (train_dataset_cfg, train_eval_dataset_cfg, infer_eval_dataset_cfg)):
        check_fits(model, cfg)
    own = checkpoint_steps(model_dir)
    initial = checkpoint_cfg.restore.find() if checkpoint_cfg.restore and not own else []

    dataset = _dataset(model, train_dataset_cfg, random_seed)
    shapes = {name: (train_dataset_cfg.batch_size, *spec.shape[1:]) for name, spec in dataset.element_spec.items()}
    trainer = trainer_cls(
        model=model,
        partitioner=partitioner,
        input_shapes=shapes,
        random_seed=random_seed,
        use_hardware_rng=use_hardware_rng,
    )
    if dry_run:
        print(report.dry_run(trainer, shapes))
        return 0, trainer.abstract_state
    batches = iter(dataset)

    with contextlib.ExitStack() as stack:
        checkpointer = stack.enter_context(Checkpointer(model_dir, checkpoint_cfg.save))
        step, state, saved = _start(trainer, checkpointer, initial, batches)
        total_steps = step + relative_steps if relative_steps else total_steps
        if summarize_config_fn is not None and jax.process_index() == 0:
            summarize_config_fn(model_dir)
        progress = Progress(
            model_dir if jax.process_index() == 0 else None,
            total_steps,
            stats_period,
            eval_period,
            first_step=step,
            saved=saved,
            checkpoints=checkpointer.steps(),
        )
        stack.callback(progress.close)
        losses, metrics = _evaluations(
            model, partitioner, trainer, train_eval_dataset_cfg, infer_eval_dataset_cfg, eval_steps, random_seed,
            inference_evaluator_cls, model_dir,
        )  # fmt: skip

        def evaluate(step: int) -> None:
            for name, averages in losses(state.target):
                progress.evaluation(step, name, averages)
            for task, values in metrics(state.target, step).items():
                progress.write(step, f"inference_eval/{task}", values)
                print(table({task: values}), file=sys.stderr)

        def save(step: int) -> None:
            progress.flush()  # a checkpoint never holds what came of a loss that was not finite
            if checkpoint_cfg.save is not None and step != checkpointer.latest_step():
                checkpointer.save(step, state.state_dict(), batches, progress.state())
                progress.checkpoints.append(step)

        if run_eval_before_training and step == 0:
            evaluate(step)
        if step >= total_steps:
            logging.info("%s is at step %d already: nothing to train", model_dir, step)
        stop = stack.enter_context(_signals())
        progress.start()
        while step < total_steps:
            batch = _next(batches, train_dataset_cfg)
            state, step_metrics = trainer.train(state, partitioner.shard_batch(batch))
            step += 1
            progress.add(step, step_metrics, tokens=int(np.count_nonzero(batch["encoder_input_tokens"])))
            last = step == total_steps or bool(stop)
            if last or (checkpoint_cfg.save and step % checkpoint_cfg.save.period == 0):
                save(step)
            if step == total_steps or (step % eval_period == 0 and not last):
                evaluate(step)
                progress.start()
            if stop:
                checkpointer.wait()
                saved_at = (
                    f"a checkpoint of step {checkpointer.latest_step()}" if checkpointer.steps() else "no checkpoint"
                )
                print(f"stopped after step {step} with {saved_at}; the same command continues", file=sys.stderr)
                break
        return step, state


def _dataset(model: BaseModel, cfg: DatasetConfig, seed: int, num_epochs: int | None = None) -> Any:
    return get_dataset(
        cfg, jax.process_index(), jax.process_count(), model.FEATURE_CONVERTER_CLS, num_epochs=num_epochs, seed=seed
    )


def _next(batches: Iterator[Any], cfg: DatasetConfig) -> dict[str, np.ndarray]:
    """The next batch as NumPy arrays."""
    try:
        return {name: np.asarray(x) for name, x in next(batches).items()}
    except StopIteration:
        raise UserError(
            f"{cfg.mixture_or_task_name!r}, split {cfg.split!r}, gives no batch: it has no examples, or all of them "
            f"are filtered out with TASK_FEATURE_LENGTHS={dict(cfg.task_feature_lengths)}"
        ) from None


def _start(
    trainer: Trainer, checkpointer: Checkpointer, initial: Sequence[Any], batches: Any
) -> tuple[int, Optimizer, dict[str, Any]]:
    """Step, state and log sums to begin with: the run's own newest checkpoint, given parameters, or fresh ones."""
    if checkpointer.latest_step() is not None:
        step, state_dict, saved = checkpointer.restore(trainer.abstract_state_dict(), batches)
        print(f"continuing from {checkpointer.folder / f'checkpoint_{step}'}", file=sys.stderr)
        return step, trainer.restore_state(state_dict), saved
    if not initial:
        return 0, trainer.init_state(), {}
    params, dropped = restore_params(initial[-1], trainer.abstract_state_dict()["target"])
    left = f"; left behind: {', '.join(dropped)}" if dropped else ""
    print(f"parameters from {initial[-1]}, without moments and step{left}", file=sys.stderr)
    return 0, trainer.init_state(params), {}


def _evaluations(
    model: BaseModel,
    partitioner: PjitPartitioner,
    trainer: Trainer,
    train_eval_cfg: DatasetConfig | None,
    infer_eval_cfg: DatasetConfig | None,
    eval_steps: int,
    seed: int,
    evaluator_cls: Callable[..., seqio.Evaluator],
    model_dir: str,
) -> tuple[Callable[[Any], Iterator[tuple[str, Iterator[Any]]]], Callable[[Any, int], dict[str, dict[str, float]]]]:
    """Two functions: losses of held-out batches by task, and metrics of tasks from scores and predictions."""

    def losses(params: Any) -> Iterator[tuple[str, Iterator[Any]]]:
        if train_eval_cfg is None or not eval_steps:
            return
        dataset = _dataset(model, train_eval_cfg, seed, num_epochs=1).take(eval_steps)
        batches = (partitioner.shard_batch(batch) for batch in dataset.as_numpy_iterator())
        yield train_eval_cfg.mixture_or_task_name, (trainer.eval(params, b, i) for i, b in enumerate(batches))

    if infer_eval_cfg is None:
        return losses, lambda params, step: {}
    evaluator = TaskEvaluator(model, infer_eval_cfg, partitioner, evaluator_cls, f"{model_dir}/inference_eval")
    return losses, evaluator.evaluate


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that becomes non-empty when the process is asked to end (SIGTERM, Ctrl-C): the loop then saves and leaves.

    Asked again, it ends at once.
    """
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print("saving a checkpoint before stopping; once more to stop at once", file=sys.stderr)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread, where signals do not arrive anyway
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
