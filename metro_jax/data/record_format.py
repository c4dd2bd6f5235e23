"""What a record holds, for those that write records without TensorFlow (see metro_jax.data.records)."""

import dataclasses
from typing import Any

FORMAT = 1  # to be raised when readers of this version could no longer read the records


@dataclasses.dataclass(frozen=True)
class Field:
    """One feature of a record: its dtype when read, and its shape (None: any length)."""

    dtype: str
    shape: tuple[int | None, ...] = (None,)


_PAIR = {
    "inputs": Field("int32"),
    "targets": Field("int32"),
    "inputs_pretokenized": Field("string", ()),
    "targets_pretokenized": Field("string", ()),
}
FIELDS: dict[str, dict[str, Field]] = {
    "documents": {"ids": Field("int32"), "line_lengths": Field("int32")},
    "prompted": _PAIR,
    "ranked": _PAIR | {"idx": Field("int32", (2,)), "is_correct": Field("bool", ()), "weight": Field("float32", ())},
}


def shard_names(split: str, shards: int) -> list[str]:
    """The file names of the shards of a split."""
    return [f"{split}.tfrecord-{index:05d}-of-{shards:05d}" for index in range(shards)]


def describe(kind: str, shards: int, vocabulary: str, vocab_size: int) -> dict[str, Any]:
    """The part of an info file that does not depend on the records themselves."""
    return {
        "format": FORMAT,
        "kind": kind,
        "num_shards": shards,
        "features": {name: {"dtype": field.dtype, "shape": list(field.shape)} for name, field in FIELDS[kind].items()},
        "vocabulary": vocabulary,
        "vocab_size": vocab_size,
    }
