"""The data folder: how it is named and what is found in it."""

import gin
import pytest

from metro_jax.data import folder


def test_gin_goes_before_the_environment(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setenv("METRO_DATA_DIR", str(tmp_path / "a"))
    assert folder.data_dir().name == "a"
    try:
        gin.parse_config(f"import metro_jax.tasks\ndata_dir.path = '{tmp_path / 'b'}'")
        assert folder.data_dir().name == "b"
    finally:
        gin.clear_config()


def test_a_folder_must_be_named_and_exist(tmp_path, monkeypatch):
    monkeypatch.delenv("METRO_DATA_DIR", raising=False)
    with pytest.raises(folder.NoDataFolderError, match="METRO_DATA_DIR"):
        folder.data_dir()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder.data_dir(tmp_path / "nowhere")


def test_tasks_are_found_with_their_kinds(prepared, tmp_path):
    root = folder.data_dir(prepared)
    kinds = folder.prepared_tasks(root)
    assert kinds == {
        "corpus": "documents",
        "letters": "documents",
        "liked": "prompted",
        "stars": "prompted",
        "liked_score_eval": "ranked",
    }
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "info.train.json").write_text('{"num_shards": 1}')
    assert folder.prepared_tasks(folder.data_dir(tmp_path)) == {}


def test_missing_tasks_and_splits_are_named_with_what_there_is(prepared):
    root = folder.data_dir(prepared)
    with pytest.raises(FileNotFoundError, match=r"'likd'.*liked"):
        folder.read_info(root, "likd", "train")
    with pytest.raises(FileNotFoundError, match=r"'test'.*train"):
        folder.read_info(root, "liked", "test")


def test_nearest_says_something_for_every_case():
    assert "known names are alpha, beta" in folder.nearest("zzz", ["beta", "alpha"])
    assert folder.nearest("alpa", ["beta", "alpha"]) == "the nearest known names are alpha"
    assert folder.nearest("alpa", []) == "there are none"


def test_mixtures_are_merged_and_checked(tmp_path):
    root = folder.data_dir(tmp_path)
    assert folder.read_mixtures(root) == {}
    folder.write_mixtures(tmp_path, {"a": {"tasks": ["x"]}})
    folder.write_mixtures(tmp_path, {"b": {"tasks": ["y"]}, "a": {"tasks": ["z"], "cap": 3}})
    assert folder.read_mixtures(root) == {"a": {"tasks": ["z"], "cap": 3}, "b": {"tasks": ["y"]}}
    assert [path.name for path in tmp_path.iterdir()] == ["mixtures.json"]
    (tmp_path / "mixtures.json").write_text('{"a": ["x"]}')
    with pytest.raises(ValueError, match="'a' needs"):
        folder.read_mixtures(root)
    (tmp_path / "mixtures.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        folder.read_mixtures(root)
