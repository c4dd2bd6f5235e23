"""The report of MMLU: results.json, subjects.csv, report.md, and the table on the terminal."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from metro_jax.evaluation.report import MARKDOWN, POLICY, RESULTS, as_csv, as_markdown, number, of, span
from metro_jax.evaluation.results import write_json

SUBJECTS = "subjects.csv"
ABOVE, BELOW = "+", "-"
COLUMNS = ("subject", "accuracy", "interval", "correct", "n", "chance")


def table(summary: Mapping[str, Any]) -> list[list[str]]:
    """A row per subject in the order of the original's file, then the two averages."""
    rows = []
    for row in summary["subjects"]:
        mark = ABOVE if row["above_chance"] else BELOW if row["below_chance"] else ""
        cells = [row["subject"].replace("_", " "), number(row["accuracy"]), span(row["interval"])]
        rows.append(
            [*cells, str(row["correct"]), of(row["examples"], row["examples_of"]), f"{summary['chance']:.2f}{mark}"]
        )
    count = of(len(summary["subjects"]), summary["subjects_of"])
    mean = ["mean of the subjects", number(summary["mean_over_subjects"]), span(summary["mean_interval"])]
    micro = ["mean of all questions (micro)", number(summary["micro_accuracy"]), span(summary["micro_interval"])]
    total = of(summary["examples"]["scored"], summary["examples_of"])
    correct = str(sum(row["correct"] for row in summary["subjects"]))
    chance = number(summary["chance"])
    return [*rows, [*mean, "", f"{count} subjects", chance], [*micro, correct, total, chance]]


def notes(summary: Mapping[str, Any]) -> list[str]:
    """Protocol, intervals, and what is missing or was left out."""
    protocol, found = summary["protocol"], []
    scored, total = summary["examples"]["scored"], summary["examples"]["of"]
    if scored < total:
        found.append(f"NOT FINISHED: {scored} of {total} questions are scored; the same command goes on.")
    shots = ", ".join(f"{count} prompts with {shots}" for shots, count in summary["shots"].items())
    passages = "with passages" if protocol["passages"] else "without passages"
    found.append(
        f"protocol {protocol['name']}: {protocol['split']} split, {scored} questions, {protocol['shots']} shots "
        f"({shots}), prompt {protocol['prompt']}, {passages}, prompts cut to {protocol['max_source']} tokens, "
        f"{summary['model']['dtype']}."
    )
    found.append(
        "intervals: 95 %, Wilson's for subjects and questions, bootstrap within subjects for their mean; "
        f"{ABOVE} or {BELOW} where a subject's interval lies above or below chance."
    )
    if len(summary["subjects"]) < summary["subjects_of"] or scored < summary["examples_of"]:
        found.append("Not all of MMLU: such a mean compares only with one over the same questions.")
    problems = []
    for what, words in (("left_out", "left out"), ("noted", "kept and noted")):
        for row in summary["subjects"]:
            for reason, places in row[what].items():
                problems.append(f"{row['subject']}: {len(places)} {words}, {reason} (first: {places[0]}).")
    return [*found, *problems, POLICY] if problems else found


def write(folder: pathlib.Path, summary: Mapping[str, Any]) -> list[pathlib.Path]:
    """Writes every form of the report but the plot; returns the files."""
    write_json(folder / RESULTS, summary)
    names = ("subject", "examples", "correct", "accuracy", "above_chance", "below_chance")
    rows: list[Sequence[Any]] = [[*(row[name] for name in names), *row["interval"]] for row in summary["subjects"]]
    (folder / SUBJECTS).write_text(as_csv((*names, "low", "high"), rows), encoding="utf-8")
    text = as_markdown(summary["title"], COLUMNS, table(summary), notes(summary))
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    return [folder / name for name in (RESULTS, SUBJECTS, MARKDOWN)]
