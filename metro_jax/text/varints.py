"""Numbers as protocol buffers write them."""

from collections.abc import Iterable


class _Varints(dict[int, bytes]):
    """The bytes of the numbers asked for so far; ids repeat."""

    def __missing__(self, number: int) -> bytes:
        packed, rest = bytearray(), number
        while rest > 127:
            packed.append(rest & 127 | 128)
            rest >>= 7
        self[number] = found = bytes([*packed, rest])
        return found


_varint = _Varints().__getitem__


def pack_varints(numbers: Iterable[int]) -> bytes:
    """Numbers as protocol buffers write them, one after the other."""
    return b"".join(map(_varint, numbers))
