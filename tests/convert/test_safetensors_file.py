"""safetensors: what we write the library reads, and the other way round."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from metro_jax.convert.errors import ConversionError, MissingFileError
from metro_jax.convert.safetensors_file import CODES, read_safetensors, write_safetensors


def arrays():
    rng = np.random.default_rng(0)
    made = {
        f"{code}.{i}": (rng.normal(size=(3, i)) * 9).astype(dtype) for code, dtype in CODES.items() for i in (0, 1, 5)
    }
    return made | {"transposed": rng.normal(size=(4, 3)).astype(np.float32).T, "scalar": np.full((), 3, np.float16)}


def assert_same(read, expected):
    assert set(read) == set(expected)
    for name, array in expected.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(np.asarray(read[name]), array)


def test_written_files_are_read_by_the_library(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, arrays(), {"format": "pt"})
    assert_same(load_file(path), arrays())
    with safe_open(path, "np") as handle:
        assert handle.metadata() == {"format": "pt"}
    begin = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert begin % 8 == 0  # tensors are aligned


def test_files_of_the_library_are_read(tmp_path):
    expected = {name: np.ascontiguousarray(array) for name, array in arrays().items() if array.ndim}
    save_file(expected, tmp_path / "x.safetensors")
    assert_same(read_safetensors(tmp_path / "x.safetensors"), expected)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.arange(6.0), "b": np.ones((2, 2), np.float16)})
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ConversionError, match=r"x\.safetensors"):
            read_safetensors(path)


def test_other_number_types_are_named(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(ConversionError, match="F8_E4M3"):
        read_safetensors(path)


def test_missing_and_pointer(tmp_path):
    with pytest.raises(MissingFileError):
        read_safetensors(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConversionError, match="LFS"):
        read_safetensors(tmp_path / "y.safetensors")
