"""Reads torch checkpoints (`pytorch_model.bin`, `.pt`) without torch, and without executing anything.

The pickle inside the archive (see `torch_zip`) describes a tensor as
`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`, offset and stride in elements,
where the storage is a persistent id `("storage", torch.HalfStorage, key, device, number of elements)`. That call, its
variant for parameters, the storage types and plain containers are all that is known here (see `pickle_machine`).
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from metro_jax.convert.errors import ConversionError, UnsafePickleError
from metro_jax.convert.lazy import LazyTensor
from metro_jax.convert.pickle_machine import MAX_BYTES, PickleMachine, Policy, Symbol
from metro_jax.convert.torch_zip import TorchZip

STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}

MAX_NDIM = 8


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of numbers in the archive that tensors are cut from."""

    key: str
    dtype: np.dtype
    numel: int


def read_torch(path: str | pathlib.Path, records: Callable[[str], bool] = lambda name: False) -> Any:
    """What a torch checkpoint holds: plain containers, with every tensor as a `LazyTensor`.

    Args:
        records: says which further classes may appear; they come back as inert `Record`s (spec 10.2, a saved cfg).

    Raises:
        UnsafePickleError: the pickle asks for anything else; the message names it.
        ConversionError: missing, damaged, cut short, too old, or a tensor leaves its storage.
    """
    archive = TorchZip(pathlib.Path(path))
    return _Reader(archive).load(records)


class _Reader:
    """The constructors of one archive's tensors."""

    def __init__(self, archive: TorchZip) -> None:
        self.archive = archive
        self.swapped = False
        if archive.size("byteorder") is not None:
            order = archive.read("byteorder").tobytes()
            if order not in (b"little", b"big"):
                raise ConversionError(f"{archive.path}: unknown byte order {order[:20]!r}")
            self.swapped = order == b"big"

    def load(self, records: Callable[[str], bool]) -> Any:
        constructors = {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "collections.OrderedDict": lambda: {},
            "torch.Size": self._size,
            # Protocol 2 has no opcodes for these two.
            "_codecs.encode": self._bytes,
            "builtins.set": self._set,
            "__builtin__.set": self._set,
        }
        policy = Policy(constructors, frozenset(STORAGES), records, self._storage)
        size = self.archive.size("data.pkl") or 0
        if size > MAX_BYTES:  # before it is unpacked
            raise self._refuse(f"a pickle of {size} bytes; no checkpoint needs {MAX_BYTES}")
        return PickleMachine(policy, str(self.archive.path)).run(self.archive.read("data.pkl").tobytes())

    def _refuse(self, what: str) -> UnsafePickleError:
        return UnsafePickleError(f"{self.archive.path}: refused {what}; the file is damaged or was tampered with")

    def _storage(self, reference: Any) -> Storage:
        if type(reference) is not tuple or len(reference) != 5 or reference[0] != "storage":
            raise self._refuse("a persistent id that is not a storage")
        _, kind, key, _, numel = reference
        if not isinstance(kind, Symbol) or kind.name not in STORAGES:
            raise self._refuse("a storage of unknown type")
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise self._refuse("a storage whose key or size is not what it should be")
        dtype = STORAGES[kind.name]
        size = self.archive.size(f"data/{key}")
        if size is None:
            raise ConversionError(f"{self.archive.path}: storage {key[:80]!r} is not in the archive; download it again")
        if size != numel * dtype.itemsize:
            raise self._refuse(f"storage {key[:80]!r}: {numel} numbers of {dtype} do not take {size} bytes")
        return Storage(key, dtype, numel)

    def _tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any = False,
        hooks: Any = None,
        metadata: Any = None,
    ) -> LazyTensor:
        if not isinstance(storage, Storage) or type(offset) is not int:
            raise self._refuse("a tensor without a storage")
        if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride) or len(size) > MAX_NDIM:
            raise self._refuse("a tensor whose size and stride do not fit")
        if any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
            raise self._refuse(f"a tensor with a negative offset, size or stride ({offset}, {size}, {stride})")
        if hooks or metadata:
            raise self._refuse("a tensor with hooks or metadata")
        numel = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if numel else offset - 1
        if last >= storage.numel or numel > storage.numel:
            raise self._refuse(
                f"a tensor that leaves its storage: offset {offset}, size {size}, stride {stride} in {storage.numel}"
            )
        return LazyTensor(
            size,
            storage.dtype,
            lambda: self._read(storage, offset, size, stride),
            (str(self.archive.path), storage.key, offset, size, stride),
        )

    def _read(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
        """A view of the mapped file; bounds were checked when the tensor was described."""
        numbers = self.archive.read(f"data/{storage.key}")
        width = storage.dtype.itemsize
        if self.swapped and width > 1:
            numbers = numbers.view(f"u{width}").byteswap()
        numbers = numbers.view(storage.dtype)[offset:]
        return np.lib.stride_tricks.as_strided(numbers, size, [step * width for step in stride], writeable=False)

    def _parameter(self, data: Any, requires_grad: Any = True, hooks: Any = None) -> LazyTensor:
        if not isinstance(data, LazyTensor) or hooks:
            raise self._refuse("a parameter that is not a tensor, or has hooks")
        return data

    def _size(self, dimensions: Any = ()) -> tuple[int, ...]:
        if type(dimensions) is not tuple or any(type(n) is not int for n in dimensions):
            raise self._refuse("a torch.Size of something else than numbers")
        return dimensions

    def _bytes(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding != "latin1" or len(text) > 2**16:
            raise self._refuse("an encoding other than latin1 of a short text")
        return text.encode("latin1")

    def _set(self, members: Any = ()) -> set[Any]:
        if type(members) is not list or len(members) > 2**16:
            raise self._refuse("a set that is not made from a short list")
        if any(type(member) not in (str, int, float, bool, type(None)) for member in members):
            raise self._refuse("a set of something else than plain values")
        return set(members)
