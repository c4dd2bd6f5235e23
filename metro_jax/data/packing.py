"""Packing: several short examples share one row, told apart by segment ids; first fit, in TensorFlow ops only.

seqio's own packing cuts features at their first zero count and cannot limit the number of examples per row; METRO's
generator targets are mostly zeros, and the number of masked positions of a row is bounded through its segments.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

WINDOW = 128  # examples considered together; the last rows of a window stay partly empty, about 1 row in 30


def assign_rows(sizes: tf.Tensor, capacity: Sequence[int], max_segments: int | None = None) -> tf.Tensor:
    """Puts each example into the first row with room for it.

    Args:
      sizes: int32 [examples, streams], lengths of each example in each stream (encoder, decoder).
      capacity: length of a row in each stream.
      max_segments: most examples in one row.

    Returns:
      int32 [examples], the row of each example; rows are numbered from 0 in the order in which they are opened.
    """
    count = tf.shape(sizes)[0]
    free = tf.repeat(tf.constant([list(capacity)], tf.int32), count, axis=0)
    slots = tf.fill([count], count if max_segments is None else max_segments)

    def step(i: tf.Tensor, free: tf.Tensor, slots: tf.Tensor, rows: tf.TensorArray) -> tuple:
        room = tf.reduce_all(free >= sizes[i], axis=1) & (slots > 0)
        row = tf.argmax(tf.cast(room, tf.int32), output_type=tf.int32)
        free = tf.tensor_scatter_nd_sub(free, [[row]], sizes[i : i + 1])
        slots = tf.tensor_scatter_nd_sub(slots, [[row]], [1])
        return i + 1, free, slots, rows.write(i, row)

    rows = tf.TensorArray(tf.int32, size=count, element_shape=[])
    *_, rows = tf.while_loop(lambda i, *_: i < count, step, (0, free, slots, rows))
    return rows.stack()


def segments_and_offsets(sizes: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For each example its segment number in its row (from 1) and, per stream, where it begins there."""
    earlier = tf.linalg.band_part(tf.cast(rows[:, None] == rows[None, :], tf.int32), -1, 0)  # same row, up to itself
    return tf.reduce_sum(earlier, 1), tf.matmul(earlier, sizes) - sizes


def pack(
    dataset: tf.data.Dataset,
    streams: Mapping[str, Sequence[str]],
    lengths: Mapping[str, int],
    max_segments: int | None = None,
    window: int = WINDOW,
) -> tf.data.Dataset:
    """Packs examples into rows.

    Args:
      dataset: examples with 1-D int32 features.
      streams: stream name -> features that run in step (equal lengths in every example); the first sets the length.
      lengths: stream name -> length of a row.
      max_segments: most examples in one row; None for no limit.

    Returns:
      Rows with every feature of the streams, and STREAM_segment_ids (from 1) and STREAM_positions (from 0); 0 in
      padding. Examples longer than a row are cut.
    """
    names = [name for features in streams.values() for name in features]
    limits = {name: lengths[stream] for stream, features in streams.items() for name in features}

    def cut(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        kept = {name: example[name][: limits[name]] for name in names}
        sizes = tf.stack([tf.size(kept[features[0]]) for features in streams.values()])
        return {f"feature/{name}": value for name, value in kept.items()} | {"sizes": sizes}

    def pack_window(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        sizes = batch["sizes"]
        rows = assign_rows(sizes, [lengths[stream] for stream in streams], max_segments)
        segments, offsets = segments_and_offsets(sizes, rows)
        packed = {}
        for number, (stream, features) in enumerate(streams.items()):
            length = lengths[stream]
            position = tf.repeat(tf.range(length)[None], tf.shape(rows)[0], axis=0)
            real = position < sizes[:, number, None]
            target = tf.stack(
                [tf.broadcast_to(rows[:, None], tf.shape(position)), offsets[:, number, None] + position], 2
            )
            where = tf.boolean_mask(target, real)

            def put(
                values: tf.Tensor, where: tf.Tensor = where, real: tf.Tensor = real, length: int = length
            ) -> tf.Tensor:
                values = tf.boolean_mask(tf.broadcast_to(values, tf.shape(real)), real)
                return tf.scatter_nd(where, values, [tf.reduce_max(rows) + 1, length])

            packed |= {name: put(batch[f"feature/{name}"]) for name in features}
            packed[f"{stream}_segment_ids"] = put(segments[:, None])
            packed[f"{stream}_positions"] = put(position)
        return packed

    shapes = {f"feature/{name}": [limits[name]] for name in names} | {"sizes": [len(streams)]}
    windows = dataset.map(cut, tf.data.AUTOTUNE).padded_batch(window, padded_shapes=shapes)
    return windows.map(pack_window, tf.data.AUTOTUNE).unbatch()
