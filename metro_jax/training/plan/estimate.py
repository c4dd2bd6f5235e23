"""From a compiled step to memory, traffic and a roofline estimate of its time.

The estimate is no measurement. It takes every matrix product at the chip's peak, every other operation at the speed
of the memory it reads and writes, every collective at the speed of its links with nothing else on them. What it leaves
out makes real steps slower: matrix units that are not full, vector arithmetic (random bits for dropout above all),
start-up of kernels, input, checkpoints. What overlaps makes them faster: collectives run beside products where they
can, which is why there are two figures, with all of them hidden and with none.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from metro_jax.training.flops import PEAK_FLOPS
from metro_jax.training.plan.collectives import Collective, total_seconds
from metro_jax.training.plan.hlo import ARRAY, ON_CHIP, Instruction, Program, shape_bytes
from metro_jax.training.plan.steps import Compiled, Step
from metro_jax.training.plan.topology import Topology

# They move nothing, or are counted where the bytes are (the bodies of loops).
FREE = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "opt-barrier"})
FREE |= {"while", "conditional", "call", "after-all", "partition-id", "replica-id", "async-update", "async-done"}
FREE |= {"copy-done", "all-gather-done", "all-reduce-done", "send-done", "recv-done"}
PRODUCTS = ("convolution", "dot")
ELEMENTWISE = frozenset({"add", "subtract", "multiply", "divide", "maximum", "minimum", "select", "compare", "convert"})
ELEMENTWISE |= {"and", "or", "xor", "not", "shift-left", "shift-right-logical", "shift-right-arithmetic"}
ELEMENTWISE |= {"exponential", "log", "log-plus-one", "rsqrt", "sqrt", "negate", "abs", "clamp", "tanh", "logistic"}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one step costs. Bytes and FLOPs are per device, seconds per step.

    Args:
        product_bytes, other_bytes: read and written in main memory by operations with and without matrix products.
        step_seconds: with all communication hidden, and with none.
    """

    product_seconds: float
    product_bytes: float
    other_bytes: float
    other_seconds: float
    communication_seconds: float
    step_seconds: tuple[float, float]
    utilisation: tuple[float, float]
    vector_operations: float


def estimate(step: Step, program: Program, found: Sequence[Collective], topology: Topology) -> Estimate | None:
    """The roofline estimate; None where the chip's rates are not known (devices of this host)."""
    mesh = step.partitioner.mesh
    peak = PEAK_FLOPS.get(topology.devices[0].device_kind)
    if topology.chip is None or peak is None:
        return None
    products, others = traffic(program)
    flops = step.flops / mesh.size
    product_seconds = max(flops / peak, products / topology.chip.hbm)
    other_seconds = others / topology.chip.hbm
    communication = total_seconds(found, topology, mesh)
    hidden, exposed = product_seconds + other_seconds, product_seconds + other_seconds + communication
    if communication > hidden:
        hidden = communication
    model = step.model_flops / mesh.size / peak
    return Estimate(
        product_seconds=product_seconds,
        product_bytes=products,
        other_bytes=others,
        other_seconds=other_seconds,
        communication_seconds=communication,
        step_seconds=(hidden, exposed),
        utilisation=(model / exposed, model / hidden),
        vector_operations=vector_operations(program),
    )


def traffic(program: Program) -> tuple[float, float]:
    """Bytes read and written in main memory per step, by operations with and without matrix products.

    A fusion reads its operands and writes its result once; of an operand that it only slices it reads the slices, and
    of an array that it updates in place it writes the update. Arrays that the compiler keeps on the chip cost nothing.
    """
    fused = {name for _, i, _ in program.walk() if i.opcode == "fusion" for name in i.called("calls")}
    products = others = 0.0
    for name, instruction, times in program.walk():
        if name in fused or instruction.opcode in FREE:
            continue
        moved = times * moved_bytes(program, name, instruction)
        if has_product(program, instruction):
            products += moved
        else:
            others += moved
    return products, others


def vector_operations(program: Program) -> float:
    """Element-wise operations per step and device: what the vector units do, of which the estimate has no rate.

    Most of them are random bits: one number takes some hundred integer operations with JAX's own generator.
    """
    return float(
        sum(
            times * elements(instruction.shape)
            for _, instruction, times in program.walk()
            if instruction.opcode in ELEMENTWISE
        )
    )


def elements(shape: str) -> int:
    """Numbers in an array type."""
    match = ARRAY.match(shape)
    if match is None:
        return 0
    return math.prod(int(size) for size in match[2].split(",") if size)


def has_product(program: Program, instruction: Instruction) -> bool:
    """Whether it is a matrix product or a fusion around one."""
    if instruction.opcode in PRODUCTS:
        return True
    return instruction.opcode == "fusion" and any(
        has_product(program, inner)
        for name in instruction.called("calls")
        for inner in program.computations.get(name, {}).values()
    )


def moved_bytes(program: Program, computation: str, instruction: Instruction) -> float:
    """Bytes that one execution reads and writes in main memory."""
    known = program.computations[computation]
    operands = [known[name] for name in instruction.operands if name in known]
    if instruction.opcode == "dynamic-slice":
        return 2 * in_main(instruction.shape)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * in_main(operands[1].shape)
    if instruction.opcode == "fusion":
        inside = program.computations.get(next(iter(instruction.called("calls")), ""), {})
        return _fusion_bytes(inside, instruction, operands)
    return in_main(instruction.shape) + sum(in_main(operand.shape) for operand in operands)


def _fusion_bytes(inside: dict[str, Instruction], fusion: Instruction, operands: list[Instruction]) -> float:
    parameters = {int(i.arguments): i.name for i in inside.values() if i.opcode == "parameter"}
    total = 0.0
    for number, operand in enumerate(operands):
        uses = [i for i in inside.values() if parameters.get(number) in i.operands]
        if uses and all(i.opcode == "dynamic-slice" and i.operands[0] == parameters[number] for i in uses):
            total += sum(in_main(operand.shape) and i.bytes for i in uses)
        elif uses and all(i.opcode == "dynamic-update-slice" and i.operands[0] == parameters[number] for i in uses):
            continue  # updated in place
        else:
            total += in_main(operand.shape)
    updates = [i for i in inside.values() if i.opcode == "dynamic-update-slice"]
    written = 0.0
    for array in ARRAY.finditer(fusion.shape):
        if array[3] and ON_CHIP.search(array[3]):
            continue
        size = shape_bytes(array[0])
        matching = next((i for i in updates if shape_bytes(i.shape) == size), None)
        if matching is not None and matching.operands[1] in inside:
            size = inside[matching.operands[1]].bytes
        written += size
    return total + written


def in_main(shape: str) -> int:
    """Bytes of an array in main memory."""
    return shape_bytes(shape, main_memory_only=True)


def breakdown(step: Step, compiled: Compiled) -> dict[str, Any]:
    """The peak's parts: what the step is given, and all else (activations, gradients, buffers)."""
    parts: dict[str, Any] = dict(step.state)
    if compiled.peak is not None:
        parts["activations and temporaries"] = max(0, compiled.peak - sum(step.state.values()))
        parts["peak"] = compiled.peak
    return parts
