"""Several results of T0 Eval side by side: scores, differences from the first, and paired tests of them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metro_jax.data.t0 import catalogue
from metro_jax.evaluation import plot, statistics, t0
from metro_jax.evaluation.report import as_csv, as_markdown, number, show, span
from metro_jax.evaluation.results import RUN, Score, read_json, read_scores, write_json
from metro_jax.evaluation.statistics import Results

ALPHA = 0.05
SIGNIFICANT = "*"
Scores = Mapping[str, Mapping[str, Mapping[int, Score]]]


class Contender:
    """A result folder, with its scores by task."""

    def __init__(self, folder: pathlib.Path, name: str | None = None) -> None:
        if not (folder / RUN).exists():
            raise FileNotFoundError(f"{folder}: no result folder ({RUN} is missing); give the --out of an evaluation")
        self.folder, self.run = folder, read_json(folder / RUN)
        if self.run["identity"]["protocol"]["kind"] != t0.KIND:
            raise ValueError(f"{folder} holds no result of T0 Eval; compare takes those of `metro-jax eval t0`")
        own = self.run["model"]["name"]
        self.name = name or f"{own}".rstrip("/").rpartition("/")[2]
        keyed = read_scores(folder)
        self.digests = {key: score.digest for key, score in keyed.items()}
        self.scores = t0.by_template(keyed)

    def results(self, task: str, shared: set[tuple[str, str, int]]) -> Results:
        """Right and wrong on the shared examples of a task."""
        own = {
            template: {index: score for index, score in row.items() if (task, template, index) in shared}
            for template, row in self.scores.get(task, {}).items()
        }
        return statistics.tabulate(t0.right(own))


def compare(contenders: Sequence[Contender]) -> dict[str, Any]:
    """Every task on the examples that all contenders have, of which all must say the same.

    Raises:
        ValueError: an example says something else in one of them, or they share none.
    """
    shared = set.intersection(*(set(contender.digests) for contender in contenders))
    if not shared:
        raise ValueError("these results share no example: evaluate the same tasks and templates")
    for key in sorted(shared):
        if len({contender.digests[key] for contender in contenders}) > 1:
            task, template, index = key
            raise ValueError(
                f"example {index} of {task}, template {template!r}, does not say the same in all results: they were "
                "made from different data and cannot be compared"
            )
    tasks = [row.name for row in catalogue.evaluations() if any(key[0] == row.name for key in shared)]
    tables = [{task: contender.results(task, shared) for task in tasks} for contender in contenders]
    rows = [_task(task, [table[task] for table in tables]) for task in tasks]
    for place in range(1, len(contenders)):
        adjusted = statistics.adjusted([row["others"][place - 1]["p"] for row in rows])
        for row, p in zip(rows, adjusted, strict=True):
            row["others"][place - 1]["p_adjusted"] = p
    average = {"task": f"mean of {len(tasks)} tasks", **_average(tasks, tables, rows)}
    return {
        "contenders": [{"name": c.name, "folder": str(c.folder), "model": c.run["model"]} for c in contenders],
        "examples": len(shared),
        "left_aside": {c.name: len(c.digests) - len(shared) for c in contenders},
        "tasks": rows,
        "average": average,
    }


def _task(task: str, results: Sequence[Results]) -> dict[str, Any]:
    seed = statistics.seed_of(task)
    others = []
    for other in results[1:]:
        first, second = statistics.paired(results[0], other)
        # The same draws for both, so that what is hard for both does not count as a difference.
        moved = statistics.bootstrap(second, seed=seed) - statistics.bootstrap(first, seed=seed)
        others.append(
            {
                "difference": second.mean() - first.mean(),
                "interval": list(statistics.interval(moved)),
                "p": statistics.permutation_test(first, second, seed=seed),
                "templates": statistics.mcnemar(first, second),
            }
        )
    return {
        "task": task,
        "templates": len(results[0].templates),
        "examples": len(results[0].indices),
        "means": [own.mean() for own in results],
        "others": others,
    }


def _average(
    tasks: Sequence[str], tables: Sequence[Mapping[str, Results]], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Means over tasks and their differences, with intervals from draws within every task."""
    drawn = [
        np.mean([statistics.bootstrap(table[task], seed=statistics.seed_of(task)) for task in tasks], axis=0)
        for table in tables
    ]
    means = [float(np.mean([row["means"][n] for row in rows])) for n in range(len(tables))]
    others = [
        {"difference": means[n] - means[0], "interval": list(statistics.interval(drawn[n] - drawn[0]))}
        for n in range(1, len(tables))
    ]
    return {"means": means, "others": others}


def columns(names: Sequence[str]) -> list[str]:
    """The header of the table."""
    return [
        "task",
        "templates",
        "n",
        *names,
        *(c for name in names[1:] for c in (f"{name} - {names[0]}", "interval", "p")),
    ]


def table(made: Mapping[str, Any]) -> list[list[str]]:
    """A row per task, then the mean."""
    rows = []
    for row in (*made["tasks"], made["average"]):
        cells = [row["task"], str(row.get("templates", "")), str(row.get("examples", "")), *map(number, row["means"])]
        for other in row["others"]:
            p = other.get("p_adjusted")
            mark = SIGNIFICANT if p is not None and p < ALPHA else ""
            cells += [number(other["difference"], "+") + mark, span(other["interval"]), "" if p is None else f"{p:.4f}"]
        rows.append(cells)
    return rows


def notes(made: Mapping[str, Any]) -> list[str]:
    """How to read the table."""
    found = [
        f"Accuracy in percent, mean over templates, on the {made['examples']} results that all have in common.",
        "interval: of the difference, 95 % paired bootstrap over examples. p: paired permutation test over examples, "
        f"adjusted over the {len(made['tasks'])} tasks by Holm's method; {SIGNIFICANT} below {ALPHA}.",
    ]
    left = {name: count for name, count in made["left_aside"].items() if count}
    if left:
        found.append(f"Left aside: {', '.join(f'{count} of {name}' for name, count in left.items())}.")
    return found


def run(folders: Sequence[pathlib.Path], names: Sequence[str] | None, out: str | None) -> int:
    """Prints the comparison; writes comparison.json, .csv, .md and the plots where `out` says."""
    if len(folders) < 2:
        raise ValueError("a comparison needs at least two result folders")
    if names is not None and len(names) != len(folders):
        raise ValueError(
            f"--names has {len(names)} names for {len(folders)} results: give one for each, in their order"
        )
    contenders = [Contender(path, name) for path, name in zip(folders, names or [None] * len(folders), strict=True)]
    made = compare(contenders)
    labels = _distinct([contender.name for contender in contenders])
    show("T0 Eval, side by side", columns(labels), table(made), notes(made))
    if out is None:
        return 0
    target = pathlib.Path(out)
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / "comparison.json", made)
    (target / "comparison.csv").write_text(as_csv(columns(labels), table(made)), encoding="utf-8")
    text = as_markdown("T0 Eval, side by side", columns(labels), table(made), notes(made))
    (target / "comparison.md").write_text(text, encoding="utf-8")
    trouble = plot.missing()
    if trouble is None:
        plot.tasks(target / "comparison", [t0.summarize(contender.folder) for contender in contenders], labels)
    print(trouble or f"Files in {target}: comparison.json, .csv, .md, .pdf, .png")
    return 0


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that tell the results apart."""
    return [name if names.count(name) == 1 else f"{name} ({n})" for n, name in enumerate(names, 1)]
