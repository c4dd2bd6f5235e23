"""Eight-bit weights: what is rounded, and what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.model.int8 import _by_planes, _widened, int8_matmul, quantize


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_weights_are_rounded_to_the_nearest_step_of_their_row() -> None:
    kernel = random(7, 33) * np.geomspace(1e-3, 1e3, 7, dtype=np.float32)[:, None]
    kernel[3] = 0
    stored = quantize(kernel)
    assert stored["kernel"].dtype == np.int8
    assert np.abs(stored["kernel"]).max() == 127
    back = stored["kernel"] * stored["scale"][:, None]
    assert (np.abs(back - kernel) <= 0.501 * stored["scale"][:, None]).all()
    assert (back[3] == 0).all()
    traced = jax.jit(quantize)(jnp.asarray(kernel))
    np.testing.assert_array_equal(traced["kernel"], stored["kernel"])


@pytest.mark.parametrize(
    "product", [int8_matmul, lambda x, k, s: _by_planes(x, k) * s, lambda x, k, s: _widened(x, k) * s]
)
def test_activations_keep_their_precision(product) -> None:
    x = random(5, 300, seed=1) * np.geomspace(1e-4, 1e4, 5, dtype=np.float32)[:, None]
    x[2] = 0
    stored = quantize(random(11, 300))
    exact = x.astype(np.float64) @ (stored["kernel"] * stored["scale"][:, None].astype(np.float64)).T
    got = np.asarray(product(jnp.asarray(x), jnp.asarray(stored["kernel"]), jnp.asarray(stored["scale"])))
    # An activation is off by at most half a step, 1 / (2 * 127 * 128) of its row's largest.
    bound = np.abs(x).max(axis=1)[:, None] / 32512 * np.abs(stored["kernel"] * stored["scale"][:, None]).sum(axis=1)
    assert (np.abs(got - exact) <= bound + 1e-5 * np.abs(exact).max(axis=1)[:, None]).all()
    assert (got[2] == 0).all()


def test_the_longest_row_does_not_overflow() -> None:
    ones = np.ones((1, 4096), np.float32)
    stored = quantize(ones)
    got = int8_matmul(jnp.asarray(ones * 7), jnp.asarray(stored["kernel"]), jnp.asarray(stored["scale"]))
    np.testing.assert_allclose(got, [[7 * 4096]], rtol=1e-5)
