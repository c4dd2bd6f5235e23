"""The step functions that the runtime jits, lowered for shapes alone and compiled for a topology."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from metro_jax.decoding import Greedy, bucket_length
from metro_jax.inference import engine
from metro_jax.inference.engine import Trees
from metro_jax.model import serving
from metro_jax.model.cache import decode_step, init_cache
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import init_params
from metro_jax.training.flops import dot_flops
from metro_jax.training.models import EncoderDecoderModel
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.plan import scheduled
from metro_jax.training.plan.recipe import Recipe

KINDS = ("train", "eval", "generate", "rank")
# The compiler's effort: O0 shows in seconds whether a step compiles and about what it needs; only the default fuses
# and schedules as the runtime's own compilation does.
LEVELS = {"default": "UNKNOWN", "O0": "O0", "O1": "O1", "O2": "O2", "O3": "O3"}
TOO_LARGE = re.compile(
    r"(?:Used |temporaries \()([\d.]+)([KMGT])(?: of |\) exceeds available HBM \()([\d.]+)([KMGT])", re.IGNORECASE
)
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class TooLargeError(ValueError):
    """The compiler found no way to fit the step into a device's memory.

    Args:
        used, limit: bytes, in the compiler's words; None where it gave no numbers.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        match = TOO_LARGE.search(message)
        self.used = float(match[1]) * UNITS[match[2]] if match else None
        self.limit = float(match[3]) * UNITS[match[4]] if match else None


