"""Layers: attention, causality, the float16 guard, the precision of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from metro_jax.model.config import MetroConfig
from metro_jax.model.layers import Attention, DecoderLayer, clamp_float16


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
