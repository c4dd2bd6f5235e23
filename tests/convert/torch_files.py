"""Writes torch checkpoints, honest and dishonest ones, without torch: pickles are assembled opcode by opcode."""

import dataclasses
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

STORAGE_OF = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
ALL_DTYPES = [np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in STORAGE_OF]


@dataclasses.dataclass
class Global:
    """A reference to an importable name."""

    module: str
    name: str


@dataclasses.dataclass
class Call:
    """REDUCE: `function` applied to `arguments`, then perhaps BUILD with `state`."""

    function: Any
    arguments: tuple
    state: Any = None


@dataclasses.dataclass
class Persistent:
    """A persistent id."""

    value: Any


@dataclasses.dataclass
class Raw:
    """Opcodes as they are."""

    data: bytes


def assemble(value: Any) -> bytes:
    """A protocol 2 pickle of `value`."""
    return b"\x80\x02" + _encode(value) + b"."


def _encode(value: Any) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case tuple():
            return b"(" + b"".join(map(_encode, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_encode, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_encode(k) + _encode(v) for k, v in value.items()) + b"u"
        case Global():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            built = b"" if value.state is None else _encode(value.state) + b"b"
            return _encode(value.function) + _encode(value.arguments) + b"R" + built
        case Persistent():
            return _encode(value.value) + b"Q"
        case Raw():
            return value.data
    raise TypeError(type(value))


def storage(key: str, dtype: np.dtype, numel: int) -> Persistent:
    return Persistent(("storage", Global("torch", STORAGE_OF[str(dtype)]), key, "cpu", numel))


def tensor(reference: Any, offset: int, size: tuple, stride: tuple) -> Call:
    hooks = Call(Global("collections", "OrderedDict"), ())
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (reference, offset, size, stride, False, hooks))


def write_zip(
    path: pathlib.Path, pickle: bytes, storages: Mapping[str, bytes] = {}, *, compress: bool = False, **entries: bytes
) -> pathlib.Path:
    """An archive with these parts; further entries by name."""
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", pickle)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in entries.items():
            archive.writestr(f"archive/{name}", data)
        archive.writestr("archive/version", b"3\n")
    return path


def save(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], wrap: Any = lambda root: root, **options: Any
) -> pathlib.Path:
    """A state dict as torch.save writes it: one storage per array, arrays that are the same object share theirs.

    Args:
        wrap: makes the pickled object from the state dict.
    """
    keys: dict[int, str] = {}
    storages, root = {}, {}
    for name, array in arrays.items():
        key = keys.setdefault(id(array), str(len(keys)))
        data = np.array(array, order="C")
        storages[key] = data.tobytes()
        stride = tuple(step // data.itemsize for step in np.empty(data.shape, data.dtype).strides)
        root[name] = tensor(storage(key, data.dtype, data.size), 0, data.shape, stride)
    return write_zip(path, assemble(wrap(root)), storages, **options)
