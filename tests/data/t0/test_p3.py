"""P3 on disk, in both layouts, and what can be wrong with it."""

import shutil

import pytest

from metro_jax.data.t0 import p3
from tests.data import p3_files


def texts(split):
    return [row for row, _ in p3.rows(split)]


def test_both_layouts_give_the_same_rows(p3_folder):
    assert p3.task_names(p3_folder) == sorted(p3_files.TASKS | p3_files.RANKED)
    for task, (names, choices) in p3_files.TASKS.items():
        found = p3.splits(p3_folder, task)
        assert set(found) == set(names)
        for name, split in found.items():
            assert texts(split) == [
                p3.Row(row["inputs_pretokenized"], row["targets_pretokenized"], tuple(choices or ()))
                for row in p3_files.rows(task, name, 12)
            ]
    (split,) = p3.splits(p3_folder, "anli_MNLI_crowdsource_r1_score_eval").values()
    rows = texts(split)
    assert [row.idx for row in rows[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert sum(row.is_correct for row in rows) == 12


def test_the_folder_of_the_tasks_will_do_too(p3_folders):
    inner = p3_folders["tfrecord"] / "data"
    assert p3.splits(inner, "samsum_Summarize_").keys() == {"train", "validation"}
    assert p3.splits(inner, "nothing") == {}


def test_the_bytes_read_add_up_to_the_files(p3_folder):
    split = p3.splits(p3_folder, "samsum_Summarize_")["train"]
    assert sum(size for _, size in p3.rows(split)) == pytest.approx(split.size, rel=0.01)


@pytest.fixture
def broken(tmp_path, p3_folder):
    folder = tmp_path / "p3"
    shutil.copytree(p3_folder, folder)
    return folder, p3.task_folder(folder, "samsum_Summarize_")


def test_missing_shards_are_noticed(broken):
    folder, where = broken
    next(path for path in sorted(where.iterdir()) if path.name.startswith("train")).unlink()
    with pytest.raises(p3.BrokenSplitError, match=r"has [01] of [12] .* files"):
        p3.splits(folder, "samsum_Summarize_")


def test_pointers_of_git_lfs_are_no_data(broken):
    folder, where = broken
    path = next(path for path in sorted(where.iterdir()) if path.name.startswith("train"))
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")
    with pytest.raises(p3.BrokenSplitError, match="git lfs pull"):
        p3.splits(folder, "samsum_Summarize_")


def test_damaged_files_are_named(broken):
    folder, where = broken
    path = next(path for path in sorted(where.iterdir()) if path.name.startswith("train"))
    content = path.read_bytes()
    path.write_bytes(content[:60] + bytes(40) + content[100:-30])
    with pytest.raises(p3.BrokenSplitError, match=path.name):
        texts(p3.splits(folder, "samsum_Summarize_")["train"])


def test_text_must_be_there_and_valid(tmp_path):
    p3_files.write_split(tmp_path, "tfrecord", "a_task", "train", [{"inputs": [5], "targets": [6]}])
    with pytest.raises(p3.BrokenSplitError, match="inputs_pretokenized"):
        texts(p3.splits(tmp_path, "a_task")["train"])
    assert p3._row({"inputs_pretokenized": b"\xff", "targets_pretokenized": b"a"}, "file") == "invalid UTF-8"
