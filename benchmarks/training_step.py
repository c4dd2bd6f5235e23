"""Speed of the training step: the runtime beside a plain jit of the same loss and update, in one run.

    python benchmarks/training_step.py --shape base --batch 8 --length 128
    python benchmarks/training_step.py --shape base --batch 64 --length 512 --dtype bfloat16      (on a GPU or TPU)

The plain side is `jax.jit` of loss, gradient and AdamW with a fixed batch and nothing around it. The runtime side is
the Trainer's step inside the whole training loop: progress and log files, the check for NaN, the question whether to
stop. Both go on from one state, in turn, for some rounds; the ratio is the median of the rounds' ratios. With --save
the loop also saves a checkpoint in every round, and what that adds to the step that saves and to those during the
writing is shown. Where clu is not installed only the Trainer's step is measured. The utilisation counts the matrix
products of the forward pass three times and divides by the device's bfloat16 peak.
"""

import argparse
import functools
import importlib.util
import itertools
import platform
import statistics
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from metro_jax.model.config import MetroConfig, PretrainingConfig
from metro_jax.training.flops import peak_flops
from metro_jax.training.models import MetroPretrainingModel, address
from metro_jax.training.optimizers import MetroAdamW
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.schedules import create_learning_rate_scheduler
from metro_jax.training.trainer import Trainer

TINY = {"vocab_size": 3072, "d_model": 128, "num_heads": 4, "d_ff": 512, "num_encoder_layers": 3}
SHAPES: dict[str, Callable[..., MetroConfig]] = {
    "tiny": functools.partial(MetroConfig, **TINY, num_decoder_layers=2),
    "base": MetroConfig.base,
    "base_pp": MetroConfig.base_pp,
    "large_pp": MetroConfig.large_pp,
}
PRETRAINING = {"tiny": PretrainingConfig.base, "base": PretrainingConfig.base}
PRETRAINING |= {"base_pp": PretrainingConfig.base_pp, "large_pp": PretrainingConfig.large_pp}
MASK_ID = 5  # any id that is not special


def synthetic_batch(config: MetroConfig, rows: int, length: int) -> dict[str, np.ndarray]:
    """Full rows of random ids with 15 % masked."""
    draw = np.random.default_rng(0)
    original = draw.integers(6, config.vocab_size, (rows, length)).astype(np.int32)
    masked = np.zeros((rows, length), bool)
    for row in masked:
        row[draw.choice(length, int(0.15 * length), replace=False)] = True
    return {
        "encoder_input_tokens": np.where(masked, MASK_ID, original).astype(np.int32),
        "generator_target_tokens": np.where(masked, original, 0).astype(np.int32),
        "decoder_input_tokens": np.concatenate([np.full((rows, 1), MASK_ID, np.int32), original[:, :-1]], axis=1),
        "decoder_target_tokens": original,
    }


def plain_step(model: MetroPretrainingModel, rate: Callable[..., Any]) -> Callable[..., Any]:
    """Loss, gradient, one division, update: nothing else."""

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        key = address(jax.random.key(1), "train", state.state.step)

        def loss(params: Any) -> tuple[Any, Any]:
            sums = model.loss_sums(params, batch, key)
            return sums.total, sums.normalizer

        (total, size), grads = jax.value_and_grad(loss, has_aux=True)(state.target)
        grads = jax.tree.map(lambda g: g / size, grads)
        return state.apply_gradient(grads, learning_rate=rate(state.state.step)), total / size

    return jax.jit(step, donate_argnums=0)


class Runtime:
    """The whole training loop around the Trainer, on a fixed batch, in a temporary model folder."""

    def __init__(self, trainer: Trainer, batch: dict[str, np.ndarray], folder: str, save: bool) -> None:
        from metro_jax.training.checkpoints import Checkpointer, SaveCheckpointConfig

        self.trainer, self.folder, self.save = trainer, folder, save
        rows = len(batch["encoder_input_tokens"])
        self.batches: Any = types.SimpleNamespace(cfg=types.SimpleNamespace(batch_size=rows))
        self.source = itertools.repeat(batch)
        self.checkpointer = Checkpointer(folder, SaveCheckpointConfig(keep=1, save_dataset=False))

    def run(self, step: int, state: Any, steps: int) -> tuple[int, Any, list[float]]:
        """Goes on for some steps; also the time at which each step had its batch."""
        from metro_jax.training.loop import Loop
        from metro_jax.training.preemption import Preemption
        from metro_jax.training.progress import Progress

        times: list[float] = []

        class Timed:
            cfg = self.batches.cfg

            def __next__(timed) -> dict[str, np.ndarray]:
                times.append(time.perf_counter())
                return next(self.source)

        progress = Progress(self.folder, step + steps, 1, 10**9, first_step=step)
        with Preemption() as preemption:
            loop = Loop(
                trainer=self.trainer,
                partitioner=self.trainer.partitioner,
                batches=Timed(),  # type: ignore[arg-type]
                checkpointer=self.checkpointer,
                progress=progress,
                evaluation=lambda *_: None,  # type: ignore[arg-type]
                preemption=preemption,
                total_steps=step + steps,
                eval_period=10**9,
                save_period=steps if self.save else None,
                run_state={},
            )
            step, state = loop.run(step, state)
        jax.block_until_ready(state)
        times.append(time.perf_counter())
        progress.close()
        return step, state, times


