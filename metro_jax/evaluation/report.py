"""What a result folder shows: results.json (complete), tables as CSV and Markdown, and the table on the terminal."""

import csv
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metro_jax.evaluation.examples import LEFT_OUT, NOTED
from metro_jax.evaluation.results import write_json

RESULTS, TASKS, TEMPLATES, MARKDOWN = "results.json", "tasks.csv", "templates.csv", "report.md"
SEEN, BEYOND, PARTIAL = "†", "*", "~"
POLICY = (
    f"Left out: {', '.join(LEFT_OUT)}. Kept and noted: {', '.join(NOTED)} (of equal choices the first counts). "
    "Accuracies are over the examples that are left."
)
COLUMNS = ("task", "mean", "interval", "median", "min", "max", "std", "templates", "n", "chance", "published", "diff")


def number(value: float | None, sign: str = "") -> str:
    """Two decimals, as the published tables have."""
    return "–" if value is None else f"{value:{sign}.2f}"


def span(interval: Sequence[float] | None) -> str:
    """An interval."""
    return "–" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def of(done: int, total: int) -> str:
    """How many of how many, where that differs."""
    return str(done) if done == total else f"{done} of {total}"


def table(summary: Mapping[str, Any]) -> list[list[str]]:
    """The rows of the main table, tasks in the order of the published tables, then the averages."""
    rows = []
    for row in summary["tasks"]:
        marks = (SEEN if row.get("seen_in_training") else "") + (PARTIAL if row["status"] == "partial" else "")
        cells = [f"{row['task']}{marks}", *_numbers(row)]
        chance = [entry["chance"] for entry in row["templates"] if "chance" in entry]
        cells += [of(row["templates_done"], row["templates_of"]), of(row["examples"], row["examples_of"])]
        cells += [number(sum(chance) / len(chance) if chance else None), *_published(row)]
        rows.append(cells)
    for average in summary["averages"]:
        cells = [f"mean of {average['over']}", number(average.get("mean")), span(average.get("interval"))]
        rows.append([*cells, "", "", "", "", "", "", "", *_published(average)])
    return rows


def _numbers(row: Mapping[str, Any]) -> list[str]:
    names = ("median", "min", "max", "std")
    return [number(row.get("mean")), span(row.get("interval")), *(number(row.get(name)) for name in names)]


def _published(row: Mapping[str, Any]) -> list[str]:
    difference = number(row.get("difference"), "+") + (BEYOND if row.get("beyond") else "")
    return [number(row.get("published")), difference]


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What the table's marks mean, what is missing, and what was left out."""
    tasks, found = summary["tasks"], []
    scored, total = summary["examples"]["scored"], summary["examples"]["of"]
    if scored < total:
        found.append(f"NOT FINISHED: {scored} of {total} examples are scored; the same command goes on.")
    found.append(
        f"interval: {100 * summary['level']:.0f} % bootstrap over examples, {summary['resamples']} resamples; "
        "std: across templates."
    )
    if any(row.get("seen_in_training") for row in tasks):
        found.append(f"{SEEN} seen in training.")
    if partial := [row["task"] for row in tasks if row["status"] == "partial"]:
        found.append(f"{PARTIAL} not all examples and templates: {', '.join(partial)}.")
    if summary["published"]:
        sources = sorted({row["published_source"] for row in tasks if row.get("published_source")})
        found.append(
            f"published: {summary['published']}, in percent, from its {' and '.join(sources)} "
            "(card: exact values of README or model card; paper: Table 2 of arXiv 2305.12567)."
        )
    if any(row.get("beyond") for row in (*tasks, *summary["averages"])):
        found.append(f"{BEYOND} the published value lies outside the interval.")
    for average in summary["averages"]:
        if average["missing"]:
            absent = ", ".join(average["missing"])
            found.append(f"No mean of {average['over']}: there is nothing of {absent} (--check says why).")
    found += _problems(tasks)
    if summary["strangers"]:
        first, places = next(iter(summary["strangers"].items()))
        lines = sum(map(len, summary["strangers"].values()))
        found.append(f"{lines} lines of JSON belong to no task ({places[0]}: {first}).")
    return found


def _problems(tasks: Iterable[Mapping[str, Any]]) -> list[str]:
    found = []
    for what, words in (("left_out", "left out"), ("noted", "kept and noted")):
        for row in tasks:
            for reason, count in row.get(what, {}).items():
                places = next(p[reason][0] for entry in row["templates"] if reason in (p := entry.get(what, {})))
                found.append(f"{row['task']}: {count} {words}, {reason} (first: {places}).")
    return [*found, POLICY] if found else []


def write(folder: pathlib.Path, summary: Mapping[str, Any]) -> list[pathlib.Path]:
    """Writes every form of the report but the plots; returns the files."""
    write_json(folder / RESULTS, summary)
    (folder / TASKS).write_text(_tasks_csv(summary), encoding="utf-8")
    names = ("template", "examples", "correct", "accuracy", "chance", "majority", "source")
    entries = [(row["task"], entry) for row in summary["tasks"] for entry in row["templates"]]
    rows = [[task, *(entry.get(name, "") for name in names)] for task, entry in entries]
    (folder / TEMPLATES).write_text(as_csv(("task", *names), rows), encoding="utf-8")
    text = as_markdown(title(summary), COLUMNS, table(summary), notes(summary))
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    return [folder / name for name in (RESULTS, TASKS, TEMPLATES, MARKDOWN)]


def _tasks_csv(summary: Mapping[str, Any]) -> str:
    """The main table in full precision."""
    names = ("status", "mean", "median", "min", "max", "std", "templates_done", "templates_of", "examples")
    names += ("examples_of", "published", "published_source", "difference", "beyond", "seen_in_training")
    rows = []
    for row in (*summary["tasks"], *({"task": f"mean of {a['over']}", **a} for a in summary["averages"])):
        low, high = row.get("interval") or ("", "")
        cells = [row.get(name) for name in names]
        rows.append([row["task"], low, high, *("" if cell is None else cell for cell in cells)])
    return as_csv(("task", "low", "high", *names), rows)


def title(summary: Mapping[str, Any]) -> str:
    """Headline of the table."""
    model = summary["model"]
    return f"T0 Eval of {model['name']}, {model['dtype']}{', int8' if model['quantize'] else ''}: accuracy in percent"


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values with a header."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue()


def as_markdown(headline: str, columns: Sequence[str], rows: Iterable[Sequence[str]], remarks: Sequence[str]) -> str:
    """A table with its title and notes."""
    lines = [f"# {headline}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"* {remark}" for remark in remarks)]) + "\n"


def show(headline: str, columns: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> None:
    """The same on the terminal."""
    import rich.console
    import rich.table
    import rich.text

    made = rich.table.Table(title=headline, title_justify="left", pad_edge=False)
    for name in columns:
        made.add_column(
            name, justify="left" if name in ("task", "subject", "model") else "right", no_wrap=name != "task"
        )
    for row in rows:
        if row[0].startswith("mean of") and made.row_count and not rows[made.row_count - 1][0].startswith("mean of"):
            made.add_section()
        made.add_row(*map(rich.text.Text, row))
    console = rich.console.Console()
    if console.width < made.__rich_measure__(console, console.options).maximum:
        console = rich.console.Console(width=150)  # a table that is cut is no table
    console.print(made)
    for remark in remarks:
        console.print(rich.text.Text(remark), soft_wrap=True)
