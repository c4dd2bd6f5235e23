"""What `metro-jax plan` does once everything is imported."""

import argparse
import json
import os
import pathlib
import sys
from typing import NoReturn

from metro_jax.training.plan import picture, recipe, report, search, topology
from metro_jax.training.plan.steps import make_step


def plan(arguments: argparse.Namespace) -> int:
    """Compiles, prints, writes; returns the exit status."""
    target = topology.describe(arguments.topology, arguments.slices)
    made = recipe.load(arguments.recipe, arguments.bindings, arguments.gin_file)
    if arguments.search:
        if arguments.step != "train":
            raise ValueError(f"--search is about the train step, not --step {arguments.step}")
        return _search(arguments, target)
    mesh = recipe.mesh_sizes(arguments.mesh) if arguments.mesh else None
    partitioner = made.partitioner(target.devices, mesh)
    print(f"tracing and compiling {made.name} for {target.name} ...", file=sys.stderr)
    step = make_step(
        made,
        partitioner,
        arguments.step,
        microbatches=arguments.microbatches,
        rows=arguments.rows,
        source=arguments.source,
        target=arguments.target,
    )
    result = report.make_plan(made, target, step, arguments.level, arguments.complete)
    print(report.as_text(result))
    if arguments.json:
        report.write_json(result, arguments.json)
    if arguments.hlo and result.compiled is not None:
        pathlib.Path(arguments.hlo).write_text(result.compiled.text)
    if arguments.picture and result.compiled is not None:
        picture.draw(result, arguments.picture)
        print(f"picture: {arguments.picture}")
    if result.compiled is None and arguments.step == "train" and arguments.most:
        print(search.what_would_fit(arguments, target))
    if result.compiled is not None and not result.compiled.complete:
        _leave(0 if result.fits else 1)
    return 0 if result.fits else 1


def _leave(status: int) -> NoReturn:
    """Ends the process with the compiler still at work on machine code that nobody waits for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _search(arguments: argparse.Namespace, target: topology.Topology) -> int:
    found = search.search(arguments, target)
    print(search.table(found))
    if arguments.json:
        data = [result.summary() for result in found]
        pathlib.Path(arguments.json).write_text(json.dumps(data, indent=2) + "\n")
    best = next((result for result in found if result.fits), None)
    if best is None:
        return 1
    line = search.command_line(arguments, best.choice)
    print(f"\nthe best of them: {search.shown(line)}\n\n{best.text}")
    if arguments.picture:
        search.run_plan([*line, "--picture", arguments.picture], arguments.level)
        print(f"picture: {arguments.picture}")
    return 0
