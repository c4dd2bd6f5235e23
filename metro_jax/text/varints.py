"""Numbers as protocol buffers write them."""

import functools
from collections.abc import Iterable


def pack_varints(numbers: Iterable[int]) -> bytes:
    """Numbers as protocol buffers write them: seven bits a byte, the lowest first."""
    return b"".join(map(_varint, numbers))


@functools.cache  # ids repeat
def _varint(number: int) -> bytes:
    packed = bytearray()
    while number > 127:
        packed.append(number & 127 | 128)
        number >>= 7
    return bytes([*packed, number])
