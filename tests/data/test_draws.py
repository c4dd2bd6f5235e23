"""Random draws from stateless seeds."""

import numpy as np
import tensorflow as tf

from metro_jax.data import draws


def seed(number):
    return tf.constant([number, 7], tf.int64)


def test_positions_are_as_many_as_asked_and_all_alike():
    counts = np.zeros(12)
    for number in range(200):
        chosen = draws.positions(tf.constant(12), tf.constant(3), seed(number)).numpy()
        assert chosen.sum() == 3
        counts += chosen
    assert abs(counts / 200 - 0.25).max() < 0.12  # four standard deviations
    assert not draws.positions(tf.constant(4), tf.constant(0), seed(0)).numpy().any()
    assert draws.positions(tf.constant(4), tf.constant(4), seed(0)).numpy().all()


def test_stochastic_floor_has_the_mean_of_its_value():
    values = [int(draws.stochastic_floor(tf.constant(2.3, tf.float64), seed(number))) for number in range(300)]
    assert set(values) == {2, 3}
    assert abs(np.mean(values) - 2.3) < 0.11  # four standard deviations


def test_a_seed_decides_the_draw():
    first, second = draws.split(seed(1), 2)
    values = tf.range(50)
    assert (draws.shuffle(values, first) == draws.shuffle(values, first)).numpy().all()
    assert not (draws.shuffle(values, first) == draws.shuffle(values, second)).numpy().all()
    ids = draws.uniform_ids(tf.constant([1000]), first, 4, 9).numpy()
    assert set(ids) == {4, 5, 6, 7, 8}
