"""Products with the weights are the same in every form that is fast somewhere."""

import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.model import products


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rows", [1, 2, products.FEW_ROWS, products.FEW_ROWS + 1])
@pytest.mark.parametrize("outputs", [6, 7])
def test_any_number_of_rows_gives_the_product(dtype: str, rows: int, outputs: int) -> None:
    rng = np.random.default_rng(2)
    x, kernel = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((rows, 32), (outputs, 32)))
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64).T
    got = products.matmul(x, kernel, jnp.float32)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    rounded = products.matmul(x, kernel)
    assert rounded.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(np.asarray(rounded, np.float32), expected, rtol=1e-2, atol=1e-2)
