"""Folders and files of weights: which is taken, shards, and index files that lie."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from metro_jax.convert.errors import ConversionError, MissingFileError, TensorMismatchError
from metro_jax.convert.tensors import WEIGHTS, open_tensors, read_json

from . import torch_files

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.c": np.ones(4, np.float16),
    "d": np.zeros(2, np.float32),
}
SHARDS = {"a": 0, "b.c": 0, "d": 1}


def write(folder, form, arrays=ARRAYS):
    """One of the four forms of weights."""
    safe = "safetensors" in form
    stem, ending = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    store = save_file if safe else lambda made, path: torch_files.save(path, made)
    if not form.endswith("index.json"):
        store(arrays, folder / form)
        return
    names = [f"{stem}-{i + 1:05}-of-00002.{ending}" for i in range(2)]
    for i, name in enumerate(names):
        store({key: array for key, array in arrays.items() if SHARDS[key] == i}, folder / name)
    weight_map = {key: names[SHARDS[key]] for key in arrays}
    (folder / form).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


@pytest.mark.parametrize("form", WEIGHTS)
def test_every_form_gives_the_same_tensors(tmp_path, form):
    write(tmp_path, form)
    for path in (tmp_path, tmp_path / form):
        tensors, files = open_tensors(path)
        assert set(tensors) == set(ARRAYS)
        assert len(files) == (2 if form.endswith("index.json") else 1)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(np.asarray(tensors[name]), array)


def test_safetensors_come_first(tmp_path):
    for i, form in reversed(list(enumerate(WEIGHTS))):
        write(tmp_path, form, {**ARRAYS, "d": np.full(2, i, np.float32)})
        tensors, _ = open_tensors(tmp_path)
        assert np.asarray(tensors["d"])[0] == i


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_files_are_told_apart_by_content(tmp_path, form):
    write(tmp_path, form)
    other = tmp_path / "weights.dat"
    (tmp_path / form).rename(other)
    assert set(open_tensors(other)[0]) == set(ARRAYS)


@pytest.mark.parametrize("form", [form for form in WEIGHTS if form.endswith("index.json")])
@pytest.mark.parametrize(
    "name", ["../stolen.bin", "/etc/passwd", "..", "", "a/b.bin", "a\\b.bin", "C:x.bin", "a\0.bin"]
)
def test_an_index_cannot_leave_its_folder(tmp_path, form, name):
    inside = tmp_path / "checkpoint"
    inside.mkdir()
    torch_files.save(tmp_path / "stolen.bin", ARRAYS)
    (inside / form).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ConversionError, match="plain file names") as caught:
        open_tensors(inside)
    assert repr(name) in str(caught.value)


def test_missing_shards_are_all_listed(tmp_path):
    form = "model.safetensors.index.json"
    write(tmp_path, form)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(MissingFileError) as caught:
        open_tensors(tmp_path)
    assert all(f"model-0000{i}-of-00002" in str(caught.value) for i in (1, 2))


def test_an_index_of_another_checkpoint_is_refused(tmp_path):
    form = "pytorch_model.bin.index.json"
    write(tmp_path, form)
    index = json.loads((tmp_path / form).read_text())
    index["weight_map"]["zz"] = index["weight_map"].pop("d")
    (tmp_path / form).write_text(json.dumps(index))
    with pytest.raises(TensorMismatchError) as caught:
        open_tensors(tmp_path)
    assert set(caught.value.problems) == {"missing", "unused"}
    assert "zz" in caught.value.problems["missing"][0]
    assert "d (in" in caught.value.problems["unused"][0]


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', '{"weight_map": {}}', '{"weight_map": []}', "{}"])
def test_broken_index_files(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ConversionError, match=r"index\.json"):
        open_tensors(tmp_path)


def test_broken_json(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(ConversionError, match="not valid JSON"):
        read_json(tmp_path / "x.json")


def test_nothing_there(tmp_path):
    with pytest.raises(MissingFileError, match=r"model\.safetensors"):
        open_tensors(tmp_path)
    with pytest.raises(MissingFileError):
        open_tensors(tmp_path / "nowhere")


def test_entries_that_are_no_tensors_are_named(tmp_path):
    torch_files.save(tmp_path / "x.bin", {"w": ARRAYS["a"]}, lambda root: {"model": root, "epoch": 3})
    with pytest.raises(ConversionError, match=r"'model': a dict; 'epoch': a int"):
        open_tensors(tmp_path / "x.bin")
    torch_files.save(tmp_path / "y.bin", {"w": ARRAYS["a"]}, lambda root: list(root.values()))
    with pytest.raises(ConversionError, match="holds a list"):
        open_tensors(tmp_path / "y.bin")
