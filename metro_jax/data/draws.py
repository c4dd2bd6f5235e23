"""Random draws from stateless seeds, shared by the pretraining steps; a seed is an integer tensor of shape [2]."""

from collections.abc import Callable
from typing import Any, cast

import seqio
import tensorflow as tf

_stateless_split = tf.random.experimental.stateless_split  # type: ignore[attr-defined]
_stateless_shuffle = tf.random.experimental.stateless_shuffle  # type: ignore[attr-defined]


def map_with_seed(dataset: tf.data.Dataset, fn: Callable[[Any, tf.Tensor], Any]) -> tf.data.Dataset:
    """Maps fn(element, seed) over a dataset with the next of seqio's seeds for every element."""
    return cast(tf.data.Dataset, seqio.map_over_dataset(fn, num_seeds=1)(dataset))


def split(seed: tf.Tensor, count: int) -> list[tf.Tensor]:
    """`count` independent seeds."""
    return tf.unstack(_stateless_split(seed, count))


def shuffle(values: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The values in random order."""
    return _stateless_shuffle(values, seed)


def uniform(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Uniform on [0, 1), double precision: single precision would round rate * n + U up now and then."""
    return tf.random.stateless_uniform(shape, seed, dtype=tf.float64)


def uniform_ids(shape: tf.Tensor, seed: tf.Tensor, low: int, high: int) -> tf.Tensor:
    """Uniform on low .. high - 1; int32."""
    return tf.random.stateless_uniform(shape, seed, low, high, tf.int32)


def positions(length: tf.Tensor, count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A bool vector of `length` with `count` true entries, drawn without replacement."""
    chosen = shuffle(tf.range(length), seed)[:count]
    return tf.scatter_nd(chosen[:, None], tf.ones_like(chosen, tf.bool), tf.reshape(length, [1]))


def stochastic_floor(value: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """floor(value + U) of a float64 scalar, U uniform on [0, 1); int32."""
    return tf.cast(tf.floor(value + uniform(tf.constant([], tf.int32), seed)), tf.int32)
