"""Layers: the relative bias against its definition, norms, the float16 guard."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from metro_jax.model.config import MetroConfig
from metro_jax.model.layers import (
    Attention,
    DecoderLayer,
    attention_weights,
    clamp_float16,
    einsum_to_float32,
    look_up,
    relative_bias,
    relative_buckets,
    take_rows,
    toeplitz,
)
from metro_jax.model.pretraining import gather


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


def test_attention_is_the_formula_of_the_specification() -> None:
    c = MetroConfig(d_model=12, num_heads=3, d_ff=8)
    rng = np.random.default_rng(0)
    x, source = rng.normal(size=(2, 4, 12)).astype(np.float32), rng.normal(size=(2, 5, 12)).astype(np.float32)
    mask, bias = rng.random((2, 1, 5)) < 0.7, rng.normal(size=(3, 4, 5)).astype(np.float32)
    mask[..., 0] = True
    shapes = nn.unbox(Attention(c).init(jax.random.key(0), jnp.asarray(x), jnp.asarray(source), None)["params"])
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), shapes)
    got = Attention(c).apply({"params": params}, *map(jnp.asarray, (x, source, mask, bias)))

    def heads(name: str, v: np.ndarray) -> np.ndarray:
        return (v @ params[name]["kernel"].reshape(12, 12)).reshape(*v.shape[:2], 3, 4) + params[name]["bias"]

    scores = np.einsum("bqhk,bshk->bhqs", heads("query", x) / 2.0, heads("key", source)) + bias
    scores = np.where(mask[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    joined = np.einsum("bhqs,bshk->bqhk", weights, heads("value", source)).reshape(2, 4, 12)
    expected = joined @ params["out"]["kernel"].reshape(12, 12) + params["out"]["bias"]
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


def test_decoder_layer_is_causal_by_its_gradient() -> None:
    """No output position has a gradient with respect to a later input."""
    c = MetroConfig(d_model=12, num_heads=3, d_ff=8)
    x, encoded = (jax.random.normal(jax.random.key(n), (1, 5, 12)) for n in (0, 1))
    mask = jnp.tril(jnp.ones((1, 5, 5), bool))
    params = nn.unbox(DecoderLayer(c).init(jax.random.key(2), x, mask, encoded, None))
    probe = jnp.arange(12.0)  # a plain sum of normalised outputs is constant
    jacobian = jax.jacobian(lambda x: DecoderLayer(c).apply(params, x, mask, encoded, None)[0] @ probe)(x)
    reach = np.abs(jacobian[:, 0]).max(axis=-1)  # [output, input]
    np.testing.assert_array_equal(reach > 0, np.tril(np.ones((5, 5), bool)))


def test_float16_guard_clamps_only_when_there_is_an_infinity() -> None:
    fine = jnp.asarray([65504.0, -3.0], jnp.float16)
    np.testing.assert_array_equal(clamp_float16(fine), fine)
    np.testing.assert_array_equal(
        clamp_float16(jnp.asarray([jnp.inf, 65504.0, -jnp.inf], jnp.float16)),
        np.asarray([64504, 64504, -64504], np.float16),
    )
    assert jnp.isinf(clamp_float16(jnp.asarray([jnp.inf], jnp.float32))).all()


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


def dots(jaxpr):
    """All matrix products of a trace, those inside other operations included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from dots(inner)


def test_products_of_bfloat16_attention_stay_in_bfloat16_backwards() -> None:
    """A float32 result would be multiplied back in float32: several times slower on GPUs."""
    config = MetroConfig(vocab_size=64, d_model=16, num_heads=2, d_ff=32, dtype="bfloat16")
    attention, x = Attention(config), jnp.ones((2, 4, 16), jnp.bfloat16)
    params = nn.unbox(attention.init(jax.random.key(0), x, x, None))

    def total(params, x):
        return attention.apply(params, x, x, None).astype(jnp.float32).sum()

    found = list(dots(jax.make_jaxpr(jax.grad(total, (0, 1)))(params, x).jaxpr))
    assert len(found) == 3 * 6  # four projections, scores, weighted values: forward and for both operands
    assert {v.aval.dtype for dot in found for v in dot.invars} == {jnp.dtype(jnp.bfloat16)}


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
