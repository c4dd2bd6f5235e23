"""The relative bias against the reference, its definition and its other form."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.model.relative_position import relative_bias, relative_buckets, toeplitz


@pytest.mark.golden
def test_relative_buckets_equal_the_reference(golden_dir: pathlib.Path) -> None:
    with np.load(golden_dir / "relpos.npz") as arrays:
        names = [name for name in arrays if not name.startswith("line")]
        assert names
        for name in names:
            buckets, distance, length = (int(part[1:]) for part in name.split("_"))
            line = relative_buckets(buckets, distance, length, length)
            np.testing.assert_array_equal(line, arrays[f"line_{name}"], err_msg=name)
            np.testing.assert_array_equal(toeplitz(jnp.asarray(line)[None])[0], arrays[name], err_msg=name)


def test_shift_is_that_of_the_full_table() -> None:
    # Spec 2.4: 15 with a table of 1024 positions, 14 with one too short to reach the last bucket.
    assert relative_buckets(32, 128, 1024, 5)[4] == 15
    assert relative_buckets(32, 128, 64, 5)[4] == 14


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (128, 256), (16, 50)])
def test_buckets_are_monotonic_and_antisymmetric(buckets: int, distance: int) -> None:
    line = relative_buckets(buckets, distance, 1024, 700)
    assert (np.diff(line) >= 0).all()
    shift = line[699]
    np.testing.assert_array_equal(line - shift, -(line - shift)[::-1])
    assert line.min() == 0
    assert line.max() == 2 * shift <= buckets - 2


@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_toeplitz(length: int) -> None:
    line = np.arange(2 * (2 * length - 1), dtype=np.float32).reshape(2, -1)
    expected = [[[row[j - i + length - 1] for j in range(length)] for i in range(length)] for row in line]
    np.testing.assert_array_equal(toeplitz(jnp.asarray(line)), expected)


@pytest.mark.parametrize("platform", ["tpu", "default"])
def test_the_relative_bias_is_the_toeplitz_matrix_of_its_line(monkeypatch, platform):
    """Both forms, that of TPUs run here."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, **forms: forms[platform](*arrays))
    buckets = jnp.asarray(relative_buckets(8, 16, 64, 12))
    table = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(3, 12, 12)), jnp.float32)

    def by_product(table):
        return relative_bias(table, buckets)

    def by_line(table):
        return toeplitz(table[buckets].T)

    np.testing.assert_array_equal(by_product(table), by_line(table))
    found, expected = (jax.grad(lambda t, f=f: jnp.sum(f(t) * weight))(table) for f in (by_product, by_line))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
