"""Destinations appear complete or not at all, whatever was there before."""

import os
import stat

import pytest

from metro_jax.convert.errors import FolderExistsError
from metro_jax.convert.folders import MARKERS, complete_file, complete_folder

from .test_conversion import listing


def build(folder, **options):
    with complete_folder(folder, **options) as building:
        (building / "sub").mkdir()
        (building / "sub" / "data").write_text("new")
        (building / "config.json").write_text("{}")
        assert not (folder / "config.json").exists() or options  # not before the end


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_appears_at_the_end(tmp_path, empty):
    folder = tmp_path / "a" / "b"
    if empty:
        folder.mkdir(parents=True)
    build(folder)
    assert listing(tmp_path) == ["a", "a/b", "a/b/config.json", "a/b/sub", "a/b/sub/data"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", ["nothing", "empty", "checkpoint"])
def test_an_error_leaves_everything_as_it_was(tmp_path, error, before):
    folder = tmp_path / "a" / "b"
    if before != "nothing":
        folder.mkdir(parents=True)
    if before == "checkpoint":
        (folder / MARKERS[0]).write_text("old")
    there = listing(tmp_path)

    def fail():
        with complete_folder(folder, overwrite=True) as building:
            (building / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert listing(tmp_path) == there


def test_only_checkpoints_are_replaced_and_only_on_request(tmp_path):
    for marker in MARKERS:
        folder = tmp_path / marker.replace(".", "_")
        folder.mkdir()
        (folder / marker).write_text("old")
        (folder / "old").write_text("old")
        with pytest.raises(FolderExistsError, match="holds 2 entries"):
            build(folder)
        build(folder, overwrite=True)
        assert listing(folder) == ["config.json", "sub", "sub/data"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(FolderExistsError, match="not a checkpoint and is not replaced"):
        build(tmp_path / "mine", overwrite=True)


def test_a_file_appears_at_the_end(tmp_path):
    path = tmp_path / "a" / "x.pt"

    def fail():
        with complete_file(path) as building:
            building.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert listing(tmp_path) == []
    for text, overwrite in (("one", False), ("two", True)):
        with complete_file(path, overwrite=overwrite) as building:
            building.write_text(text)
        assert path.read_text() == text
    with pytest.raises(FolderExistsError, match="is there already"), complete_file(path):
        pass
    assert listing(tmp_path) == ["a", "a/x.pt"]
