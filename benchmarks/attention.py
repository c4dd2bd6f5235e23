"""Ways to compute the encoder's self attention, compiled for one TPU chip: memory, FLOPs, traffic; and how they agree.

    python benchmarks/attention.py                              (compiles for a v5e chip: needs libtpu, 213 MB)
    python benchmarks/attention.py --topology v6e:1x1 --rows 32 --length 512
    python benchmarks/attention.py --numerics                   (on this machine, Pallas in interpret mode)

Four sides with relative bias and padding mask, value and gradient (of query, key, value and bias) in one program:
einsum, as `model/layers.py` has it; the same with JAX's own gradients; `jax.nn.dot_product_attention`; the Pallas flash
kernel that comes with JAX (`jax.experimental.pallas.ops.tpu.flash_attention`), which takes the bias as one array for
every row. None of the last two knows dropout of attention weights, which every published configuration trains with
(0.1); the einsum is also shown with it. And the vocabulary projection with its loss: at all positions, and gathered
at the masked ones.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

MASKED = -1e9


def einsum(query: Any, key: Any, value: Any, bias: Any, visible: Any, dropout: Any = None) -> Any:
    """As the layers do: scores and softmax in float32, gradients in the dtype of the weights."""
    import jax.numpy as jnp

    from metro_jax.model.operations import attention_weights, einsum_to_float32

    scores = einsum_to_float32("bqhk,bshk->bhqs", query, key)
    scores = jnp.where(visible[:, None, None, :], scores + bias[None], MASKED)
    weights = attention_weights(scores, query.dtype)
    if dropout is not None:
        weights = jnp.where(dropout(weights.shape), weights / 0.9, 0)
    return jnp.einsum("bhqs,bshk->bqhk", weights, value)


def plain(query: Any, key: Any, value: Any, bias: Any, visible: Any) -> Any:
    """The same formula with JAX's own gradients: scores multiply back in float32, weights are kept in it."""
    import jax
    import jax.numpy as jnp

    scores = jnp.einsum("bqhk,bshk->bhqs", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(visible[:, None, None, :], scores + bias[None], MASKED)
    return jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(scores, axis=-1).astype(query.dtype), value)


def library(query: Any, key: Any, value: Any, bias: Any, visible: Any) -> Any:
    """`jax.nn.dot_product_attention`."""
    import jax

    mask = visible[:, None, None, :]
    return jax.nn.dot_product_attention(query, key, value, bias=bias[None], mask=mask, scale=1.0)


def flash(query: Any, key: Any, value: Any, bias: Any, visible: Any) -> Any:
    """The Pallas kernel, whose bias has a row axis and whose mask is by segments."""
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    heads_first = [x.transpose(0, 2, 1, 3) for x in (query, key, value)]
    rows = query.shape[0]
    whole = jnp.broadcast_to(bias[None], (rows, *bias.shape))
    segments = kernel.SegmentIds(visible.astype(jnp.int32), visible.astype(jnp.int32))
    return kernel.flash_attention(*heads_first, ab=whole, segment_ids=segments).transpose(0, 2, 1, 3)


SIDES: dict[str, Callable[..., Any]] = {
    "einsum": einsum,
    "plain einsum": plain,
    "jax.nn": library,
    "pallas flash": flash,
}


def objective(side: Callable[..., Any]) -> Callable[..., Any]:
    """Value and gradients of a sum over the visible positions."""
    import jax
    import jax.numpy as jnp

    def total(arrays: tuple[Any, ...], visible: Any, weight: Any) -> Any:
        out = side(*arrays, visible).astype(jnp.float32)
        return jnp.sum(jnp.where(visible[:, :, None, None], out * weight, 0.0))

    return jax.value_and_grad(total)


def shapes(rows: int, length: int, heads: int, width: int, dtype: Any, make: Callable[..., Any]) -> tuple[Any, ...]:
    """Query, key, value, bias; visible; weight."""
    import jax.numpy as jnp

    one = functools.partial(make, (rows, length, heads, width))
    bias = make((heads, length, length), jnp.float32)
    return (one(dtype), one(dtype), one(dtype), bias), make((rows, length), jnp.bool_), one(jnp.float32)


