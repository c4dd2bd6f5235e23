"""A plan as a table for people and as JSON for programs."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from metro_jax.training.plan.collectives import SMALL, Collective, by_kind, collectives
from metro_jax.training.plan.estimate import Estimate, breakdown, estimate
from metro_jax.training.plan.hlo import Program
from metro_jax.training.plan.recipe import Recipe, describe_mesh
from metro_jax.training.plan.steps import Compiled, Step, TooLargeError, compile_step
from metro_jax.training.plan.topology import GIB, Topology

ASSUMPTIONS = (
    "an estimate, not a measurement: matrix products at the chip's bfloat16 peak, everything else at the speed of its "
    "memory, collectives at the speed of their links; from all communication hidden behind the rest to none of it. Not "
    "in it: matrix units that are not full, vector arithmetic, start-up of kernels, input, checkpoints"
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """One step on one topology: compiled, or too large.

    Args:
        steps: updates of the run; 0 where the step is none of training's.
    """

    recipe: str
    topology: Topology
    step: Step
    steps: int
    level: str
    compiled: Compiled | None
    too_large: TooLargeError | None
    collectives: Sequence[Collective] = ()
    estimate: Estimate | None = None

    @property
    def limit(self) -> float | None:
        """Bytes that a program may use on a device."""
        if self.too_large is not None and self.too_large.limit:
            return self.too_large.limit
        return None if self.topology.chip is None else self.topology.chip.memory

    @property
    def peak(self) -> float | None:
        """Bytes of a device's memory at the fullest moment."""
        if self.too_large is not None:
            return self.too_large.used
        return None if self.compiled is None else self.compiled.peak

    @property
    def fits(self) -> bool:
        """Whether it compiled and stays within the memory."""
        return self.compiled is not None and not (self.peak and self.limit and self.peak > self.limit)


def make_plan(recipe: Recipe, topology: Topology, step: Step, level: str = "default", complete: bool = True) -> Plan:
    """Compiles a step and works out what it costs; a step that is too large is a plan as well."""
    common: dict[str, Any] = {
        "recipe": recipe.name,
        "topology": topology,
        "step": step,
        "steps": recipe.steps if step.kind == "train" else 0,
        "level": level,
    }
    try:
        compiled = compile_step(step, level, complete)
    except TooLargeError as error:
        return Plan(**common, compiled=None, too_large=error)
    program = Program(compiled.text, step.loop)
    found = collectives(program, step.partitioner.mesh)
    made = estimate(step, program, found, topology)
    return Plan(**common, compiled=compiled, too_large=None, collectives=found, estimate=made)


def as_json(plan: Plan) -> dict[str, Any]:
    """Everything of a plan, in bytes, seconds and FLOPs."""
    step, made = plan.step, plan.estimate
    devices = step.partitioner.mesh.size
    data: dict[str, Any] = {
        "recipe": plan.recipe,
        "step": step.kind,
        "topology": plan.topology.name,
        "device_kind": plan.topology.devices[0].device_kind,
        "devices": devices,
        "mesh": dict(step.partitioner.mesh.shape),
        "microbatches": step.microbatches,
        "optimization_level": plan.level,
        "fits": plan.fits,
        "memory": {"limit": plan.limit, "peak": plan.peak, **({} if plan.compiled else step.state)},
        "tokens_per_step": step.tokens,
        "flops_per_step": step.flops,
        "model_flops_per_step": step.model_flops,
        "model_flops_per_token": step.model_flops / step.tokens,
    }
    if plan.compiled is not None:
        data["memory"] |= breakdown(step, plan.compiled)
        data["machine_code"] = plan.compiled.complete
        data["compile_seconds"] = round(plan.compiled.seconds, 1)
        data["collectives"] = [c.summary() for c in plan.collectives]
    if made is not None:
        best, worst = made.step_seconds
        data["traffic_bytes"] = {"products": made.product_bytes, "other": made.other_bytes}
        data["estimate"] = {
            "assumptions": ASSUMPTIONS,
            "step_seconds": [best, worst],
            "products_seconds": made.product_seconds,
            "other_seconds": made.other_seconds,
            "vector_operations": made.vector_operations,
            "communication_seconds": made.communication_seconds,
            "model_flops_utilisation": list(made.utilisation),
            "tokens_per_second": [step.tokens / worst, step.tokens / best],
            "days": [plan.steps * best / 86400, plan.steps * worst / 86400] if plan.steps else None,
        }
    return data


def write_json(plan: Plan, path: str) -> None:
    """Writes `as_json` to a file."""
    pathlib.Path(path).write_text(json.dumps(as_json(plan), indent=2) + "\n")


