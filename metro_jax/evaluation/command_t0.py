"""`metro-jax eval t0`: from the data folder to the report, and --check."""

import argparse
import pathlib
import sys
from typing import Any

from metro_jax.evaluation import plot, published, session, t0, t0_data
from metro_jax.evaluation import report as reports
from metro_jax.evaluation.results import RUN, Folder, read_json
from metro_jax.evaluation.t0_data import Data


def read(arguments: argparse.Namespace) -> tuple[dict[str, Any], Data]:
    """The wanted tasks and their examples, with a bar over the templates."""
    import rich.progress

    tasks = t0_data.wanted(arguments.tasks, arguments.templates)
    folder = pathlib.Path(arguments.data)
    problems: dict[str, str] = {}
    if arguments.render:
        from metro_jax.data.t0.render import render_missing

        problems = render_missing(folder, pathlib.Path(arguments.render), ["t0_eval"], arguments.seed)
    with rich.progress.Progress(transient=True, console=_stderr()) as bar:
        line = bar.add_task("reading", total=sum(len(row.templates) for row in tasks.values()))
        data = t0_data.read(folder, tasks, arguments.limit, lambda _: bar.advance(line))
    for task, template in data.missing:
        name = tasks[task].tasks[template]
        data.missing[task, template] = problems.get(name, data.missing[task, template])
    return tasks, data


def _stderr() -> Any:
    import rich.console

    return rich.console.Console(stderr=True)


def run(arguments: argparse.Namespace) -> int:
    """Scores what OUT lacks, and writes the report."""
    session.needed(arguments, "model", "data", "out")
    folder = pathlib.Path(arguments.out)
    # Names are checked before anything is read or loaded.
    choose_reference({}, arguments.published, arguments.trained_on, arguments.model)
    tasks, data = read(arguments)
    examples = data.examples
    if not examples:
        reason = next(iter(data.missing.values()), "every example had to be left out")
        raise ValueError(f"{arguments.data} holds no example of {', '.join(tasks)} ({reason}); --check says more")
    session.check_strict(arguments, {f"{task}, {template}": f.account for (task, template), f in data.found.items()})
    shard = session.join(arguments)
    model = session.load(arguments)
    results = Folder(folder, session.identity(model, arguments, {**t0.PROTOCOL, **limits()}))
    results.open(manifest(arguments, folder, data), examples)
    finished = session.score(arguments, results, model, examples, shard, limits())
    session.leave(arguments)
    return report(folder) if finished and (shard.index == 0 or arguments.shard) else 0


def limits() -> dict[str, int]:
    """Tokens that are kept (spec 8.1)."""
    return {"max_source": t0.MAX_SOURCE, "max_choice": t0.MAX_CHOICE}


def manifest(arguments: argparse.Namespace, folder: pathlib.Path, data: Data) -> dict[str, Any]:
    """What run.json says beside the identity."""
    templates: dict[str, dict[str, Any]] = {}
    for (task, template), found in data.found.items():
        entry = {"examples": len(found.examples), "source": found.source, **found.account.as_json()}
        templates.setdefault(task, {})[template] = entry
    missing: dict[str, dict[str, Any]] = {}
    for (task, template), reason in data.missing.items():
        missing.setdefault(task, {})[template] = reason
    made = {
        "model": session.described(arguments),
        "data": arguments.data,
        "templates": session.merged(folder, "templates", templates),
        "missing": session.merged(folder, "missing", missing),
        "strangers": data.strangers,
    }
    for task, row in made["templates"].items():
        for template in row:
            made["missing"].get(task, {}).pop(template, None)
    before = read_json(folder / RUN) if (folder / RUN).exists() else {}
    name = arguments.published or before.get("published")  # what an earlier run was told still holds
    choose_reference(made, name, arguments.trained_on or before.get("trained_on"), arguments.model)
    return made


def choose_reference(run: dict[str, Any], name: str | None, trained_on: str | None, model: str) -> None:
    """Puts the published model to compare with, and the training mixture, into run.json's content."""
    run["published"] = published.find(name, model)
    published.seen(trained_on, run["published"])
    run["trained_on"] = trained_on


def report(folder: pathlib.Path) -> int:
    """Writes and prints the report of a result folder, whatever is in it so far."""
    summary = t0.summarize(folder)
    files = reports.write(folder, summary)
    trouble = plot.missing()
    if trouble is None:
        name = f"{summary['model']['name']}".rstrip("/").rpartition("/")[2]
        files += plot.tasks(folder / "templates", [summary], [name])
    reports.show(reports.title(summary), reports.COLUMNS, reports.table(summary), reports.notes(summary))
    if trouble:
        print(trouble, file=sys.stderr)
    print(f"Files in {folder}: {', '.join(file.name for file in files)}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Says what the data folder holds of every task; 1 when something is missing or incomplete."""
    session.needed(arguments, "data")
    tasks, data = read(arguments)
    rows, hints, short = [], [], []
    for name, row in tasks.items():
        found = {t: data.found[name, t] for t in row.templates if (name, t) in data.found}
        counts = [len(f.examples) for f in found.values()]
        left_out = sum(len(p) for f in found.values() for p in f.account.left_out.values())
        whole = len(found) == len(row.templates) and set(counts) == {row.examples}
        status = "complete" if whole else "incomplete" if found else "missing"
        span = "0" if not counts else str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
        sources = sorted({f.source.partition(" (")[2].rstrip(")") or "JSON lines" for f in found.values()})
        templates = reports.of(len(found), len(row.templates))
        rows.append([name, status, templates, span, str(row.examples), str(left_out), ", ".join(sources) or "–"])
        if not whole:
            short.append(name)
            hints += _hints(name, row, data)
    columns = ("task", "status", "templates", "examples", "expected", "left out", "form")
    reports.show(f"T0 Eval in {arguments.data}", columns, rows, hints)
    for stranger, places in list(data.strangers.items())[:3]:
        print(f"{len(places)} lines of JSON belong to no task, such as {places[0]}: {stranger}")
    if short:
        print(f"{len(tasks) - len(short)} of {len(tasks)} tasks are complete; averages will say what they are over")
    return 1 if short else 0


def _hints(name: str, row: Any, data: Data) -> list[str]:
    """What is wrong with a task, and where to get it."""
    absent = [template for template in row.templates if (name, template) in data.missing]
    found = [f"{name}: {t0_data.where_to_get(name)}"] if absent else []
    if absent:
        found.append(f"{name}, template {absent[0]!r}: {data.missing[name, absent[0]]}")
    for template in row.templates:
        account = data.found[name, template].account if (name, template) in data.found else None
        for reason, places in account.left_out.items() if account else ():
            found.append(f"{name}, template {template!r}: {len(places)} left out, {reason} (first: {places[0]})")
    return found
