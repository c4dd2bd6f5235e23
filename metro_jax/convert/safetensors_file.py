"""safetensors files: 8 bytes of header length (little endian), a JSON header, then the bytes of the tensors.

The header maps each name to `{"dtype": "F16", "shape": [...], "data_offsets": [begin, end]}`, offsets from the end of
the header; `__metadata__` holds text ({"format": "pt"} for PyTorch weights). Reading goes through the safetensors
library, which checks the header; writing is done here, because the library wants all tensors in memory at once.
"""

import functools
import json
import math
import pathlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from metro_jax.convert.errors import ConversionError
from metro_jax.convert.lazy import LazyTensor
from metro_jax.convert.torch_zip import check_not_pointer, check_present

CODES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: code for code, dtype in CODES.items()}


def read_safetensors(path: str | pathlib.Path) -> dict[str, LazyTensor]:
    """The tensors of a file by name, each read when it is used.

    Raises:
        ConversionError: missing, damaged, cut short, or of a number type that weights do not have.
    """
    path = check_present(pathlib.Path(path))
    with open(path, "rb") as file:
        check_not_pointer(path, file.read(64))
    try:
        handle = safe_open(path, framework="np")
        parts = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ConversionError(
            f"{path}: not a safetensors file, or cut short or damaged ({error}); download it again"
        ) from error
    strange = sorted({part.get_dtype() for part in parts.values()} - set(CODES))
    if strange:
        raise ConversionError(
            f"{path}: number type {', '.join(strange)} is not supported; known are {', '.join(CODES)}"
        )
    offsets = _offsets(path)
    return {
        name: LazyTensor(
            tuple(part.get_shape()),
            CODES[part.get_dtype()],
            functools.partial(_read, path, offsets[name], CODES[part.get_dtype()], tuple(part.get_shape())),
            (str(path), name),
        )
        for name, part in parts.items()
    }


def _offsets(path: pathlib.Path) -> dict[str, int]:
    """Where each tensor begins, in a file whose header the library has checked."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


def _read(path: pathlib.Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor. The library maps the file, so that a file read through would lie in memory as a whole."""
    return np.fromfile(path, dtype, math.prod(shape), offset=offset).reshape(shape)


def write_safetensors(
    path: str | pathlib.Path, tensors: Mapping[str, LazyTensor | np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors one after the other, so that at most one of them is in memory beside what the caller holds.

    They are asked for in the order of the mapping, which its maker chose, whatever their order in the file.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    # Wider numbers first, as the library does: every tensor is then aligned to its own width.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    begin = 0
    places = {}
    for name in names:
        tensor = tensors[name]
        places[name] = begin
        end = begin + tensor.dtype.itemsize * math.prod(tensor.shape)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            array = np.ascontiguousarray(np.asarray(tensor))
            file.seek(8 + len(text) + places[name])
            file.write(array.reshape(-1).view(np.uint8).data)