def as_text(plan: Plan) -> str:
    """The plan for people."""
    step, topology = plan.step, plan.topology
    mesh = step.partitioner.mesh
    micro = f", {step.microbatches} microbatches" if step.microbatches > 1 else ""
    lines = [
        f"{plan.recipe}, {step.kind} step on {topology.name}: {mesh.size} x {topology.devices[0].device_kind}, "
        f"{describe_mesh(mesh)}{micro}",
        "",
    ]
    if plan.compiled is None:
        return "\n".join([*lines, *too_large_lines(plan)])
    effort = "" if plan.level == "default" else f" at {plan.level}, which shows neither traffic nor time as they are"
    done = "compiled" if plan.compiled.complete else "scheduled, without machine code,"
    lines.append(f"{done} in {plan.compiled.seconds:.0f} s{effort}")
    lines += ["", *memory_lines(plan), "", *flops_lines(step)]
    lines += ["", *collective_lines(plan.collectives)]
    if plan.estimate is not None:
        lines += ["", *estimate_lines(plan, plan.estimate)]
    return "\n".join(lines)


def memory_lines(plan: Plan) -> list[str]:
    """Parts of a device's memory, and the limit."""
    assert plan.compiled is not None
    parts = breakdown(plan.step, plan.compiled)
    lines = ["memory per device"]
    lines += [f"  {name:28} {memory(value):>12}" for name, value in parts.items()]
    if plan.limit and plan.peak:
        verdict = "fits" if plan.fits else "DOES NOT FIT"
        lines.append(f"  {'limit':28} {memory(plan.limit):>12}   {verdict}: {plan.peak / plan.limit:.0%} used")
    return lines


def flops_lines(step: Step) -> list[str]:
    """Work per step and per token."""
    extra = step.flops / step.model_flops - 1 if step.model_flops else 0.0
    again = f"; {extra:.0%} more are computed again to save memory" if extra > 0.005 else ""
    return [
        f"FLOPs: {step.model_flops:.3e} per step of {step.tokens:,} tokens, {step.model_flops / step.tokens:.3e} per "
        f"token{again}"
    ]


def collective_lines(found: Sequence[Collective]) -> list[str]:
    """What each kind of collective sends, and the heaviest ones."""
    if not found:
        return ["collectives: none"]
    lines = ["collectives per device and step"]
    for (kind, axes), entry in by_kind(found).items():
        lines.append(
            f"  {kind:20} over {'+'.join(axes) or 'a part':12} {entry['times']:6.0f} times  "
            f"{size(entry['payload']):>9}, sends {size(entry['sent'])}"
        )
    heavy = [c for c in found if c.payload * c.times >= SMALL][:3]
    lines += [f"    {c.kind} of {size(c.payload)} x {c.times}: {c.where}" for c in heavy]
    return lines


def estimate_lines(plan: Plan, made: Estimate) -> list[str]:
    """The roofline."""
    best, worst = made.step_seconds
    total = max(worst, 1e-12)
    lines = [
        "roofline estimate (no measurement: see the assumptions below)",
        f"  matrix products   {1e3 * made.product_seconds:9.1f} ms",
        f"  other operations  {1e3 * made.other_seconds:9.1f} ms   {size(made.other_bytes)} of memory traffic",
        f"  (and {made.vector_operations:.1e} element-wise operations on the vector units, of unpublished rate)",
        f"  communication     {1e3 * made.communication_seconds:9.1f} ms   "
        f"{made.communication_seconds / total:.0%} of the step if nothing hides it",
        f"  step              {1e3 * best:9.1f} to {1e3 * worst:.1f} ms",
        f"  utilisation       {made.utilisation[0]:9.0%} to {made.utilisation[1]:.0%} of the peak, model FLOPs",
        f"  {'generated' if plan.step.loop > 1 else 'tokens':17} {plan.step.tokens / worst:,.0f} to "
        f"{plan.step.tokens / best:,.0f} per second",
    ]
    if plan.steps:
        lines.append(
            f"  run               {plan.steps * best / 86400:.1f} to {plan.steps * worst / 86400:.1f} days for "
            f"{plan.steps:,} steps"
        )
    return [*lines, f"  assumptions: {ASSUMPTIONS}."]


def too_large_lines(plan: Plan) -> list[str]:
    """By how much a step misses."""
    assert plan.too_large is not None
    used, limit = plan.too_large.used, plan.too_large.limit
    if not used or not limit:
        return ["DOES NOT FIT: " + str(plan.too_large).splitlines()[0]]
    held = ", ".join(f"{name} {value / GIB:.2f}" for name, value in plan.step.state.items())
    return [
        f"DOES NOT FIT: the step needs {used / GIB:.2f} GiB per device, {(used - limit) / GIB:.2f} GiB more than the "
        f"{limit / GIB:.2f} there are",
        f"(of it {held} GiB; the rest is activations and temporaries)",
    ]


def memory(count: float) -> str:
    """Bytes for people, in powers of 1024 like memories."""
    return f"{count / GIB:.2f} GiB" if count >= 0.1 * GIB else f"{count / 2**20:.2f} MiB"


def size(count: float) -> str:
    """Bytes for people, in powers of 1000 like bandwidths."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
