"""The report in all its forms says the same, and says what is missing."""

import csv
import json
import pathlib

import pytest

from metro_jax.evaluation import plot, report, t0
from tests.evaluation import simulated


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("report")
    shares = {task: share for task, share in simulated.published_shares("t0pp_basepp").items() if task != "story_cloze"}
    simulated.write(path, shares | {"rte": 0.4}, 30, "a/metro_t0pp_basepp", "t0pp_basepp")
    run = json.loads((path / "run.json").read_text())
    run["templates"]["cb"]["can we infer"]["left_out"] = {"broken record": ["x, line 3: no JSON", "x, line 9: no JSON"]}
    run["templates"]["cb"]["can we infer"]["noted"] = {"empty prompt": ["x, line 4"]}
    run["strangers"] = {"no task of T0 Eval is called 'boolq'": ["more.jsonl, line 1"]}
    run["templates"]["wic"]["same_sense"]["examples"] = 40
    (path / "run.json").write_text(json.dumps(run))
    return path


def test_tables_and_notes(folder: pathlib.Path) -> None:
    summary = t0.summarize(folder, resamples=100)
    files = report.write(folder, summary)
    assert json.loads((folder / "results.json").read_text())["tasks"][0]["task"] == "rte"
    rows = list(csv.DictReader((folder / "tasks.csv").read_text().splitlines()))
    assert len(rows) == 11 + 3
    assert float(rows[0]["mean"]) == pytest.approx(summary["tasks"][0]["mean"])
    assert rows[0]["beyond"] == "True"
    templates = list(csv.DictReader((folder / "templates.csv").read_text().splitlines()))
    assert len(templates) == 112
    assert {row["template"] for row in templates if row["task"] == "copa"} >= {"C1 or C2? premise, so/because…"}
    text = (folder / "report.md").read_text()
    assert text.startswith("# T0 Eval of a/metro_t0pp_basepp, float32")
    for words in (
        "| wsc†~ |",
        "| mean of all 11 tasks | – |",
        "| mean of the tasks that are here (10) |",
        "NOT FINISHED",
        "No mean of all 11 tasks: there is nothing of story_cloze",
        "cb: 2 left out, broken record (first: x, line 3: no JSON).",
        "cb: 1 kept and noted, empty prompt (first: x, line 4).",
        "Left out: broken record, target not among the choices",
        "1 lines of JSON belong to no task (more.jsonl, line 1: no task of T0 Eval is called 'boolq')",
        "* the published value lies outside the interval",
    ):
        assert words in text
    assert {file.name for file in files} == {"results.json", "tasks.csv", "templates.csv", "report.md"}


def test_the_terminal_shows_the_whole_table(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = t0.summarize(folder, resamples=20)
    report.show(report.title(summary), report.COLUMNS, report.table(summary), report.notes(summary))
    said = capsys.readouterr().out
    assert all(name in said for name in report.COLUMNS)
    assert "…" not in said.split("interval: 95")[0]


def test_plots_of_several_results(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    summary = t0.summarize(folder, resamples=20)
    files = plot.tasks(tmp_path / "three", [summary] * 3, ["first", "second", "third"])
    assert [file.name for file in files] == ["three.pdf", "three.png"]
    assert files[0].read_bytes().startswith(b"%PDF")
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_every_template_is_a_dot(folder: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    summary = t0.summarize(folder, resamples=20)
    figure, axis = plt.subplots()
    plot._panel(axis, "cb", [summary])
    row = next(row for row in summary["tasks"] if row["task"] == "cb")
    dots = axis.collections[0].get_offsets()
    assert sorted(dots[:, 1]) == pytest.approx(sorted(entry["accuracy"] for entry in row["templates"]))
    heights = [line.get_ydata()[0] for line in axis.lines]
    assert heights == pytest.approx([row["median"], row["published"], 100 / 3])
    plt.close(figure)