def build(arguments: argparse.Namespace) -> tuple[Trainer, dict[str, np.ndarray], Any]:
    """Trainer, batch and first state; says on what they are."""
    config = SHAPES[arguments.shape](dtype=arguments.dtype, remat=arguments.remat)
    rate = create_learning_rate_scheduler(base_learning_rate=1e-4, warmup_steps=1000, total_steps=100_000)
    model = MetroPretrainingModel(config, PRETRAINING[arguments.shape](), MetroAdamW(clip_norm=2.0))
    batch = synthetic_batch(config, arguments.batch, arguments.length)
    partitioner = PjitPartitioner(fsdp_partitions=arguments.fsdp)
    shapes = {name: x.shape for name, x in batch.items()}
    trainer = Trainer(model, partitioner, shapes, learning_rate_fn=rate, num_microbatches=arguments.microbatches)
    state = trainer.init_state()
    size = sum(x.size for x in jax.tree.leaves(state.target))
    device = jax.devices()[0]
    print(f"{len(jax.devices())} x {device.device_kind}, jax {jax.__version__}, Python {platform.python_version()}")
    print(f"{arguments.shape}: {size:,} parameters with generator and RTD head")
    print(f"{arguments.batch} rows of {arguments.length} tokens, {arguments.microbatches} microbatch(es), ", end="")
    print(f"{arguments.dtype}, remat {arguments.remat}, ", end="")
    print(f"random bits of {jax.random.key_impl(jax.random.key(0))}")
    return trainer, batch, state


def measure(arguments: argparse.Namespace) -> None:
    """Prints the table."""
    trainer, batch, state = build(arguments)
    placed = trainer.partitioner.shard_batch(batch)
    needed = trainer.flops_per_step(batch)

    plain = plain_step(trainer.model, trainer.learning_rate_fn)
    began = time.perf_counter()
    state, _ = plain(state, placed)
    jax.block_until_ready(state)
    print(f"plain jit: compiled and first step in {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    state, _ = trainer.train(state, placed)
    jax.block_until_ready(state)
    print(f"trainer: compiled and first step in {time.perf_counter() - began:.1f} s")

    def run_plain(state: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        for _ in range(arguments.steps):
            state, loss = plain(state, placed)
        jax.block_until_ready((state, loss))
        return state, (time.perf_counter() - began) / arguments.steps

    def run_trainer(state: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        for _ in range(arguments.steps):
            state, metrics = trainer.train(state, placed)
        jax.block_until_ready((state, metrics))
        return state, (time.perf_counter() - began) / arguments.steps

    whole = importlib.util.find_spec("clu") is not None
    ours, theirs, stalls = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(trainer, batch, folder, arguments.save) if whole else None
        for round_ in range(arguments.rounds):
            for side in ("plain", "ours") if round_ % 2 == 0 else ("ours", "plain"):
                if side == "plain":
                    state, seconds = run_plain(state)
                    theirs.append(seconds)
                elif runtime is None:
                    state, seconds = run_trainer(state)
                    ours.append(seconds)
                else:
                    _, state, times = runtime.run(int(state.state.step), state, arguments.steps)
                    gaps = np.diff(times)
                    ours.append(float(np.median(gaps)) if arguments.save else float(gaps.mean()))
                    if arguments.save:
                        stalls.append(float(gaps[-1]) - float(np.median(gaps[:-1])))
                        began = time.perf_counter()
                        runtime.checkpointer.wait()
                        print(f"  writing went on for {time.perf_counter() - began:.1f} s more")
        if runtime is not None:
            runtime.checkpointer.__exit__()
    report(arguments, ours, theirs, stalls, needed, "runtime" if whole else "trainer (no clu here)")


def report(
    arguments: argparse.Namespace,
    ours: list[float],
    theirs: list[float],
    stalls: list[float],
    needed: float,
    name: str,
) -> None:
    """The medians."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    peak = peak_flops(jax.devices()[0])
    for side, seconds in (("plain jit", statistics.median(theirs)), (name, statistics.median(ours))):
        rate = needed / seconds
        used = f", {100 * rate / (peak * len(jax.devices())):.1f} % of the bfloat16 peak" if peak else ""
        tokens = arguments.batch * arguments.length / seconds
        print(f"{side}: {seconds * 1e3:.1f} ms per step, {tokens:,.0f} tokens/s, {rate / 1e12:.2f} TFLOP/s{used}")
    print(
        f"{name} to plain jit: {statistics.median(ratios):.3f} (median of {len(ratios)}, {min(ratios):.3f} to "
        f"{max(ratios):.3f})"
    )
    if stalls:
        print(f"a step that saves takes {statistics.median(stalls) * 1e3:.0f} ms more (median), "
              f"{statistics.median(stalls) / statistics.median(theirs):.2f} steps")  # fmt: skip


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """The options that say what is trained."""
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--batch", type=int, default=8, help="rows per step")
    parser.add_argument("--length", type=int, default=128, help="tokens per row")
    parser.add_argument("--dtype", default="float32", help="of the computation")
    parser.add_argument("--remat", default="none", help="none, minimal or full")
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--fsdp", type=int, default=1, help="devices over which parameters are spread")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sizes(parser)
    parser.add_argument("--steps", type=int, default=5, help="per round and side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="save a checkpoint in every round")
    arguments = parser.parse_args()
    if min(arguments.batch, arguments.length, arguments.steps, arguments.rounds, arguments.microbatches) < 1:
        parser.error("--batch, --length, --steps, --rounds and --microbatches must be at least 1")
    if arguments.save and arguments.steps < 3:
        parser.error("--save needs --steps of at least 3: the last one saves, the others say what a step takes")
    measure(arguments)


if __name__ == "__main__":
    main()
