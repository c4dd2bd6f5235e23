"""Records written without TensorFlow are those that TensorFlow writes and reads."""

import numpy as np
import pytest
import tensorflow as tf

from metro_jax.data import records
from metro_jax.data.prepare import tfrecord
from metro_jax.text.varints import pack_varints

DOCUMENTS = [
    [[5, 2]],
    [[2]],
    [[300, 33279, 70000, 2], [2], list(range(4, 400))],
    [[7] * 9000],
    [[9, 2]] * 300,
    [[70000] * 130, [7] * 127, [7] * 128],
]


def test_equal_to_tensorflow(tmp_path):
    lines = [line for document in DOCUMENTS for line in document]
    packed = [pack_varints(line) for line in lines]
    last = np.cumsum([len(document) for document in DOCUMENTS])
    content = tfrecord.frames(
        np.frombuffer(b"".join(packed), np.uint8),
        np.array([len(part) for part in packed]),
        np.array([len(line) for line in lines]),
        np.append(0, last)[:-1],
        last,
    )
    expected = [
        records.serialize(
            {"ids": [token for line in document for token in line], "line_lengths": [len(line) for line in document]},
            "documents",
        )
        for document in DOCUMENTS
    ]
    path = tmp_path / "file"
    path.write_bytes(content)
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == expected
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in expected:
            writer.write(record)
    assert (tmp_path / "theirs").read_bytes() == content


@pytest.mark.parametrize("line", [[], [2]])
def test_documents_can_be_left_out(line):
    packed = np.frombuffer(pack_varints([*line, 5, 2]), np.uint8)
    sizes = counts = np.array([len(line), 2])
    only = tfrecord.frames(packed, sizes, counts, np.array([1]), np.array([2]))
    assert only == tfrecord.frames(packed[len(line) :], sizes[1:], counts[1:], np.array([0]), np.array([1]))
    nothing = np.zeros(0, np.int64)
    assert tfrecord.frames(packed, sizes, counts, nothing, nothing) == b""
