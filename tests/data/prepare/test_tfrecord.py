"""Records written without TensorFlow are those that TensorFlow writes and reads."""

import pytest
import tensorflow as tf

from metro_jax.data import records
from metro_jax.data.prepare import tfrecord
from metro_jax.text.varints import pack_varints


@pytest.mark.parametrize("lines", [[[5, 2]], [[2]], [[300, 33279, 70000, 2], [2], list(range(4, 400))], [[7] * 9000]])
def test_equal_to_tensorflow(tmp_path, lines):
    ids, lengths = [token for line in lines for token in line], [len(line) for line in lines]
    data = tfrecord.document(pack_varints(ids), lengths)
    assert data == records.serialize({"ids": ids, "line_lengths": lengths}, "documents")
    path = tmp_path / "file"
    path.write_bytes(tfrecord.frame(data) * 2)
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == [data, data]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        writer.write(data)
        writer.write(data)
    assert (tmp_path / "theirs").read_bytes() == path.read_bytes()
