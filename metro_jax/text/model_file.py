"""The few settings of a SentencePiece model that decide how text falls into words, read from its file.

The file is a protocol buffer (`sentencepiece_model.proto`). The sentencepiece library does not tell these settings, and
its own reader of the file needs the protobuf package, which inference does without.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

_TRAINER, _NORMALIZER = 2, 3  # fields of ModelProto
_MODEL_TYPE, _SUFFIX, _BYTE_FALLBACK = 3, 24, 35  # fields of TrainerSpec
_NAME, _DUMMY_PREFIX, _SQUEEZE, _ESCAPE, _OWN_RULES = 1, 3, 4, 5, 6  # fields of NormalizerSpec
_UNIGRAM = 1


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What a model was trained as; the defaults are SentencePiece's own (spec 9.3)."""

    unigram: bool = True
    normalizer: str = ""  # name of its built-in rules; empty when it has rules of its own
    dummy_prefix: bool = True
    squeeze_blanks: bool = True
    escape_blanks: bool = True
    blank_as_suffix: bool = False
    byte_fallback: bool = False


def read_settings(model: bytes) -> ModelSettings:
    """The settings in the contents of an sp.model; ValueError when it is no protocol buffer."""
    top = {number: value for number, value in _fields(model) if number in (_TRAINER, _NORMALIZER)}
    trainer = dict(_fields(top.get(_TRAINER, b"")))
    normalizer = dict(_fields(top.get(_NORMALIZER, b"")))
    own_rules = bool(normalizer.get(_OWN_RULES))
    return ModelSettings(
        unigram=trainer.get(_MODEL_TYPE, _UNIGRAM) == _UNIGRAM,
        normalizer="" if own_rules else bytes(normalizer.get(_NAME, b"")).decode("utf-8", "replace"),
        dummy_prefix=bool(normalizer.get(_DUMMY_PREFIX, True)),
        squeeze_blanks=bool(normalizer.get(_SQUEEZE, True)),
        escape_blanks=bool(normalizer.get(_ESCAPE, True)),
        blank_as_suffix=bool(trainer.get(_SUFFIX, False)),
        byte_fallback=bool(trainer.get(_BYTE_FALLBACK, False)),
    )


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the fields of a message; of fixed-width fields the bytes."""
    view, position, end = memoryview(data), 0, len(data)
    while position < end:
        key, position = _varint(view, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(view, position)
            yield key >> 3, value
            continue
        if kind == 2:
            length, position = _varint(view, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {position}: not a protocol buffer of this kind")
        if position + length > end:
            raise ValueError(f"a field of {length} bytes at byte {position} goes beyond the end ({end})")
        yield key >> 3, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    value = shift = 0
    while True:
        if position >= len(view) or shift > 63:
            raise ValueError(f"byte {position}: a number is cut off or too long")
        byte = view[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7
