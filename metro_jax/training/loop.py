"""The training loop: read a batch, make an update, save, evaluate, stop when asked."""

import dataclasses
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from metro_jax.training.batches import Batches
from metro_jax.training.checkpoints import Checkpointer
from metro_jax.training.evaluation import Evaluation
from metro_jax.training.optimizers import Optimizer
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.preemption import Preemption
from metro_jax.training.progress import Progress
from metro_jax.training.trainer import Trainer


@dataclasses.dataclass
class Loop:
    """Everything a run works with, made by `metro_jax.train.train`.

    Args:
        save_period: steps between checkpoints; the last step and the one a signal stops at are saved as well. None
            saves nothing.
        run_state: what checkpoints hold besides the state, the data's position and the log sums.
        saves_position: whether this process writes the position of the data it reads.
        profile_steps: (first, last) update to record a profile of, for TensorBoard.
    """

    trainer: Trainer
    partitioner: PjitPartitioner
    batches: Batches
    checkpointer: Checkpointer
    progress: Progress
    evaluation: Evaluation
    preemption: Preemption
    total_steps: int
    eval_period: int
    save_period: int | None
    run_state: dict[str, Any]
    saves_position: bool = True
    evaluate_first: bool = False
    profile_steps: Sequence[int] | None = None
    profile_dir: str = ""

    def run(self, step: int, state: Optimizer) -> tuple[int, Optimizer]:
        """Updates until `total_steps` or until asked to stop; returns the last step and state."""
        if self._is_due(step) and not self.progress.is_evaluated(step):
            self.evaluation(step, state.target, self.progress)
        if step >= self.total_steps:
            logging.info("%s is at step %d already: nothing to train", self.checkpointer.folder, step)
        self.progress.start()
        while step < self.total_steps:
            self._profile(step)
            batch = self._next_batch()
            state, metrics = self.trainer.train(state, batch)
            step += 1
            self.progress.add(step, metrics, examples=self.batches.cfg.batch_size)
            stop = self.preemption.requested(step) and step < self.total_steps
            if stop or step == self.total_steps or (self.save_period and step % self.save_period == 0):
                self._save(step, state)
            if stop:
                self._leave(step)
                break
            if self._is_due(step):
                self.evaluation(step, state.target, self.progress)
                self.progress.start()
        self._profile(None)
        return step, state

    def _is_due(self, step: int) -> bool:
        if step == 0:
            return self.evaluate_first
        return step == self.total_steps or step % self.eval_period == 0

    def _next_batch(self) -> dict[str, jax.Array]:
        began = time.monotonic()
        rows = next(self.batches)
        self.progress.waited(time.monotonic() - began)
        return self.partitioner.shard_batch(rows, self.batches.cfg.batch_size)

    def _save(self, step: int, state: Optimizer) -> None:
        self.progress.flush()  # a checkpoint never holds what came of a loss that was not finite
        if self.save_period and step not in self.progress.checkpoints:
            self.checkpointer.save(
                step,
                state.state_dict(),
                self.batches,
                self.run_state | self.progress.state(),
                saves_position=self.saves_position,
            )
            self.progress.checkpoints.append(step)

    def _leave(self, step: int) -> None:
        self.checkpointer.wait()
        saved = f"a checkpoint of step {step}" if self.save_period else "no checkpoint"
        print(f"stopped after step {step} with {saved}; the same command continues", file=sys.stderr, flush=True)

    def _profile(self, step: int | None) -> None:
        """Starts and stops the profiler around the chosen updates; None is the end of the run."""
        if self.profile_steps is None:
            return
        first, last = self.profile_steps
        if step is not None and step + 1 == first:
            # The profiler writes to the disk of its host only.
            self._recorded_in = tempfile.mkdtemp() if "://" in self.profile_dir else self.profile_dir
            jax.profiler.start_trace(self._recorded_in)
        elif first <= last and (step is None or step == last):
            self.progress.flush()
            self.profile_steps = None
            jax.profiler.stop_trace()
            if self._recorded_in != self.profile_dir:
                copy_tree(self._recorded_in, self.profile_dir)
            print(f"profile of updates {first} to {last} in {self.profile_dir}", file=sys.stderr)


def copy_tree(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copies the files of a folder of this machine, into a bucket as well."""
    for file in filter(pathlib.Path.is_file, pathlib.Path(source).rglob("*")):
        to = epath.Path(target) / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(file.read_bytes())
