"""torch checkpoints: arrays of every type and layout, and tensors that reach for what is not theirs."""

import tracemalloc

import numpy as np
import pytest

from metro_jax.convert.errors import ConversionError, UnsafePickleError
from metro_jax.convert.lazy import LazyTensor
from metro_jax.convert.pickle_reader import read_torch

from .torch_files import ALL_DTYPES, Call, Global, Persistent, Raw, assemble, save, storage, tensor, write_zip

F32 = np.dtype(np.float32)


def one_tensor(tmp_path, value, data=bytes(48)):
    return write_zip(tmp_path / "x.bin", assemble({"w": value}), {"0": data})


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_of_every_type_come_back(tmp_path, compress):
    rng = np.random.default_rng(0)
    shapes = [(), (1,), (5,), (3, 4), (0, 4), (2, 3, 4)]
    arrays = {
        f"{dtype}.{i}": (rng.normal(size=shape) * 50).astype(dtype)
        for dtype in ALL_DTYPES
        for i, shape in enumerate(shapes)
        if dtype.kind not in "ub"
    }
    arrays |= {f"{kind}": rng.integers(0, 2, (3, 3)).astype(kind) for kind in ("uint8", "bool")}
    read = read_torch(save(tmp_path / "x.bin", arrays, compress=compress))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].shape == array.shape
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(np.asarray(read[name]), array)


def test_big_endian_files(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    pickled = assemble({"w": tensor(storage("0", F32, 12), 0, (3, 4), (4, 1))})
    path = write_zip(tmp_path / "x.bin", pickled, {"0": array.astype(">f4").tobytes()}, byteorder=b"big")
    np.testing.assert_array_equal(np.asarray(read_torch(path)["w"]), array)
    with pytest.raises(ConversionError, match="byte order"):
        read_torch(write_zip(tmp_path / "y.bin", pickled, {"0": array.tobytes()}, byteorder=b"middle"))


def test_views_of_one_storage(tmp_path):
    base = np.arange(12, dtype=np.float32)
    pickled = assemble(
        {
            "all": tensor(storage("0", F32, 12), 0, (3, 4), (4, 1)),
            "transposed": tensor(storage("0", F32, 12), 0, (4, 3), (1, 4)),
            "column": tensor(storage("0", F32, 12), 2, (3,), (4,)),
            "last": tensor(storage("0", F32, 12), 11, (), ()),
            "empty": tensor(storage("0", F32, 12), 12, (0, 4), (4, 1)),
        }
    )
    read = read_torch(write_zip(tmp_path / "x.bin", pickled, {"0": base.tobytes()}))
    grid = base.reshape(3, 4)
    expected = {"all": grid, "transposed": grid.T, "column": grid[:, 2], "last": grid[2, 3], "empty": grid[:0]}
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(read[name]), array)
    assert read["all"].identity != read["transposed"].identity


def test_parameters_state_dict_metadata_and_plain_values(tmp_path):
    def wrap(root):
        parameter = Call(Global("torch._utils", "_rebuild_parameter"), (root["w"], True, {}))
        ordered = Call(Global("collections", "OrderedDict"), (), {"_metadata": {"": {"version": 1}}})
        size = Call(Global("torch", "Size"), ((2, 3),))
        return {"w": parameter, "empty": ordered, "size": size, "b": Call(Global("_codecs", "encode"), ("é", "latin1"))}

    read = read_torch(save(tmp_path / "x.bin", {"w": np.ones((2, 3), np.float16)}, wrap))
    np.testing.assert_array_equal(np.asarray(read["w"]), np.ones((2, 3)))
    assert (read["empty"], read["size"], read["b"]) == ({}, (2, 3), "é".encode("latin1"))


def test_nothing_is_read_before_it_is_used(tmp_path):
    path = save(tmp_path / "x.bin", {"w": np.ones((1000, 1000), np.float32)})
    tracemalloc.start()
    try:
        read = read_torch(path)
        np.asarray(read["w"])  # a view of the mapped file
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert not np.asarray(read["w"]).flags.writeable


