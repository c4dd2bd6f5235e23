"""Stages are done once, go on where they were interrupted, and start anew when what went into them changed."""

import pathlib

import pytest

from metro_jax.quickstart.stages import FolderInUseError, StageFolder, fingerprint, write_text


@pytest.fixture
def stages(tmp_path: pathlib.Path) -> StageFolder:
    folder = StageFolder(tmp_path / "run")
    folder.prepare()
    return folder


def _produce(stages: StageFolder, text: str = "result") -> pathlib.Path:
    path = stages.folder / "out" / "file"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_finished_stage_gives_its_result(stages: StageFolder) -> None:
    assert stages.begin("one", "mark", ["out"]) is None
    path = _produce(stages)
    stages.end("one", "mark", {"steps": 3})
    assert stages.begin("one", "mark", ["out"]) == {"steps": 3}
    assert path.exists()


def test_an_interrupted_stage_keeps_what_it_left(stages: StageFolder) -> None:
    assert stages.begin("one", "mark", ["out"]) is None
    path = _produce(stages)
    assert StageFolder(stages.folder).begin("one", "mark", ["out"]) is None
    assert path.exists()


def test_other_settings_start_anew(stages: StageFolder) -> None:
    stages.begin("one", "mark", ["out"])
    path = _produce(stages)
    stages.end("one", "mark", {})
    assert stages.begin("one", "other mark", ["out"]) is None
    assert not path.exists()


def test_a_finished_stage_whose_files_are_gone_is_done_again(stages: StageFolder) -> None:
    stages.begin("one", "mark", ["out"])
    stages.end("one", "mark", {})
    assert stages.begin("one", "mark", ["out"]) is None


def test_a_damaged_marker_counts_as_none(stages: StageFolder) -> None:
    stages.begin("one", "mark", [])
    (marker,) = (stages.folder / ".stages").glob("one.json")
    marker.write_text('{"fingerprint": "ma')
    assert stages.read("one") is None
    assert stages.begin("one", "mark", []) is None


def test_a_folder_of_somebody_else_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="--out"):
        StageFolder(tmp_path).prepare()
    with pytest.raises(FileExistsError, match=r"thesis\.txt: is a file"):
        StageFolder(tmp_path / "thesis.txt").prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_at_once_are_refused(stages: StageFolder) -> None:
    with (
        stages.lock(),
        pytest.raises(FolderInUseError, match="another quickstart"),
        StageFolder(stages.folder).lock(patience=0.0),
    ):
        pass
    with stages.lock(patience=0.0):
        pass


def test_fingerprints_tell_values_apart() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len({fingerprint(1, "a"), fingerprint(1, "b"), fingerprint(2, "a"), fingerprint("1a")}) == 4


def test_files_are_written_as_a_whole(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
