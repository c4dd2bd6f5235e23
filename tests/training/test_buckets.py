"""gs:// paths reach the file system as they are: a bucket that is a folder of this machine, under etils' paths.

What TensorFlow's and TensorStore's own drivers do with such a path is theirs, and not tried here.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from etils import epath
from etils.epath import backend, gpath
from orbax.checkpoint._src.path import gcs_utils

from metro_jax.data.folder import data_dir, prepared_tasks, read_info, read_mixtures, splits
from metro_jax.data.vocabulary import MetroVocabulary
from metro_jax.training import gin_utils
from metro_jax.training.checkpoint_paths import absolute, checkpoint_steps, data_shards, find_checkpoints
from metro_jax.training.checkpoints import Checkpointer
from metro_jax.training.errors import UserError
from metro_jax.training.loop import copy_tree
from metro_jax.training.progress import METRICS_FILE, _rewrite
from tests.training.data_folder import make_data_folder

BUCKET = "gs://bucket"


class _FolderAsBucket:
    """Names of a bucket's objects are files below `root`; any other path is an error."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self._files = root, backend._OsPathBackend()

    def _local(self, path: Any) -> str:
        name = os.fspath(path)
        assert name.startswith(f"{BUCKET}/"), name
        return str(self.root / name.removeprefix(f"{BUCKET}/"))

    def glob(self, path: Any) -> list[str]:
        return [found.replace(str(self.root), BUCKET, 1) for found in self._files.glob(self._local(path))]

    def __getattr__(self, name: str) -> Any:
        def call(path: Any, *rest: Any, **options: Any) -> Any:
            moved = [self._local(word) if name in ("copy", "rename", "replace") else word for word in rest]
            return getattr(self._files, name)(self._local(path), *moved, **options)

        return call


@pytest.fixture
def bucket(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """The folder that stands for gs://bucket."""
    root = tmp_path / "bucket"
    root.mkdir()
    fake = _FolderAsBucket(root)
    monkeypatch.setattr(gpath.backend_lib, "tf_backend", fake)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", fake)
    # Orbax asks the server what kind of bucket it is, through google-cloud-storage (the extra `tpu`).
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    monkeypatch.chdir(tmp_path)
    yield root
    assert not list(tmp_path.glob("gs:*")), "a bucket's path was taken for a folder of this machine"


def test_prepared_data_is_found_in_a_bucket(bucket: pathlib.Path) -> None:
    make_data_folder(bucket / "data")
    folder = data_dir(f"{BUCKET}/data")
    assert prepared_tasks(folder) == prepared_tasks(epath.Path(bucket / "data"))
    assert "train" in splits(folder, "prompts")
    assert read_info(folder, "prompts", "train")["kind"] == "prompted"
    assert "both" in read_mixtures(folder)
    # Into a temporary folder, because sentencepiece reads files of this machine.
    assert MetroVocabulary(f"{BUCKET}/data/vocab").tokenizer.encode("the cat")[0] == 1


def test_a_runs_folder_may_be_in_a_bucket(bucket: pathlib.Path) -> None:
    """Orbax marks complete checkpoints of buckets, where nothing is renamed, by a file."""
    run = f"{BUCKET}/run"
    assert checkpoint_steps(run) == []
    for step in (3, 6):
        (bucket / "run" / f"checkpoint_{step}" / "state").mkdir(parents=True)
    (bucket / "run" / "checkpoint_3" / "commit_success.txt").touch()
    (bucket / "run" / "checkpoint_3" / "train_ds").mkdir()
    assert checkpoint_steps(run) == [3]  # the other was cut short
    assert [str(path) for path in find_checkpoints(run)] == [f"{run}/checkpoint_3"]
    assert str(absolute(run)) == run
    assert data_shards(f"{run}/checkpoint_3") is None
    with Checkpointer(run) as checkpointer:
        assert checkpointer.steps() == [3]


def test_logs_and_settings_are_written_to_a_bucket(bucket: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (bucket / "run").mkdir()
    gin_utils.summarize_gin_config(f"{BUCKET}/run")
    assert (bucket / "run" / "config.gin").is_file()
    gin_utils.parse_configuration([f"{BUCKET}/run/config.gin"], [])
    with pytest.raises(UserError, match=r"gs://bucket/run/config\.gym: no such gin file"):
        gin_utils.parse_configuration([f"{BUCKET}/run/config.gym"], [])
    _rewrite(epath.Path(BUCKET) / "run" / METRICS_FILE, [{"step": 1}])
    assert json.loads((bucket / "run" / METRICS_FILE).read_text()) == {"step": 1}
    profile = tmp_path / "profile" / "plugins" / "one"
    profile.mkdir(parents=True)
    (profile / "trace").write_bytes(b"1")
    copy_tree(tmp_path / "profile", f"{BUCKET}/run/profile")
    assert (bucket / "run" / "profile" / "plugins" / "one" / "trace").read_bytes() == b"1"
    shutil.rmtree(bucket / "run")
