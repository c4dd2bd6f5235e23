"""Registering whatever lies in the data folder."""

import pytest
import seqio

from metro_jax.data import records
from metro_jax.tasks import data_dir, prepared


def test_everything_in_the_folder_is_registered(data_folder):
    unusable = prepared.refresh()
    assert set(unusable) == {"broken", "broken_epochs"}
    assert "starz" in unusable["broken"]
    tasks, mixtures = seqio.TaskRegistry.names(), seqio.MixtureRegistry.names()
    expected = {"metro_pretrain", "t5_pretrain", "metro_pretrain_letters", "t5_pretrain_letters", "liked", "stars"}
    assert expected | {"liked_score_eval"} <= set(tasks)
    assert {"both", "own_caps", "partial"} <= set(mixtures)
    assert {"both_epochs", "own_caps_epochs", "partial_epochs"} <= set(tasks)
    assert seqio.TaskRegistry.get("both_epochs").num_input_examples("train") == 24
    assert "broken" not in mixtures
    assert [task.name for task in seqio.MixtureRegistry.get("partial").tasks] == ["liked"]
    both = seqio.MixtureRegistry.get("both")
    assert {task.name: both.get_rate(task) for task in both.tasks} == {"liked": 16.0, "stars": 8.0}


def test_tasks_written_later_are_found_after_a_refresh(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("METRO_DATA_DIR", str(tmp_path))
    assert prepared.refresh() == {}
    records.write_prompted(tmp_path, "late_task", "train", [("a", "yes")], tokenizer, progress=False)
    prepared.refresh()
    assert seqio.TaskRegistry.get("late_task").splits == ("train",)


def test_a_folder_can_be_pinned(prepared_folder_twice):
    one, other = prepared_folder_twice
    prepared.register_folder(one)
    assert seqio.TaskRegistry.get("pinned").num_input_examples("train") == 1
    prepared.register_folder(other)
    assert seqio.TaskRegistry.get("pinned").num_input_examples("train") == 2


@pytest.fixture
def prepared_folder_twice(tmp_path, tokenizer, monkeypatch):
    monkeypatch.delenv("METRO_DATA_DIR", raising=False)
    for number, name in enumerate(("one", "other"), start=1):
        records.write_prompted(tmp_path / name, "pinned", "train", [("a", "yes")] * number, tokenizer, progress=False)
    return tmp_path / "one", tmp_path / "other"


def test_the_folder_is_named_in_one_place(data_folder):
    assert data_dir() == data_folder
