"""Writes torch checkpoints without torch: the container that `torch_zip` and `pickle_reader` describe.

A pickle of protocol 2 is assembled opcode by opcode: plain containers, and for every tensor the call that torch itself
writes. Raw bytes follow, one storage per tensor, each on a 64-byte boundary as torch lays them; names that stand for
the same tensor share a storage, as tied parameters do in a state dict.
"""

import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from metro_jax.convert.errors import ConversionError
from metro_jax.convert.lazy import LazyTensor
from metro_jax.convert.pickle_reader import STORAGES

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}
_FOLDER = "archive"
_ALIGNMENT = 64
_PADDING = struct.Struct("<2sH")  # an extra field that says nothing: its name and its length
_LOCAL_HEADER, _ZIP64_EXTRA, _ZIP64_LIMIT = 30, 20, 2**31 - 1  # bytes, bytes, and where zipfile changes over


def write_torch(path: str | pathlib.Path, root: Mapping[str, Any]) -> None:
    """Write what `torch.load` reads as `root`: dicts, lists, tuples, text, numbers, arrays and lazy tensors.

    Tensors are computed one after the other, when their bytes are due.

    Raises:
        ConversionError: something else is in `root`.
    """
    storages: dict[int, tuple[str, Any]] = {}
    program = b"\x80\x02" + _encode(root, storages) + b"."
    with open(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, file, "data.pkl", program)
        _add(archive, file, "byteorder", b"little")
        for key, tensor in storages.values():
            _add_tensor(archive, file, f"data/{key}", tensor)
        _add(archive, file, "version", b"3\n")


def _entry(file: Any, name: str, size: int) -> zipfile.ZipInfo:
    """An entry whose data begin on a boundary."""
    entry = zipfile.ZipInfo(f"{_FOLDER}/{name}")
    entry.file_size = size
    wide = _ZIP64_EXTRA if size > _ZIP64_LIMIT else 0
    begin = file.tell() + _LOCAL_HEADER + len(entry.filename) + _PADDING.size + wide
    padding = -begin % _ALIGNMENT
    entry.extra = _PADDING.pack(b"FB", padding) + bytes(padding)
    return entry


def _add(archive: zipfile.ZipFile, file: Any, name: str, data: bytes) -> None:
    archive.writestr(_entry(file, name, len(data)), data)


def _add_tensor(archive: zipfile.ZipFile, file: Any, name: str, tensor: Any) -> None:
    array = np.ascontiguousarray(np.asarray(tensor)).reshape(-1).view(np.uint8)
    with archive.open(_entry(file, name, array.size), "w", force_zip64=array.size > _ZIP64_LIMIT) as stream:
        stream.write(array.data)


def _encode(value: Any, storages: dict[int, tuple[str, Any]]) -> bytes:
    """The opcodes that leave `value` on the stack."""
    if value is None or isinstance(value, bool):
        return {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return pickle.LONG1 + bytes([len(data)]) + data
    if isinstance(value, float):
        return pickle.BINFLOAT + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return pickle.BINUNICODE + struct.pack("<I", len(data)) + data
    if isinstance(value, list | tuple):
        items = b"".join(_encode(item, storages) for item in value)
        if isinstance(value, tuple):
            return pickle.MARK + items + pickle.TUPLE
        return pickle.EMPTY_LIST + pickle.MARK + items + pickle.APPENDS
    if isinstance(value, Mapping):
        items = b"".join(_encode(key, storages) + _encode(item, storages) for key, item in value.items())
        return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    if isinstance(value, LazyTensor | np.ndarray):
        return _encode_tensor(value, storages)
    raise ConversionError(f"a {type(value).__name__} cannot be written into a torch checkpoint: {value!r:.100}")


def _encode_tensor(tensor: LazyTensor | np.ndarray, storages: dict[int, tuple[str, Any]]) -> bytes:
    if tensor.dtype not in _STORAGE_NAMES:
        raise ConversionError(
            f"torch has no storage of {tensor.dtype}; known are {', '.join(map(str, _STORAGE_NAMES))}"
        )
    key, _ = storages.setdefault(id(tensor), (str(len(storages)), tensor))
    shape = tuple(int(n) for n in tensor.shape)
    numel = int(np.prod(shape, dtype=np.int64))
    stride, step = [], 1
    for n in reversed(shape):
        stride.insert(0, step)
        step *= n
    module, name = _STORAGE_NAMES[tensor.dtype].rsplit(".", 1)
    reference = (
        pickle.MARK
        + _encode("storage", storages)
        + f"c{module}\n{name}\n".encode()
        + b"".join(_encode(part, storages) for part in (key, "cpu", numel))
        + pickle.TUPLE
        + pickle.BINPERSID
    )
    hooks = b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = b"".join(_encode(part, storages) for part in (0, shape, tuple(stride), False))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n"
        + pickle.MARK
        + reference
        + arguments
        + hooks
        + pickle.TUPLE
        + pickle.REDUCE
    )
