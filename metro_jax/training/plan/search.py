"""Meshes, recomputation and numbers of microbatches tried in turn on one topology, and ranked."""

import argparse
import dataclasses
import itertools
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from metro_jax.training.plan import recipe as recipes
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

    def saves_at_most(self, other: "Choice") -> float:
        """The factor by which this one can need less memory than `other`: pieces and slices shrink what they cut in
        proportion and leave the rest; recomputation saves nobody knows how much."""
        if REMAT.index(self.remat) > REMAT.index(other.remat):
            return float("inf")
        return (
            max(1.0, self.fsdp / other.fsdp)
            * max(1.0, self.model / other.model)
            * max(1.0, self.microbatches / other.microbatches)
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """A combination that was compiled.

    Args:
        plan: as `report.as_json` gives it.
        text: the same for people.
    """

    choice: Choice
    plan: Mapping[str, Any]
    text: str = ""

    @property
    def fits(self) -> bool:
        """Whether it compiled and stays within the memory."""
        return self.plan["fits"]

    @property
    def peak(self) -> float | None:
        """Bytes of a device's memory."""
        return self.plan["memory"].get("peak")

    @property
    def step_seconds(self) -> tuple[float, float] | None:
        """The estimate: with all communication hidden, and with none."""
        return self.plan["estimate"]["step_seconds"] if self.fits and "estimate" in self.plan else None

    @property
    def rank(self) -> tuple[float, float]:
        """The fastest that fit come first; unknown times last."""
        return (self.step_seconds or (0, float("inf")))[1], self.peak or 0

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self.choice) | dict(self.plan)


def command_line(arguments: argparse.Namespace, choice: Choice) -> list[str]:
    """The arguments of the `metro-jax` that plans one combination alone."""
    line = ["plan", arguments.recipe, "--topology", arguments.topology]
    line += ["--slices", str(arguments.slices)] if arguments.slices > 1 else []
    line += ["--complete"] if arguments.complete else []
    for name in arguments.gin_file:
        line += ["--gin_file", name]
    kept = [binding for binding in arguments.bindings if not binding.replace(" ", "").startswith("MetroConfig.remat=")]
    for binding in [*kept, f"MetroConfig.remat='{choice.remat}'"]:
        line += ["--set", binding]
    return [*line, "--mesh", f"fsdp={choice.fsdp},model={choice.model}", "--microbatches", str(choice.microbatches)]


def shown(line: list[str]) -> str:
    """A command for people to copy: double quotes around what holds single ones, as gin's strings do."""
    words = [f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word) for word in line]
    return " ".join(["metro-jax", *words])


def run_plan(line: list[str], level: str) -> tuple[Mapping[str, Any] | None, str]:
    """Plans in a process of its own, which ends the compiler as soon as the program is known.

    Returns:
        The plan and its text; None and what is wrong where there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "plan.json"
        command = [sys.executable, "-m", "metro_jax.cli", *line, "--level", level, "--most", "0", "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if path.exists():
            return json.loads(path.read_text()), done.stdout
    errors = [one for one in done.stderr.splitlines() if one.startswith("error: ")] or done.stderr.splitlines()[-1:]
    return None, (errors or [f"exit status {done.returncode}"])[0]


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
    """Compiles one combination after another, leaving out what cannot fit since another one was so much too large."""
    base = recipes.load(arguments.recipe, arguments.bindings, arguments.gin_file)
    config, devices = base.model.config, len(topology.devices)
    too_large: list[tuple[Choice, float]] = []  # and by what factor
    fitting = 0
    found = choices(devices, base.dataset.batch_size, config.d_model, config.num_heads)
    for choice in found if order is None else sorted(found, key=order):
        if any(choice.saves_at_most(known) <= factor for known, factor in too_large):
            continue
        plan, text = run_plan(command_line(arguments, choice), arguments.level)
        if plan is None:  # such as a mesh that does not fit onto the torus
            print(f"  {_name(choice)}: {text[:160]}", file=sys.stderr, flush=True)
            continue
        result = Result(choice, plan, text)
        if not result.fits:
            limit = plan["memory"]["limit"]
            too_large.append((choice, max(1.0, result.peak / limit) if result.peak and limit else 1.0))
        fitting += result.fits
        print(f"  {_name(choice)}: {_verdict(result)}", file=sys.stderr, flush=True)
        yield result
        if fitting >= arguments.most:
            return


def search(arguments: argparse.Namespace, topology: Topology) -> list[Result]:
    """What was tried, the fastest that fits first."""
    print(f"searching, at most {arguments.most} that fit:", file=sys.stderr)
    return sorted(attempts(arguments, topology), key=lambda result: result.rank)


def what_would_fit(arguments: argparse.Namespace, topology: Topology) -> str:
    """The first combination that does."""
    print("looking for what would fit:", file=sys.stderr)
    changed = argparse.Namespace(**vars(arguments) | {"most": 1})
    found = next((result for result in attempts(changed, topology, saving_first) if result.fits), None)
    if found is None:
        return (
            "nothing that --search tries would fit: take more chips, a chip with more memory, a smaller BATCH_SIZE or "
            "shorter TASK_FEATURE_LENGTHS"
        )
    peak = "" if found.peak is None else f" ({found.peak / GIB:.2f} GiB)"
    return f"what would fit{peak}: {shown(command_line(arguments, found.choice))}"


def table(found: list[Result]) -> str:
    """One line for each."""
    lines = [f"{'mesh':28} {'remat':8} {'pieces':>6} {'GiB':>7} {'of limit':>8} {'ms per step':>16}"]
    for result in found:
        choice, limit = result.choice, result.plan["memory"]["limit"]
        peak = f"{result.peak / GIB:.2f}" if result.peak else "?"
        share = f"{result.peak / limit:.0%}" if result.peak and limit else "?"
        time = "too large"
        if result.fits:
            made = result.step_seconds
            time = f"{1e3 * made[0]:.0f} to {1e3 * made[1]:.0f}" if made else "?"
        mesh = " ".join(f"{axis}={size}" for axis, size in result.plan["mesh"].items())
        lines.append(f"{mesh:28} {choice.remat:8} {choice.microbatches:>6} {peak:>7} {share:>8} {time:>16}")
    return "\n".join(lines)


def _name(choice: Choice) -> str:
    return f"fsdp={choice.fsdp} model={choice.model} remat={choice.remat} microbatches={choice.microbatches}"


def _verdict(result: Result) -> str:
    peak = "" if result.peak is None else f"{result.peak / GIB:.2f} GiB"
    if not result.fits:
        return f"{peak}, too large"
    made = result.step_seconds
    return f"{peak}, fits" + (f", {1e3 * made[1]:.0f} ms per step by the estimate" if made else "")
