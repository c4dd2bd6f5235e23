"""TFRecord files of documents, written without TensorFlow: the bytes are those of `metro_jax.data.records.serialize`.

A TFRecord is a length (8 bytes), its checksum (4), the data, their checksum (4); checksums are masked CRC-32C. The data
are a tf.train.Example, a protocol buffer of protocol buffers.
"""

import struct
from collections.abc import Iterable

try:
    import google_crc32c
except ImportError as error:
    raise ImportError(f"{error}: preparing text needs more packages: pip install 'metro_jax[data]'") from error

from metro_jax.text.varints import pack_varints

_MASK_DELTA = 0xA282EAD8  # of the masked checksum, in the definition of the format


def frame(data: bytes) -> bytes:
    """A record with its length and checksums."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF)


def document(ids: bytes, lengths: Iterable[int]) -> bytes:
    """A record of a document: the varints of its ids, and the number of ids of each line."""
    return _field(1, _integers(b"ids", ids) + _integers(b"line_lengths", pack_varints(lengths)))


def _integers(name: bytes, packed: bytes) -> bytes:
    """An entry of the map of features: name and Int64List."""
    return _field(1, _field(1, name) + _field(2, _field(3, _field(1, packed))))


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return pack_varints([number << 3 | 2, len(data)]) + data
