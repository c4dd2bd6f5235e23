"""Packing several examples into rows."""

import numpy as np
import pytest
import tensorflow as tf

from metro_jax.data import packing


def rows_of(sizes, capacity, max_segments=None):
    return packing.assign_rows(tf.constant(sizes, tf.int32), capacity, max_segments).numpy().tolist()


def test_an_example_goes_to_the_first_row_with_room():
    assert rows_of([[5], [6], [3], [4], [2]], [10]) == [0, 1, 0, 1, 0]
    assert rows_of([[5, 9], [5, 2], [5, 1]], [10, 10]) == [0, 1, 0]  # every stream needs room
    assert rows_of([[1]] * 5, [10], max_segments=2) == [0, 0, 1, 1, 2]


def examples(number, seed=0):
    random = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        n, m = random.integers(1, 12), random.integers(1, 8)
        tokens = random.integers(1, 99, n).astype(np.int32)
        found.append(
            {"inputs": tokens, "marks": tokens * (tokens % 3 == 0), "targets": random.integers(1, 99, m, np.int32)}
        )
    return found


@pytest.mark.parametrize(("max_segments", "window"), [(None, 64), (3, 64), (2, 7)])
def test_unpacking_gives_back_every_example(max_segments, window):
    source = examples(50)
    spec = {name: tf.TensorSpec([None], tf.int32) for name in source[0]}
    dataset = tf.data.Dataset.from_generator(lambda: iter(source), output_signature=spec)
    streams = {"inputs": ("inputs", "marks"), "targets": ("targets",)}
    packed = packing.pack(dataset, streams, {"inputs": 20, "targets": 16}, max_segments, window)
    assert {name: tuple(value.shape) for name, value in packed.element_spec.items()} == {
        "inputs": (20,),
        "marks": (20,),
        "targets": (16,),
        "inputs_segment_ids": (20,),
        "inputs_positions": (20,),
        "targets_segment_ids": (16,),
        "targets_positions": (16,),
    }
    found = []
    for row in packed.as_numpy_iterator():
        segments = row["inputs_segment_ids"].max()
        assert segments == row["targets_segment_ids"].max() <= (max_segments or 99)
        for segment in range(1, segments + 1):
            example = {}
            for stream, names in streams.items():
                where = row[f"{stream}_segment_ids"] == segment
                assert row[f"{stream}_positions"][where].tolist() == list(range(where.sum()))
                example |= {name: row[name][where].tolist() for name in names}
            found.append(example)
        for stream, names in streams.items():
            padding = row[f"{stream}_segment_ids"] == 0
            assert not any(row[name][padding].any() for name in (*names, f"{stream}_positions"))
    key = str
    assert sorted(found, key=key) == sorted(({n: v.tolist() for n, v in e.items()} for e in source), key=key)


def test_long_examples_are_cut_and_rows_fill_up():
    dataset = tf.data.Dataset.from_tensor_slices(np.ones((40, 9), np.int32)).map(lambda x: {"targets": x})
    rows = list(packing.pack(dataset, {"targets": ("targets",)}, {"targets": 6}).as_numpy_iterator())
    assert len(rows) == 40
    rows = list(packing.pack(dataset, {"targets": ("targets",)}, {"targets": 36}).as_numpy_iterator())
    assert len(rows) == 10
