"""The table of T0 Eval: means over templates, intervals, published values, averages that say what they are over."""

import json
import pathlib

import numpy as np
import pytest

from metro_jax.data.t0 import catalogue
from metro_jax.evaluation import published, t0
from tests.evaluation import simulated


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("whole")
    simulated.write(folder, simulated.published_shares("t0pp_basepp"), 50, "a/metro_t0pp_basepp", "t0pp_basepp")
    return t0.summarize(folder, resamples=200)


def test_a_task_is_the_mean_over_its_templates(summary: dict) -> None:
    assert [row["task"] for row in summary["tasks"]] == [row.name for row in catalogue.evaluations()]
    for row in summary["tasks"]:
        values = [100 * entry["correct"] / entry["examples"] for entry in row["templates"]]
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["median"] == pytest.approx(np.median(values))
        assert (row["min"], row["max"]) == (min(values), max(values))
        assert row["interval"][0] <= row["mean"] <= row["interval"][1]
        assert row["templates_done"] == row["templates_of"] == len(values)
    overall = summary["averages"][0]
    assert overall["over"] == "all 11 tasks"
    assert overall["mean"] == pytest.approx(np.mean([row["mean"] for row in summary["tasks"]]))
    # Independent tasks: the mean of eleven moves much less than one of them.
    widths = [row["interval"][1] - row["interval"][0] for row in summary["tasks"]]
    assert overall["interval"][1] - overall["interval"][0] < 0.6 * np.mean(widths)


def test_published_values_stand_beside(summary: dict) -> None:
    expected = published.tables()["models"]["t0pp_basepp"]
    for row in summary["tasks"]:
        assert row["published"] == expected["values"][row["task"]]
        assert row["difference"] == pytest.approx(row["mean"] - row["published"])
        assert row["beyond"] == (not row["interval"][0] <= row["published"] <= row["interval"][1])
    assert summary["averages"][0]["published"] == expected["overall"] == 62.78
    seen = {row["task"] for row in summary["tasks"] if row["seen_in_training"]}
    assert seen == {"hellaswag", "story_cloze", "wsc", "copa", "wic"}
    fresh = summary["averages"][1]
    assert fresh["over"] == "those not seen in training (6)"
    assert set(fresh["tasks"]).isdisjoint(seen)
    assert fresh["published"] == pytest.approx(np.mean([expected["values"][task] for task in fresh["tasks"]]))


def test_baselines(summary: dict) -> None:
    for row, evaluation in zip(summary["tasks"], catalogue.evaluations(), strict=True):
        for entry in row["templates"]:
            assert entry["chance"] == pytest.approx(100 / evaluation.choices)
            assert entry["majority"] >= entry["chance"]


def test_missing_tasks_leave_no_average_of_eleven(tmp_path: pathlib.Path) -> None:
    shares = simulated.published_shares("t0_base")
    del shares["story_cloze"]
    simulated.write(tmp_path, shares, 20, "a/metro_t0_base", "t0_base")
    found = t0.summarize(tmp_path, resamples=50)
    row = next(row for row in found["tasks"] if row["task"] == "story_cloze")
    assert (row["status"], row["examples"], row["templates_done"]) == ("missing", 0, 0)
    assert row["templates"][0]["missing"] == "not there"
    assert row["published"] == pytest.approx(82.405, abs=1e-3)
    whole, here = found["averages"]
    assert (whole["over"], whole["missing"]) == ("all 11 tasks", ["story_cloze"])
    assert "mean" not in whole
    assert whole["published"] == pytest.approx(49.766, abs=1e-3)
    assert here["over"] == "the tasks that are here (10)"
    values = published.tables()["models"]["t0_base"]["values"]
    assert here["published"] == pytest.approx(np.mean([values[task] for task in here["tasks"]]))


def test_whole_tasks_are_told_from_parts(tmp_path: pathlib.Path) -> None:
    simulated.write(tmp_path, {"cb": 0.5, "copa": 0.7}, name="m")
    found = {row["task"]: row for row in t0.summarize(tmp_path, resamples=20)["tasks"]}
    assert (found["cb"]["status"], found["cb"]["examples"]) == ("complete", 56)
    (part,) = (tmp_path / "scores").iterdir()
    lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(line for line in lines if json.loads(line)["index"] < 90))
    found = {row["task"]: row for row in t0.summarize(tmp_path, resamples=20)["tasks"]}
    assert (found["cb"]["status"], found["copa"]["status"], found["copa"]["examples"]) == ("complete", "partial", 90)
    assert "published" not in found["cb"]
    assert "seen_in_training" not in found["cb"]


@pytest.mark.golden
def test_published_values_are_those_of_the_reference(golden_dir: pathlib.Path) -> None:
    golden = json.loads((golden_dir / "t0_eval.json").read_text())
    ours = published.tables()
    assert ours["order"] == golden["order"] == [row.name for row in catalogue.evaluations()]
    assert set(ours["models"]) == set(golden["results"])
    assert len(ours["models"]) == 9
    for name, row in golden["results"].items():
        assert {key: ours["models"][name][key] for key in row} == row
    for row, task in zip(catalogue.evaluations(), golden["tasks"], strict=True):
        assert (row.dataset, row.subset, row.split) == (task["dataset"], task["config"], task["split"])
        assert (row.examples, row.choices) == (task["n_examples"], task["n_choices"])
        assert list(row.templates) == task["templates"]


@pytest.mark.parametrize("name", ["t0_base", "t0_basepp", "t0p_basepp", "t0pp_basepp", "t0_largepp", "t0pp_largepp"])
def test_published_averages_are_means_of_the_published_values(name: str) -> None:
    row = published.tables()["models"][name]
    assert row["overall"] == pytest.approx(np.mean(list(row["values"].values())), abs=0.006)
