"""Means over the templates of T0 Eval."""

import json

import pytest

from metro_jax.data.t0 import catalogue
from metro_jax.data.t0.summary import evaluation_means


def test_a_task_is_the_mean_of_its_templates_and_the_whole_that_of_the_tasks():
    rows = {row.name: list(row.tasks.values()) for row in catalogue.evaluations()}
    results = {task: {"accuracy": 50.0 + number, "examples": 277.0} for number, task in enumerate(rows["rte"][:3])}
    results |= {rows["copa"][0]: {"accuracy": 70.0}, "another": {"accuracy": 1.0}, rows["wic"][0]: {"f1": 2.0}}
    assert evaluation_means(results) == {
        "t0_eval_rte": {"accuracy": 51.0, "templates": 3},
        "t0_eval_copa": {"accuracy": 70.0, "templates": 1},
        "t0_eval": {"accuracy": 60.5, "tasks": 2},
    }
    assert evaluation_means({"another": {"accuracy": 1.0}}) == {}


@pytest.mark.golden
def test_published_averages(golden_dir):
    """The published value of a task at each of its templates gives the published overall value."""
    results = json.loads((golden_dir / "t0_eval.json").read_text())["results"]
    complete = {name: model for name, model in results.items() if model["overall"] is not None}
    assert complete
    for name, model in complete.items():
        tasks = catalogue.evaluation_tasks().items()
        means = evaluation_means({task: {"accuracy": model["values"][row.name]} for task, row in tasks})
        overall = means.pop("t0_eval")
        assert overall == {"accuracy": pytest.approx(model["overall"], abs=0.006), "tasks": 11}, name  # two decimals
        assert sum(mean["templates"] for mean in means.values()) == len(tasks)
