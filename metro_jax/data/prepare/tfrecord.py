"""TFRecord files of documents, written without TensorFlow: the bytes are those of `metro_jax.data.records.serialize`.

A TFRecord is a length (8 bytes), its checksum (4), the data, their checksum (4); checksums are masked CRC-32C. The data
are a tf.train.Example, a protocol buffer of protocol buffers.
"""

import itertools
import struct

import numpy as np

try:
    import google_crc32c
except ImportError as error:
    raise ImportError(f"{error}: preparing text needs more packages: pip install 'metro_jax[data]'") from error

from metro_jax.text.jit import BYTES, helper, kernel, types

_MASK_DELTA = 0xA282EAD8  # of the masked checksum, in the definition of the format
_IDS, _LENGTHS = (np.frombuffer(name, np.uint8) for name in (b"ids", b"line_lengths"))
_OVERHEAD = 28 + 9 * 9  # bytes of a record beside its numbers: tags and names, and nine lengths at their longest


def frames(packed: np.ndarray, sizes: np.ndarray, counts: np.ndarray, first: np.ndarray, last: np.ndarray) -> bytes:
    """The records of documents, with their lengths and checksums.

    Line i has `sizes[i]` bytes of `packed` and `counts[i]` ids. Document d is of the lines from `first[d]` to `last[d]`
    (without the latter).
    """
    data, ends = _documents(packed, np.append(0, np.cumsum(sizes)), counts, first, last)
    content = data.tobytes()
    return b"".join(
        part for begin, end in itertools.pairwise([0, *ends.tolist()]) for part in _framed(content[begin:end])
    )


def _framed(data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    length = struct.pack("<Q", len(data))
    return length, _checksum(length), data, _checksum(data)


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF)


@helper
def _varint_size(number):
    size = 1
    while number > 127:
        number >>= 7
        size += 1
    return size


@helper
def _put(number, out, place):
    """Writes a number as protocol buffers do; the place after it."""
    while number > 127:
        out[place] = number & 127 | 128
        number >>= 7
        place += 1
    out[place] = number
    return place + 1


@helper
def _entry_size(name, size):
    """Bytes of an entry of the map of features, without its own tag and length, for `size` bytes of numbers."""
    values = 1 + _varint_size(size) + size
    feature = 1 + _varint_size(values) + values
    return 2 + len(name) + 1 + _varint_size(feature) + feature


@helper
def _put_entry(name, size, out, place):
    """Writes an entry (name and Int64List) up to its numbers; the place where they go."""
    values = 1 + _varint_size(size) + size
    feature = 1 + _varint_size(values) + values
    out[place] = 0x0A  # field 1, of given length
    place = _put(_entry_size(name, size), out, place + 1)
    out[place], out[place + 1] = 0x0A, len(name)
    place += 2
    for index in range(len(name)):
        out[place + index] = name[index]
    place += len(name)
    out[place] = 0x12  # field 2
    place = _put(feature, out, place + 1)
    out[place] = 0x1A  # field 3, an Int64List
    place = _put(values, out, place + 1)
    out[place] = 0x0A
    return _put(size, out, place + 1)


@kernel(
    types.Tuple((types.uint8[::1], types.int64[::1]))(
        BYTES, types.int64[::1], types.int64[::1], types.int64[::1], types.int64[::1]
    )
)
def _documents(packed, bounds, counts, first, last):
    """The tf.train.Examples of documents, and where each ends; line i is `packed[bounds[i] : bounds[i + 1]]`."""
    total = 0
    for document in range(len(first)):
        total += bounds[last[document]] - bounds[first[document]] + _OVERHEAD
        total += 9 * (last[document] - first[document])  # a length of a line has 63 bits at most
    out, ends, place = np.empty(total, np.uint8), np.empty(len(first), np.int64), 0
    for document in range(len(first)):
        lines = range(first[document], last[document])
        begin, size = bounds[first[document]], bounds[last[document]] - bounds[first[document]]
        lengths = 0
        for line in lines:
            lengths += _varint_size(counts[line])
        entries = 0
        for name, of_entry in ((_IDS, size), (_LENGTHS, lengths)):
            entry = _entry_size(name, of_entry)
            entries += 1 + _varint_size(entry) + entry
        out[place] = 0x0A
        place = _put(entries, out, place + 1)
        place = _put_entry(_IDS, size, out, place)
        for index in range(size):
            out[place + index] = packed[begin + index]
        place = _put_entry(_LENGTHS, lengths, out, place + size)
        for line in lines:
            place = _put(counts[line], out, place)
        ends[document] = place
    return out[:place].copy(), ends
