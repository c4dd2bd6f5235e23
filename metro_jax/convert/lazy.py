"""Arrays that are read when they are needed, so that a checkpoint never lies in memory twice."""

import math
from collections.abc import Callable, Hashable, Sequence

import ml_dtypes
import numpy as np

# The number types that weights may have.
FLOATS = tuple(np.dtype(name) for name in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))

# What may be asked for by name.
DTYPES = {str(dtype): dtype for dtype in FLOATS}


class LazyTensor:
    """Shape and type of an array, and how to read it: `np.asarray(tensor)` does.

    Args:
        identity: equal for two tensors that are the same bytes of the same file.
    """

    __slots__ = ("_read", "dtype", "identity", "shape")

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[], np.ndarray], identity: Hashable
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.identity = identity
        self._read = read

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        array = self._read()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __repr__(self) -> str:
        return f"LazyTensor(shape={self.shape}, dtype={self.dtype})"


class LazyStack:
    """Lazy tensors of one shape and type, stacked on a leading axis of layers; `stack[i]` reads nothing yet."""

    __slots__ = ("dtype", "parts", "shape")

    def __init__(self, parts: Sequence[LazyTensor]) -> None:
        self.parts = tuple(parts)
        self.shape = (len(self.parts), *self.parts[0].shape)
        self.dtype = self.parts[0].dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, layer: int) -> LazyTensor:
        return self.parts[layer]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        array = np.empty(self.shape, self.dtype if dtype is None else dtype)
        for layer, part in enumerate(self.parts):
            array[layer] = np.asarray(part)
        return array

    def __repr__(self) -> str:
        return f"LazyStack(shape={self.shape}, dtype={self.dtype})"


def same_values(a: LazyTensor | np.ndarray, b: LazyTensor | np.ndarray) -> bool:
    """Whether two tensors hold the same bits (and so NaN equals itself)."""
    if a is b or (isinstance(a, LazyTensor) and isinstance(b, LazyTensor) and a.identity == b.identity):
        return True
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    words = np.dtype(f"u{a.dtype.itemsize}")
    return np.array_equal(np.ascontiguousarray(a).view(words), np.ascontiguousarray(b).view(words))
