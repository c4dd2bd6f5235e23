"""The network arranged for inference computes what the network computes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.model import serving
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import EncoderDecoder, position_rows

# Compiling these small programs takes longer than running them.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    source = np.random.default_rng(0).integers(4, 50, (3, 8))
    source[1, 5:] = 0
    return source


def test_restoring_gives_back_every_bit(tiny: MetroConfig, tiny_params: Any) -> None:
    host = jax.tree.map(np.asarray, tiny_params)
    for again in (
        serving.restore(serving.prepare(host, tiny), tiny),
        jit(lambda params: serving.restore(serving.prepare(params, tiny), tiny))(tiny_params),
    ):
        jax.tree.map(np.testing.assert_array_equal, again, host)
    assert isinstance(serving.prepare(host, tiny)["token_embedding"]["kernel"], np.ndarray)


@pytest.mark.parametrize("padding", ["training", "hub"])
def test_encoder_and_decoder_equal_the_network(
    tiny: MetroConfig, tiny_params: Any, source: np.ndarray, padding: str
) -> None:
    config = tiny.replace(padding=padding)
    target = jnp.asarray(np.random.default_rng(1).integers(4, 50, (3, 6)))
    weights = serving.prepare(jax.tree.map(np.asarray, tiny_params), config)
    mask = jnp.asarray(source != 0)
    model: Any = EncoderDecoder(config)
    causal = jnp.broadcast_to(jnp.tril(jnp.ones((6, 6), bool)), (3, 6, 6))

    @jit
    def theirs(params: Any, source: Any) -> Any:
        encoded, hidden, *_ = model.apply({"params": params}, source, target, mask, method="hidden_states")
        return encoded, hidden, model.apply({"params": params}, hidden, method="project")

    @jit
    def ours(weights: Any, source: Any) -> Any:
        encoded = serving.encode(weights, config, source, mask)
        hidden = serving.decode(weights, config, target, position_rows(target), causal, encoded, mask)
        return encoded, hidden, serving.project(weights["token_embedding"], hidden)

    expected, got = theirs(tiny_params, jnp.asarray(source)), ours(weights, jnp.asarray(source))
    real = source != 0
    np.testing.assert_allclose(np.asarray(got[0])[real], np.asarray(expected[0])[real], atol=1e-5)
    np.testing.assert_allclose(got[1], expected[1], atol=1e-5)
    np.testing.assert_allclose(got[2], expected[2], atol=1e-4)


def test_int8_is_close(tiny: MetroConfig, tiny_params: Any, source: np.ndarray) -> None:
    host = jax.tree.map(np.asarray, tiny_params)
    exact, rounded = (serving.prepare(host, tiny, int8=int8) for int8 in (False, True))
    mask = jnp.asarray(source != 0)
    encode = jit(lambda weights, tokens: serving.encode(weights, tiny, tokens, mask))
    a, b = (np.asarray(encode(weights, jnp.asarray(source))) for weights in (exact, rounded))
    assert 0 < np.abs(a - b)[source != 0].max() < 0.1 * np.abs(a).max()
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(rounded)}
    assert kinds == {"int8", "float32"}
    norms = rounded["decoder"]["layers"][0]["mlp_norm"]
    np.testing.assert_array_equal(norms["scale"], exact["decoder"]["layers"][0]["mlp_norm"]["scale"])


def test_a_query_that_sees_nothing_takes_the_average(tiny: MetroConfig) -> None:
    rng = np.random.default_rng(4)
    query, key, value = (jnp.asarray(rng.normal(size=(2, 4, 3, 8)), jnp.float32) for _ in range(3))
    bias = jnp.asarray(rng.normal(size=(4, 3, 3)), jnp.float32)
    mask = np.ones((2, 3, 3), bool)
    mask[0, 1], mask[1, :, 2] = False, False
    config = tiny.replace(d_model=32, num_heads=4)
    got, weights = map(np.asarray, serving.attend(query, key, value, jnp.asarray(mask), config, bias))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(weights[0, :, 1], 1 / 3, atol=1e-7)
    assert (weights[1, ..., 2] == 0).all()
    expected = np.einsum("bhqs,bhsk->bqhk", weights, value).reshape(2, 3, 32)
    np.testing.assert_allclose(got, expected, atol=1e-6)