def compiled(arguments: argparse.Namespace) -> None:
    """The table of memory, FLOPs and traffic."""
    from metro_jax.training.plan import topology

    topology.prepare_environment(topology.canonical(arguments.topology))
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from metro_jax.model.rows import kept_by_hardware
    from metro_jax.training.flops import dot_flops
    from metro_jax.training.plan.estimate import traffic
    from metro_jax.training.plan.hlo import Program

    target = topology.describe(arguments.topology)
    place = SingleDeviceSharding(target.devices[0])

    def array(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    inputs = shapes(arguments.rows, arguments.length, arguments.heads, 64, jnp.bfloat16, array)

    def dropped(draw: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def side(query: Any, k: Any, value: Any, bias: Any, visible: Any) -> Any:
            key = jax.random.key(0, impl=kind)
            return einsum(query, k, value, bias, visible, functools.partial(draw, key))

        return side

    def bernoulli(key: Any, shape: tuple[int, ...]) -> Any:
        return jax.random.bernoulli(key, 0.9, shape)

    sides = {
        **SIDES,
        "dropout, JAX's generator": dropped(bernoulli, "threefry2x32"),
        "dropout, the chip's bits": dropped(bernoulli, "rbg"),
        "dropout, 16 of the chip's bits": dropped(functools.partial(kept_by_hardware, 0.9), "rbg"),
    }
    print(f"{target.name}, {arguments.rows} rows of {arguments.length}, {arguments.heads} heads of 64, bfloat16")
    print(f"{'attention, value and gradient':32} {'peak MiB':>9} {'GFLOP':>8} {'traffic MB':>11}")
    for name, side in sides.items():
        function = objective(side)
        report(name, jax.jit(function).lower(*inputs), dot_flops(function, *inputs), traffic, Program)
    projection(arguments, array, traffic, Program)
    sys.stdout.flush()
    os._exit(0)  # nobody waits for the machine code


def projection(arguments: argparse.Namespace, array: Callable[..., Any], traffic: Any, program_of: Any) -> None:
    """The vocabulary's projection with its cross entropy, value and gradient."""
    import jax
    import jax.numpy as jnp

    from metro_jax.model.network import project
    from metro_jax.model.pretraining import gather
    from metro_jax.objectives import cross_entropy
    from metro_jax.training.flops import dot_flops

    width, masked = 64 * arguments.heads, int(0.15 * arguments.length) + 1

    def everywhere(embedding: Any, hidden: Any, targets: Any, slots: Any) -> Any:
        del slots
        return jnp.sum(cross_entropy(project(embedding, hidden, jnp.bfloat16), targets)[0])

    def at_masked(embedding: Any, hidden: Any, targets: Any, slots: Any) -> Any:
        logits = project(embedding, gather(hidden, slots), jnp.bfloat16)
        return jnp.sum(cross_entropy(logits, gather(targets, slots))[0])

    inputs = (
        array((arguments.vocab, width), jnp.float32),
        array((arguments.rows, arguments.length, width), jnp.bfloat16),
        array((arguments.rows, arguments.length), jnp.int32),
        array((arguments.rows, masked), jnp.int32),
    )
    print(f"{f'projection to {arguments.vocab}, value and gradient':32}")
    for name, function in (("at all positions", everywhere), (f"at {masked} masked positions", at_masked)):
        both = jax.value_and_grad(function, (0, 1))
        report(name, jax.jit(both).lower(*inputs), dot_flops(both, *inputs), traffic, program_of)


def report(name: str, lowered: Any, flops: float, traffic: Any, program_of: Any) -> None:
    """One line."""
    from metro_jax.training.plan.scheduled import scheduled_program

    text, peak = scheduled_program(lowered, None)
    moved = sum(traffic(program_of(text)))
    # The trace shows one block of a kernel, however many there are.
    counted = f"{'kernel':>8}" if "pallas" in name else f"{flops / 1e9:8.1f}"
    print(f"{name:32} {(peak or 0) / 2**20:9.1f} {counted} {moved / 1e6:11.1f}", flush=True)


def numerics(arguments: argparse.Namespace) -> None:
    """Largest differences from the einsum in float32, on this machine."""
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import pallas

    draw = np.random.default_rng(0)

    def array(shape: tuple[int, ...], dtype: Any) -> Any:
        if dtype == jnp.bool_:
            length = shape[1]
            return jnp.arange(length)[None] < jnp.asarray([length, *[length - 40] * (shape[0] - 1)])[:, None]
        return jnp.asarray(draw.normal(size=shape) * (0.3 if len(shape) == 4 else 1.0), dtype)

    inputs = shapes(2, 256, 2, 64, jnp.float32, array)
    interpreted = pallas.pallas_call
    pallas.pallas_call = functools.partial(interpreted, interpret=True)
    expected, gradients = objective(einsum)(*inputs)
    for name, side in SIDES.items():
        value, found = objective(side)(*inputs)
        worst = max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(found, gradients, strict=True))
        print(
            f"{name:14} value off by {abs(value - expected) / abs(expected):.1e}, gradients by {worst:.1e} (relative)"
        )
    pallas.pallas_call = interpreted


def main() -> None:
    """Runs the comparison that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:1x1", help="one chip (default v5e:1x1)")
    parser.add_argument("--rows", type=int, default=16, help="default 16")
    parser.add_argument("--length", type=int, default=512, help="default 512")
    parser.add_argument("--heads", type=int, default=12, help="of width 64 (default 12: base)")
    parser.add_argument("--vocab", type=int, default=64512, help="default 64512: base++")
    parser.add_argument("--numerics", action="store_true", help="compare results instead, on this machine")
    arguments = parser.parse_args()
    numerics(arguments) if arguments.numerics else compiled(arguments)


if __name__ == "__main__":
    main()