@pytest.mark.parametrize(
    ("offset", "size", "stride", "reason"),
    [
        (1, (3, 4), (4, 1), "leaves its storage"),
        (0, (3, 4), (5, 1), "leaves its storage"),
        (13, (), (), "leaves its storage"),
        (13, (0,), (1,), "leaves its storage"),
        (0, (2**40,), (0,), "leaves its storage"),
        (0, (2**62, 2**62), (2**62, 2**62), "leaves its storage"),
        (11, (12,), (-1,), "negative"),
        (-1, (3,), (1,), "negative"),
        (0, (-3,), (1,), "negative"),
        (0, (3, 4), (4,), "do not fit"),
        (0, (1,) * 30, (1,) * 30, "do not fit"),
        (0, [3, 4], (4, 1), "do not fit"),
        (0, (True, 4), (4, 1), "negative offset, size or stride"),
        (0, ("3",), (1,), "negative offset, size or stride"),
        (None, (3,), (1,), "without a storage"),
    ],
)
def test_tensors_stay_in_their_storage(tmp_path, offset, size, stride, reason):
    path = one_tensor(tmp_path, tensor(storage("0", F32, 12), offset, size, stride))
    with pytest.raises(UnsafePickleError, match=reason):
        read_torch(path)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (storage("0", F32, 13), "do not take 48 bytes"),
        (storage("0", F32, -1), "key or size"),
        (storage("9", F32, 12), "not in the archive"),
        (storage("../../../../etc/passwd", F32, 12), "not in the archive"),
        (Persistent(("storage", Global("torch", "HalfStorage"), 0, "cpu", 12)), "key or size"),
        (Persistent(("storage", "torch.HalfStorage", "0", "cpu", 12)), "unknown type"),
        (Persistent(("module", Global("torch", "HalfStorage"), "0", "cpu", 12)), "not a storage"),
        (Persistent("storage"), "not a storage"),
        (Persistent(("storage", Global("torch", "QInt8Storage"), "0", "cpu", 48)), "torch.QInt8Storage"),
        ("storage", "without a storage"),
    ],
)
def test_storages_are_what_they_say(tmp_path, reference, reason):
    with pytest.raises(ConversionError, match=reason):
        read_torch(one_tensor(tmp_path, tensor(reference, 0, (3, 4), (4, 1))))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call(Global("torch._utils", "_rebuild_tensor_v3"), (1,)), "torch._utils._rebuild_tensor_v3"),
        (Call(Global("torch._utils", "_rebuild_parameter"), (1, True, {})), "not a tensor"),
        (Call(Global("torch._utils", "_rebuild_tensor_v2"), ()), "torch._utils._rebuild_tensor_v2"),
        (Call(Global("torch", "Size"), (["a"],)), "torch.Size"),
        (Call(Global("_codecs", "encode"), ("x", "rot13")), "latin1"),
        (Call(Global("__builtin__", "set"), ([()],)), "set"),
        (Raw(b"ctorch._utils\n_rebuild_tensor_v2\n}b"), "setting attributes of torch._utils._rebuild_tensor_v2"),
        (Call(Global("argparse", "Namespace"), ()), "argparse.Namespace"),
    ],
)
def test_nothing_else_is_built(tmp_path, value, named):
    with pytest.raises(UnsafePickleError, match=named):
        read_torch(one_tensor(tmp_path, value))


def test_tensors_with_hooks_or_metadata_are_refused(tmp_path):
    call = tensor(storage("0", F32, 12), 0, (12,), (1,))
    call.arguments = (*call.arguments[:5], {1: 2})
    with pytest.raises(UnsafePickleError, match="hooks"):
        read_torch(one_tensor(tmp_path, call))


@pytest.mark.golden
def test_golden_state_dict(golden_dir):
    for path in sorted(golden_dir.rglob("*.bin")):
        read = read_torch(path)
        assert read
        for tensor_ in read.values():
            assert isinstance(tensor_, LazyTensor)
            assert np.isfinite(np.asarray(tensor_, np.float32)).all()