@dataclasses.dataclass(frozen=True)
class Step:
    """A step before compilation.

    Args:
        flops: matrix products as traced, on all devices together, recomputation counted.
        model_flops: what the model itself needs, without recomputation.
        tokens: encoder positions of the batch, pads included; for generation, the tokens generated at most.
        state: bytes per device by name: parameters, moments, batch.
        microbatches: pieces of the batch.
        loop: most runs of a loop whose length is not fixed: generation's, which ends at the end marks.
    """

    kind: str
    lowered: Any
    partitioner: PjitPartitioner
    flops: float
    model_flops: float
    tokens: int
    state: dict[str, int]
    microbatches: int = 1
    loop: int = 1


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled step.

    Args:
        seconds: spent compiling.
        peak: bytes of a device's memory at the fullest moment; None where this compiler does not say.
        complete: whether machine code was generated too.
    """

    text: str
    seconds: float
    peak: int | None
    complete: bool = True


def training_step(
    recipe: Recipe, partitioner: PjitPartitioner, microbatches: int | None = None, train: bool = True
) -> Step:
    """The update of `trainer.Trainer`, or the losses that it evaluates."""
    trainer = recipe.trainer(partitioner, microbatches)
    features = recipe.features()
    rows = partitioner.batch_sharding
    state = {"parameters": local_bytes(trainer.abstract_state.target, trainer.param_shardings)}
    if train:
        moments = trainer.abstract_state.state.param_states, trainer.state_shardings.state.param_states
        state["optimizer"] = local_bytes(*moments)
    state["batch"] = local_bytes(features, dict.fromkeys(features, rows))
    model_flops = trainer.flops_per_step(features)
    return Step(
        kind="train" if train else "eval",
        lowered=trainer.lower(features, train),
        partitioner=partitioner,
        flops=trainer.executed_flops(features, train),
        model_flops=model_flops if train else model_flops / 3,
        tokens=features["encoder_input_tokens"].size,
        state=state,
        microbatches=trainer.num_microbatches if train else 1,
    )


def inference_step(
    config: MetroConfig,
    partitioner: PjitPartitioner,
    kind: str,
    rows: int,
    source: int,
    target: int,
    int8: bool = False,
) -> Step:
    """What `MetroT0.generate` or `.rank` runs for a batch: weights whole on every device, rows spread over all.

    Args:
        rows: texts per device.
        source, target: tokens of the longest text; new tokens, or nodes of the tree of choices.
    """
    mesh = partitioner.mesh
    everywhere = NamedSharding(mesh, PartitionSpec())
    spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    height = rows * mesh.size

    def array(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding = spread) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    shapes = jax.eval_shape(lambda: serving.prepare(init_params(config), config, int8))
    weights = jax.tree.map(lambda x: array(x.shape, x.dtype, everywhere), shapes)
    tokens, mask = array((height, source), jnp.int32), array((height, source), jnp.bool_)
    static: dict[str, Any] = {"config": config}
    if kind == "generate":
        length = bucket_length(target + 1, maximum=config.max_length)
        limit, key = array((), jnp.int32, everywhere), jax.eval_shape(lambda: jax.random.key(0))
        key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)
        arrays: tuple[Any, ...] = (weights, tokens, mask, limit, key, array((height,), jnp.int32))
        static |= {"max_length": length, "options": Greedy()}
        program, counted, loop = engine.generate_tokens, height * target, target
    else:
        nodes = (height, target)
        kinds = jnp.int32, jnp.int32, jnp.bool_, jnp.int32, jnp.int32
        sizes = nodes, nodes, (height, target, target), nodes, nodes
        leaves: Any = [array(size, kind) for size, kind in zip(sizes, kinds, strict=True)]
        trees = Trees(*leaves)
        arrays, program, counted, loop = (weights, tokens, mask, trees), engine.score_trees, height * source, 1
    flops = dot_flops(lambda *given: program.function(*given, **static), *arrays)
    if loop > 1:  # of which the trace has one run
        flops += (loop - 1) * decoding_flops(weights, config, tokens, mask, static["max_length"])
    batch = jax.tree.map(lambda x: x.sharding, arrays[1:])
    return Step(
        kind=kind,
        lowered=program.lower(*arrays, **static),
        partitioner=partitioner,
        flops=flops,
        model_flops=flops,
        tokens=counted,
        state={
            "parameters": local_bytes(weights, jax.tree.map(lambda x: x.sharding, weights)),
            "batch": local_bytes(arrays[1:], batch),
        },
        loop=loop,
    )


def decoding_flops(weights: Any, config: MetroConfig, tokens: Any, mask: Any, max_length: int) -> float:
    """Matrix products of one token for every row."""
    encoded = jax.ShapeDtypeStruct((*tokens.shape, config.d_model), config.dtype)
    cache = jax.eval_shape(lambda w, e, m: init_cache(w, config, e, m, max_length), weights, encoded, mask)
    last = jax.ShapeDtypeStruct(tokens.shape[:1], jnp.int32)
    return dot_flops(lambda w, t, c: decode_step(w, config, t, c), weights, last, cache)


def make_step(
    recipe: Recipe,
    partitioner: PjitPartitioner,
    kind: str = "train",
    *,
    microbatches: int | None = None,
    rows: int = 32,
    source: int = 512,
    target: int = 256,
) -> Step:
    """The step of this kind of a recipe.

    Raises:
        ValueError: generation of a model that does not generate.
    """
    if kind in ("train", "eval"):
        return training_step(recipe, partitioner, microbatches, kind == "train")
    if not isinstance(recipe.model, EncoderDecoderModel):
        raise ValueError(
            f"--step {kind}: {recipe.name} pretrains; a model generates and ranks after finetuning: plan a t0 recipe"
        )
    return inference_step(recipe.model.config, partitioner, kind, rows, source, target)


def compile_step(step: Step, level: str = "default", complete: bool = True) -> Compiled:
    """Compiles it.

    Args:
        complete: False takes the program that the TPU's compiler has scheduled and given its memory, and does not wait
            for the machine code, which is most of the time. The compiler goes on with it in a thread until the process
            ends.

    Raises:
        TooLargeError: it does not fit.
    """
    start = time.perf_counter()
    options = _options(step, level)
    with optimization_level(level):
        try:
            if not complete and step.partitioner.mesh.devices.flat[0].platform == "tpu":
                text, peak = scheduled.scheduled_program(step.lowered, options)
                return Compiled(text, time.perf_counter() - start, peak, complete=False)
            compiled = step.lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "hbm" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
                raise TooLargeError(str(error)) from error
            raise
    memory = compiled.memory_analysis()
    # Donated arguments are counted once; the compiler's own peak knows what lives at the same time.
    peak = getattr(memory, "peak_memory_in_bytes", 0) or None
    return Compiled(compiled.as_text(), time.perf_counter() - start, peak)


def _options(step: Step, level: str) -> dict[str, Any] | None:
    """What the compiler of CPUs is told; JAX's own setting reaches the one of TPUs only."""
    if level == "default" or step.partitioner.mesh.devices.flat[0].platform != "cpu":
        return None
    return {"xla_backend_optimization_level": int(level[1])}


@contextlib.contextmanager
def optimization_level(level: str) -> Iterator[None]:
    """The compiler's effort within; compiled programs are neither fetched from the cache nor kept there."""
    config: Any = jax.config
    before = config.jax_optimization_level, config.jax_enable_compilation_cache
    jax.config.update("jax_optimization_level", LEVELS[level])
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_optimization_level", before[0])
        jax.config.update("jax_enable_compilation_cache", before[1])


def local_bytes(tree: Any, shardings: Any) -> int:
    """What one device holds of the arrays."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    total = 0
    for leaf, sharding in pairs:
        shape = sharding.shard_shape(leaf.shape)
        count = 1
        for size in shape:
            count *= size
        total += count * leaf.dtype.itemsize
    return total
