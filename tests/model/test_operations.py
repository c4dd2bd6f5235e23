"""Products, attention weights and look-ups: values and gradients are those of the plain operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.model.operations import attention_weights, einsum_to_float32, look_up, take_rows
from metro_jax.model.pretraining import gather


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_look_ups_are_the_same_on_tpu_as_elsewhere(monkeypatch, dtype):
    """The form that TPUs get, run here: the same values, bit for bit, and the same gradients."""
    draw = np.random.default_rng(0)
    table = jnp.asarray(draw.normal(size=(9, 4)), jnp.float32)
    states = jnp.asarray(draw.normal(size=(2, 9, 4)), dtype)
    index = jnp.asarray([[0, 3, 3], [8, 1, 9]])

    def both():
        values = take_rows(table, jnp.minimum(index, 8), dtype), gather(states, index)
        gradients = (
            jax.grad(lambda t: jnp.sum(take_rows(t, jnp.minimum(index, 8), dtype).astype(jnp.float32) ** 2))(table),
            jax.grad(lambda x: jnp.sum(gather(x, index).astype(jnp.float32) ** 2))(states),
        )
        return values, gradients

    values, gradients = both()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, tpu, default: tpu(*arrays))
    on_tpu, their_gradients = both()
    for found, expected in zip(on_tpu, values, strict=True):
        np.testing.assert_array_equal(found, expected)
    tolerance = 1e-6 if dtype == "float32" else 2e-2
    for found, expected in zip(their_gradients, gradients, strict=True):
        np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_einsum_and_weights_are_those_of_the_plain_operations(dtype) -> None:
    draw = np.random.default_rng(0)
    query, key = (jnp.asarray(draw.normal(size=(2, 5, 3, 4)), dtype) for _ in range(2))
    value = jnp.asarray(draw.normal(size=(2, 3, 5, 5)), jnp.float32)

    def ours(query, key):
        scores = einsum_to_float32("bqhk,bshk->bhqs", query, key)
        return jnp.sum(attention_weights(scores, dtype).astype(jnp.float32) * value)

    def plain(query, key):
        query, key = query.astype(jnp.float32), key.astype(jnp.float32)
        return jnp.sum(jax.nn.softmax(jnp.einsum("bqhk,bshk->bhqs", query, key)) * value)

    for found, expected in zip(jax.grad(ours, (0, 1))(query, key), jax.grad(plain, (0, 1))(query, key), strict=True):
        assert found.dtype == dtype
        tolerance = 1e-6 if dtype == "float32" else 0.03
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=tolerance)


def test_the_gradient_of_a_look_up_adds_up_in_float32() -> None:
    """A row used 4,000 times: bfloat16 stops adding ones at 256."""
    table, index = jnp.ones((3, 2), jnp.float32), jnp.full((4000,), 1)
    gradient = jax.grad(lambda t: look_up(t, index, jnp.bfloat16).astype(jnp.float32).sum())(table)
    np.testing.assert_array_equal(gradient, [[0, 0], [4000, 4000], [0, 0]])
