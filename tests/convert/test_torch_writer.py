"""Torch files that we write: read back here, and by torch where it is installed."""

import importlib.util

import numpy as np
import pytest

from metro_jax.convert.errors import ConversionError
from metro_jax.convert.lazy import LazyTensor
from metro_jax.convert.pickle_reader import read_torch
from metro_jax.convert.torch_writer import write_torch
from metro_jax.convert.torch_zip import TorchZip

from .torch_files import ALL_DTYPES


def test_containers_and_numbers_come_back(tmp_path):
    root = {"a": None, "b": [True, False, 0, -1, 127, 128, -128, 2**40, 0.5], "c": ("é", {}, []), 3: {"d": ()}}
    write_torch(tmp_path / "x.pt", root)
    assert read_torch(tmp_path / "x.pt") == root


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_arrays_come_back(tmp_path, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    arrays = {"w": array, "transposed": array.T, "scalar": array[0, 0, 0], "empty": array[:0]}
    write_torch(tmp_path / "x.pt", {name: np.asarray(value) for name, value in arrays.items()})
    for name, value in read_torch(tmp_path / "x.pt").items():
        assert value.dtype == dtype
        np.testing.assert_array_equal(np.asarray(value), arrays[name])


def test_tied_tensors_are_stored_once_and_data_are_aligned(tmp_path):
    tied = LazyTensor((5, 7), np.dtype(np.float16), lambda: np.ones((5, 7), np.float16), 0)
    write_torch(tmp_path / "x.pt", {"a": tied, "b": tied, "c": np.ones(3, np.float32)})
    read = read_torch(tmp_path / "x.pt")
    assert read["a"].identity == read["b"].identity != read["c"].identity
    archive = TorchZip(tmp_path / "x.pt")
    data = [entry for name, entry in archive.entries.items() if name.startswith("data/")]
    assert len(data) == 2
    assert all(archive._start(entry) % 64 == 0 for entry in data)


def test_tensors_are_computed_when_they_are_written(tmp_path):
    read = []

    def lazy(name):
        def compute():
            read.append(name)
            return np.zeros(2, np.float32)

        return LazyTensor((2,), np.dtype(np.float32), compute, name)

    write_torch(tmp_path / "x.pt", {"a": lazy("a"), "b": lazy("b")})
    assert read == ["a", "b"]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", np.zeros(2, np.complex64)])
def test_what_cannot_be_written_is_named(tmp_path, value):
    with pytest.raises(ConversionError, match=r"cannot be written|no storage of complex64"):
        write_torch(tmp_path / "x.pt", {"a": value})


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torch_reads_it(tmp_path):
    import torch  # pyright: ignore[reportMissingImports]

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_torch(tmp_path / "x.pt", {"model": {"w": array, "tied": array}, "cfg": {"n": [1, 2.5, None, True, "x"]}})
    read = torch.load(tmp_path / "x.pt", weights_only=True)
    np.testing.assert_array_equal(read["model"]["w"].numpy(), array)
    assert read["cfg"] == {"n": [1, 2.5, None, True, "x"]}
