"""Special token ids, and the exchange between metro_jax numbering (padding is id 0) and Hub numbering (id 1)."""

from typing import Any, overload

import numpy as np

PAD = 0
BOS = 1
EOS = 2
UNK = 3
NUM_SPECIAL = 4

#: The strings of ids 0 to 3 in metro_jax numbering (spec 9.1 with `<s>` and `<pad>` exchanged).
SPECIAL_PIECES = ("<pad>", "<s>", "</s>", "<unk>")


@overload
def swap_ids(ids: int) -> int: ...
@overload
def swap_ids(ids: list) -> list: ...
@overload
def swap_ids(ids: tuple) -> tuple: ...
@overload
def swap_ids(ids: np.ndarray) -> np.ndarray: ...
def swap_ids(ids: Any) -> Any:
    """Exchange ids 0 and 1 and leave every other value (negative ones too) as it is; its own inverse.

    Takes an integer, a list or tuple (nested ones too) or an integer array, and returns the same kind and dtype.
    Raises TypeError for anything else.
    """
    if isinstance(ids, list):
        return [swap_ids(item) for item in ids]
    if isinstance(ids, tuple):
        return tuple(swap_ids(item) for item in ids)
    if isinstance(ids, bool | np.bool_):
        raise TypeError(f"swap_ids: {ids!r} is a truth value, not a token id; pass integers")
    if isinstance(ids, int):
        return 1 - ids if ids in (0, 1) else ids
    dtype = getattr(ids, "dtype", None)
    if dtype is not None and np.issubdtype(dtype, np.integer):
        return ids ^ ((ids == 0) | (ids == 1)).astype(dtype)
    raise TypeError(f"swap_ids: {ids!r} of type {type(ids).__name__} holds no token ids; pass integers")
