"""Meshes, recomputation and numbers of microbatches tried in turn on one topology, and ranked."""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

from metro_jax.training.plan import recipe as recipes
from metro_jax.training.plan.report import Plan, as_json, make_plan
from metro_jax.training.plan.steps import training_step
from metro_jax.training.plan.topology import GIB, Topology

REMAT = ("none", "minimal", "full")  # from the most memory to the least
MICROBATCHES = (1, 2, 4, 8, 16, 32)
# Wider fsdp axes leave slices of d_model below a tile of the matrix units: 768/16 = 48, and no reduce-scatter at all.
FSDP = (1, 2, 4, 8, 16)
MODEL = (1, 2)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One combination of what the search may change."""

    fsdp: int
    model: int
    remat: str
    microbatches: int

    def saves_no_more(self, other: "Choice") -> bool:
        """Whether this one surely needs as much memory as `other` or more."""
        return (
            self.fsdp <= other.fsdp
            and self.model <= other.model
            and REMAT.index(self.remat) <= REMAT.index(other.remat)
            and self.microbatches <= other.microbatches
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """A combination that was compiled."""

    choice: Choice
    plan: Plan

    @property
    def seconds(self) -> float:
        """What it is ranked by: the estimated step without overlap; unknown ones last."""
        made = self.plan.estimate
        return made.step_seconds[1] if self.plan.fits and made is not None else float("inf")

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self.choice) | as_json(self.plan)

    def command(self, arguments: argparse.Namespace) -> str:
        """The command that plans this one alone."""
        mesh = ",".join(f"{axis}={size}" for axis, size in self.plan.step.partitioner.mesh.shape.items())
        return (
            f"metro-jax plan {arguments.recipe} --topology {arguments.topology} --mesh {mesh} "
            f"--microbatches {self.choice.microbatches} --set \"MetroConfig.remat='{self.choice.remat}'\""
        )


def choices(devices: int, batch: int, d_model: int, num_heads: int) -> list[Choice]:
    """Every combination that the devices, rows and sizes allow: few pieces first, then little computed again."""
    found = [
        Choice(fsdp, model, remat, microbatches)
        for fsdp, model, remat, microbatches in itertools.product(FSDP, MODEL, REMAT, MICROBATCHES)
        if devices % (fsdp * model) == 0
        and batch % (devices // model * microbatches) == 0
        and d_model % fsdp == 0
        and num_heads % model == 0
    ]
    return sorted(found, key=lambda c: (c.model, c.microbatches, REMAT.index(c.remat), c.fsdp))


def saving_first(choice: Choice) -> tuple[int, ...]:
    """Order in which to look for something that fits at all."""
    return choice.model, choice.fsdp * choice.microbatches, -REMAT.index(choice.remat)


def attempts(
    arguments: argparse.Namespace, topology: Topology, order: Callable[[Choice], tuple[int, ...]] | None = None
) -> Iterator[Result]:
    """Compiles one combination after another, leaving out what needs as much memory as one that was too large."""
    base = recipes.load(arguments.recipe, arguments.bindings, arguments.gin_file)
    config, devices = base.model.config, len(topology.devices)
    too_large: list[Choice] = []
    compiled = 0
    found = choices(devices, base.dataset.batch_size, config.d_model, config.num_heads)
    for choice in found if order is None else sorted(found, key=order):
        if any(choice.saves_no_more(known) for known in too_large):
            continue
        bindings = [*arguments.bindings, f"MetroConfig.remat = '{choice.remat}'"]
        recipe = recipes.load(arguments.recipe, bindings, arguments.gin_file)
        try:
            partitioner = recipe.partitioner(topology.devices, {"fsdp": choice.fsdp, "model": choice.model})
            step = training_step(recipe, partitioner, choice.microbatches)
        except ValueError as error:  # this mesh does not fit onto the torus
            print(f"  {_name(choice)}: {str(error).splitlines()[0][:100]}", file=sys.stderr)
            continue
        plan = make_plan(recipe, topology, step, arguments.level)
        if not plan.fits:
            too_large.append(choice)
        compiled += plan.fits
        print(f"  {_name(choice)}: {_verdict(plan)}", file=sys.stderr, flush=True)
        yield Result(choice, plan)
        if compiled >= arguments.most:
            return


def search(arguments: argparse.Namespace, topology: Topology) -> list[Result]:
    """What was tried, the fastest that fits first."""
    print(f"searching, at most {arguments.most} that fit:", file=sys.stderr)
    return sorted(attempts(arguments, topology), key=lambda result: (result.seconds, result.plan.peak or 0))


def what_would_fit(arguments: argparse.Namespace, topology: Topology) -> str:
    """The first combination that does; compiled at low effort, which is enough to know."""
    print("looking for what would fit (at the compiler's lowest effort):", file=sys.stderr)
    changed = argparse.Namespace(**vars(arguments) | {"level": "O0", "most": 1})
    found = next((result for result in attempts(changed, topology, saving_first) if result.plan.fits), None)
    if found is None:
        return (
            "nothing that --search tries would fit: take more chips, a chip with more memory, a smaller BATCH_SIZE or "
            "shorter TASK_FEATURE_LENGTHS"
        )
    peak = "" if found.plan.peak is None else f" ({found.plan.peak / GIB:.2f} GiB)"
    return f"what would fit{peak}: {found.command(arguments)}"


def table(found: list[Result]) -> str:
    """One line for each."""
    lines = [f"{'mesh':28} {'remat':8} {'pieces':>6} {'GiB':>7} {'of limit':>8} {'ms per step':>16}"]
    for result in found:
        plan, choice = result.plan, result.choice
        peak = f"{plan.peak / GIB:.2f}" if plan.peak else "?"
        share = f"{plan.peak / plan.limit:.0%}" if plan.peak and plan.limit else "?"
        time = "too large"
        if plan.fits:
            made = plan.estimate
            time = f"{1e3 * made.step_seconds[0]:.0f} to {1e3 * made.step_seconds[1]:.0f}" if made else "?"
        mesh = recipes.describe_mesh(plan.step.partitioner.mesh)
        lines.append(f"{mesh:28} {choice.remat:8} {choice.microbatches:>6} {peak:>7} {share:>8} {time:>16}")
    return "\n".join(lines)


def _name(choice: Choice) -> str:
    return f"fsdp={choice.fsdp} model={choice.model} remat={choice.remat} microbatches={choice.microbatches}"


def _verdict(plan: Plan) -> str:
    peak = "" if plan.peak is None else f"{plan.peak / GIB:.2f} GiB"
    if not plan.fits:
        return f"{peak}, too large"
    made = plan.estimate
    return f"{peak}, fits" + (f", {1e3 * made.step_seconds[1]:.0f} ms per step by the estimate" if made else "")
