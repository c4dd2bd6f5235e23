"""Tasks, mixtures and caps of T0, from the data files."""

import json
import subprocess
import sys

import pytest

from metro_jax.data.t0 import catalogue


def test_the_table_has_the_datasets_of_t0():
    rows = catalogue.datasets()
    assert len(rows) == len({(row.name, row.subset) for row in rows}) == 66
    assert {row.train for row in rows} == {"BASE", "GPT_EVAL", "SGLUE", ""}
    assert {row.evaluation for row in rows} == {"BASE", "BIAS_FAIRNESS", ""}


def test_names_are_cleaned():
    assert catalogue.task_name("super_glue", "wsc.fixed", "p is/are r") == "super_glue_wsc.fixed_p_is_are_r"
    assert catalogue.task_name("trec", None, "what?? (one)") == "trec_what_one_"


def test_no_excluded_name_is_in_a_mixture():
    excluded = catalogue.exclusions()
    assert {name: len(names) for name, names in excluded.items()} == {
        "blacklist": 24,
        "train_eval_tasks": 17,
        "train_eval_datasets": 14,
    }
    assert not set(excluded["blacklist"]) & {task.name for task in catalogue.tasks()}


def test_a_cap_is_shared_by_the_tasks_of_a_dataset():
    chosen = [task for task in catalogue.tasks() if task.dataset in ("trec", "imdb")][:20]
    caps = catalogue.caps(chosen)
    imdb = [task for task in chosen if task.dataset == "imdb"]
    assert {caps[task.name] for task in imdb} == {500_000 // len(imdb)}


def test_evaluation_tasks_are_named_as_in_p3():
    names = catalogue.evaluation_tasks()
    assert len(names) == 112
    assert names["anli_MNLI_crowdsource_r2_score_eval"].name == "anli_r2"
    assert names["super_glue_rte_can_we_infer_score_eval"].choices == 2
    assert names["hellaswag_complete_first_then_score_eval"].subset is None


def test_nothing_heavy_is_imported():
    code = "import sys, metro_jax.data.t0.catalogue as c; c.mixtures(); print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.golden
def test_golden_mixtures(golden_dir):
    expected = json.loads((golden_dir / "t0_mixtures.json").read_text())
    for name, rows in expected.items():
        if name == catalogue.TRAIN_EVAL:
            found = catalogue.train_eval_tasks()
        else:
            found = catalogue.training_tasks(name)
            assert catalogue.caps(found) == {row["task"]: row["cap"] for row in rows}
            assert [(t.original_task, t.answer_choices) for t in found] == [
                (row["original_task"], row["has_answer_choices"]) for row in rows
            ]
        assert [(t.name, t.dataset, t.subset, t.template) for t in found] == [
            (row["task"], row["dataset"], row["subset"], row["template"]) for row in rows
        ]


@pytest.mark.golden
def test_golden_evaluation_tasks(golden_dir):
    expected = json.loads((golden_dir / "t0_eval.json").read_text())
    found = catalogue.evaluations()
    assert [task.name for task in found] == expected["order"]
    for task, row in zip(found, expected["tasks"], strict=True):
        assert (task.dataset, task.subset, task.split) == (row["dataset"], row["config"], row["split"])
        assert (task.examples, task.choices) == (row["n_examples"], row["n_choices"])
        assert list(task.templates) == row["templates"]
