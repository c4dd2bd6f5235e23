"""Span corruption of the T5 baseline as TensorFlow ops (spec 4.3): draws first, then what follows from them."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from metro_jax.data import draws
from metro_jax.data.preprocessors import MASK_RATE, Features, feature_length

EMPTY_RATE = 0.1  # of the masked share goes to empty spans (spec 4.3)
LONGEST_SPAN = 5  # span lengths are about uniform on 1..5 (spec 4.3)


def max_sentinels(length: int, rate: float = MASK_RATE, empty: float = EMPTY_RATE, longest: int = LONGEST_SPAN) -> int:
    """The largest number of sentinels of a block: spans (one may wrap to position 0), empty spans, the closing one."""
    spans = int(rate * (1 - empty) * length / ((1 + longest) / 2)) + 2
    return spans + (int(rate * empty * length + 1) if empty else 0) + 1


def draw_spans(
    length: tf.Tensor, seed: tf.Tensor, rate: float = MASK_RATE, empty: float = EMPTY_RATE, longest: int = LONGEST_SPAN
) -> tuple[tf.Tensor, tf.Tensor]:
    """Bool vectors of shape [length]: the hidden tokens, and the positions with an empty span before them."""
    seeds = iter(draws.split(seed, 2 * longest + 2))
    tokens = tf.cast(length, tf.float64)
    count = draws.stochastic_floor(rate * (1 - empty) * tokens / ((1 + longest) / 2), next(seeds))
    indices = draws.shuffle(tf.range(length), next(seeds))[:count]
    marked = [indices]
    for step in range(longest - 1):  # keep some of the spans, and let those grow by one token
        count = draws.stochastic_floor(tf.cast(count, tf.float64) * (1 - 1 / (longest - step)), next(seeds))
        indices = tf.math.floormod(draws.shuffle(indices, next(seeds))[:count] + 1, length)
        marked.append(indices)
    where = tf.concat(marked, 0)
    masked = tf.scatter_nd(where[:, None], tf.ones_like(where), tf.reshape(length, [1])) > 0
    if empty == 0:
        return masked, tf.zeros_like(masked)

    hidden = tf.reduce_sum(tf.cast(masked, tf.float64))
    wanted = tf.maximum(draws.stochastic_floor(rate * tokens - hidden, next(seeds)), 0)
    wanted = tf.minimum(wanted, tf.cast(tf.floor(rate * empty * tokens + 1), tf.int32))
    near = masked | tf.concat([[False], masked[:-1]], 0) | tf.concat([masked[1:], [False]], 0)
    candidates = tf.where(tf.logical_not(near))
    free = tf.shape(candidates)[0]
    chosen = draws.positions(free, tf.minimum(wanted, free), next(seeds))
    return masked, tf.tensor_scatter_nd_update(tf.zeros_like(masked), candidates, chosen)


def apply_spans(
    tokens: tf.Tensor, masked: tf.Tensor, empties: tf.Tensor, sentinel: int, limit: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Inputs and targets; sentinels count on from `sentinel`, the id of `<sen000>`, which ends the targets.

    The inputs and the body of the targets are cut to `limit`, so that the targets may have one more.
    """
    begins = masked & tf.logical_not(tf.concat([[False], masked[:-1]], 0))
    marks = begins | empties
    numbers = sentinel + tf.cumsum(tf.cast(marks, tokens.dtype))
    both = tf.stack([numbers, tokens], 1)  # at every position first its sentinel, then its token
    inputs = tf.boolean_mask(both, tf.stack([marks, tf.logical_not(masked)], 1))
    targets = tf.boolean_mask(both, tf.stack([marks, masked], 1))
    return inputs[:limit], tf.concat([targets[:limit], [sentinel]], 0)


def corrupt_spans(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, Any],
    rate: float = MASK_RATE,
    empty: float = EMPTY_RATE,
    longest: int = LONGEST_SPAN,
) -> tf.data.Dataset:
    """Blocks in `targets` to `inputs` with sentinels and `targets` with what they hide.

    Raises:
      ValueError: the vocabulary has too few sentinels for blocks of this length.
    """
    limit = feature_length(sequence_length, "inputs")
    vocabulary = output_features["targets"].vocabulary
    needed, present = max_sentinels(limit, rate, empty, longest), vocabulary.vocab_size - vocabulary.mask_id
    if needed > present:
        raise ValueError(
            f"blocks of {limit} tokens can need {needed} sentinels but the vocabulary has {present}: "
            "make the blocks shorter or load the vocabulary with more sentinels"
        )
    sentinel = vocabulary.mask_id

    def corrupt(block: Features, seed: tf.Tensor) -> Features:
        masked, empties = draw_spans(tf.size(block["targets"]), seed, rate, empty, longest)
        inputs, targets = apply_spans(block["targets"], masked, empties, sentinel, limit)
        return {"inputs": inputs, "targets": targets}

    return draws.map_with_seed(dataset, corrupt)
