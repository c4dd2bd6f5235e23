"""Finding tasks by name."""

import pytest

from metro_jax.data.lookup import find_task

PREPARED = "metro_jax.tasks.prepared"


def test_tasks_and_mixtures_are_found(data_folder):
    assert find_task("liked", PREPARED).name == "liked"
    assert {task.name for task in find_task("both", PREPARED).tasks} == {"liked", "stars"}
    assert find_task("metro_pretrain").name == "metro_pretrain"


def test_errors_name_what_would_be_right(data_folder):
    with pytest.raises(ValueError, match=r"'likd' is not registered.*liked"):
        find_task("likd", PREPARED)
    with pytest.raises(ValueError, match=r"'broken' cannot be used.*starz.*stars"):
        find_task("broken", PREPARED)
    with pytest.raises(ValueError, match=r"'metro_jax.tasks.nothing' cannot be imported"):
        find_task("liked", "metro_jax.tasks.nothing")


def test_a_folder_must_be_named(monkeypatch):
    monkeypatch.delenv("METRO_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match="METRO_DATA_DIR"):
        find_task("liked", PREPARED)
