"""T0 Eval: from scores on disk to the table of 11 tasks beside the published values (spec 8.1)."""

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metro_jax.data.t0 import catalogue
from metro_jax.evaluation import published, statistics
from metro_jax.evaluation.results import FORMAT, RUN, Score, read_json, read_scores
from metro_jax.evaluation.statistics import LEVEL, RESAMPLES, Results

KIND = "t0"
PROTOCOL = {"kind": KIND, "score": "sum of log-probabilities with eos, no length normalisation, first argmax"}
MAX_SOURCE, MAX_CHOICE = 512, 256  # tokens (spec 8.1)
COMPLETE, PARTIAL, MISSING = "complete", "partial", "missing"


def by_template(scores: Mapping[tuple[str, str, int], Score]) -> dict[str, dict[str, dict[int, Score]]]:
    """Task -> template -> example -> result."""
    found: dict[str, dict[str, dict[int, Score]]] = collections.defaultdict(lambda: collections.defaultdict(dict))
    for (task, template, index), score in scores.items():
        found[task][template][index] = score
    return found


def right(scores: Mapping[str, Mapping[int, Score]]) -> dict[str, dict[int, bool]]:
    """Template -> example -> whether the best choice is the target."""
    return {t: {index: score.best == score.target for index, score in row.items()} for t, row in scores.items()}


def summarize(folder: pathlib.Path, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Everything there is to report of a result folder; results.json is this.

    Raises:
        ValueError: nothing was scored yet.
    """
    run = read_json(folder / RUN)
    scores = by_template(read_scores(folder))
    if not scores:
        raise ValueError(f"{folder} holds no result yet: run metro-jax eval t0 with --out {folder} first")
    reference = published.tables()["models"].get(run["published"] or "")
    seen = published.seen(run.get("trained_on"), run["published"])
    rows, replicates = [], {}
    for evaluation in catalogue.evaluations():
        manifest = run["templates"].get(evaluation.name, {})
        own = {t: scores[evaluation.name][t] for t in evaluation.templates if t in scores.get(evaluation.name, {})}
        row = _task(evaluation, manifest, own, run["missing"].get(evaluation.name, {}))
        if seen is not None:
            row["seen_in_training"] = evaluation.name in seen
        if own:
            results = statistics.tabulate(right(own))
            replicates[evaluation.name] = statistics.bootstrap(results, resamples, statistics.seed_of(evaluation.name))
            row |= _numbers(results, replicates[evaluation.name])
        if reference:
            row |= _beside(row, reference["values"][evaluation.name], reference["source"][evaluation.name])
        rows.append(row)
    return {
        "format": FORMAT,
        "kind": KIND,
        **{name: run[name] for name in ("identity", "model", "published", "strangers")},
        "level": LEVEL,
        "resamples": resamples,
        "examples": {"scored": sum(len(t) for task in scores.values() for t in task.values()), "of": _wanted(run)},
        "tasks": rows,
        "averages": _averages(rows, replicates, reference),
    }


def _wanted(run: Mapping[str, Any]) -> int:
    return sum(template["examples"] for task in run["templates"].values() for template in task.values())


def _task(
    evaluation: catalogue.Evaluation,
    manifest: Mapping[str, Any],
    scores: Mapping[str, Mapping[int, Score]],
    missing: Mapping[str, str],
) -> dict[str, Any]:
    """What is there of a task, and its templates one by one."""
    templates = []
    for name in evaluation.templates:
        own = scores.get(name, {})
        entry: dict[str, Any] = {"template": name, "examples": len(own)}
        if own:
            hits = sum(score.best == score.target for score in own.values())
            entry |= {"correct": hits, "accuracy": 100.0 * hits / len(own), **_baselines(own)}
        if name in manifest:
            entry |= manifest[name] | {"examples": len(own), "in_data": manifest[name]["examples"]}
        elif name in missing:
            entry["missing"] = missing[name]
        templates.append(entry)
    counts = [entry["examples"] for entry in templates if entry["examples"]]
    whole = len(counts) == len(evaluation.templates) and min(counts) == evaluation.examples
    return {
        "task": evaluation.name,
        "dataset": evaluation.dataset,
        "subset": evaluation.subset,
        "split": evaluation.split,
        "status": MISSING if not counts else COMPLETE if whole else PARTIAL,
        "examples": min(counts, default=0),
        "examples_of": evaluation.examples,
        "templates_done": len(counts),
        "templates_of": len(evaluation.templates),
        "left_out": _counts(templates, "left_out"),
        "noted": _counts(templates, "noted"),
        "templates": templates,
    }


def _baselines(scores: Mapping[int, Score]) -> dict[str, float]:
    """What guessing gives, and always answering with the choice that is most often right."""
    targets = collections.Counter(score.target for score in scores.values())
    chance = np.mean([1.0 / len(score.scores) for score in scores.values()])
    return {"chance": 100.0 * float(chance), "majority": 100.0 * max(targets.values()) / len(scores)}


def _counts(templates: Sequence[Mapping[str, Any]], what: str) -> dict[str, int]:
    total: collections.Counter[str] = collections.Counter()
    for entry in templates:
        for reason, places in entry.get(what, {}).items():
            total[reason] += len(places)
    return dict(total)


def _numbers(results: Results, replicates: np.ndarray) -> dict[str, Any]:
    accuracies = results.accuracies()
    return {**statistics.spread(accuracies), "interval": list(statistics.interval(replicates))}


def _beside(row: Mapping[str, Any], value: float | None, source: str | None) -> dict[str, Any]:
    """The published value; a difference beyond the interval is flagged."""
    found: dict[str, Any] = {"published": value, "published_source": source}
    if value is not None and "mean" in row:
        low, high = row["interval"]
        found |= {"difference": row["mean"] - value, "beyond": not low <= value <= high}
    return found


def _averages(
    rows: Sequence[Mapping[str, Any]], replicates: Mapping[str, np.ndarray], reference: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Means over tasks: of all 11, of those that are there, of those that training did not show."""
    present = [row["task"] for row in rows if row["status"] != MISSING]
    absent = [row["task"] for row in rows if row["status"] == MISSING]
    chosen = {"all 11 tasks": None if absent else present}
    if absent:
        chosen[f"the tasks that are here ({len(present)})"] = present
    fresh = [row["task"] for row in rows if row["task"] in present and not row.get("seen_in_training", True)]
    if fresh and len(fresh) < len(present):
        chosen[f"those not seen in training ({len(fresh)})"] = fresh
    means = {row["task"]: row["mean"] for row in rows if "mean" in row}
    made = []
    for name, tasks in chosen.items():
        entry: dict[str, Any] = {"over": name, "tasks": tasks, "missing": absent if tasks is None else []}
        if tasks:
            entry["partial"] = [row["task"] for row in rows if row["task"] in tasks and row["status"] == PARTIAL]
            entry["mean"] = float(np.mean([means[task] for task in tasks]))
            # Tasks are drawn independently of each other.
            entry["interval"] = list(statistics.interval(np.mean([replicates[task] for task in tasks], axis=0)))
        if reference:
            entry |= _beside(entry, *_published_average(tasks or [row["task"] for row in rows], reference))
        made.append(entry)
    return made


def _published_average(tasks: Sequence[str], reference: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """The published average of these tasks: as printed for all of them, computed from the values for some."""
    values = [reference["values"][task] for task in tasks]
    if len(tasks) == len(reference["values"]) and reference["overall"] is not None:
        return reference["overall"], "as published"
    if any(value is None for value in values):
        return None, None
    return float(np.mean(values)), "mean of the published values of these tasks"
