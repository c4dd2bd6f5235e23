"""Cached decoding equals the full pass, position by position."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.model.cache import decode_step, init_cache, unstack_decoder
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import EncoderDecoder


@pytest.mark.parametrize("padding", ["training", "hub"])
def test_cached_logits_equal_uncached_ones(tiny: MetroConfig, tiny_params: Any, padding: str) -> None:
    config = tiny.replace(padding=padding)
    rng = np.random.default_rng(0)
    source, target = rng.integers(4, 50, (3, 8)), jnp.asarray(rng.integers(4, 50, (3, 6)), jnp.int32)
    source[1, 5:] = 0
    mask = jnp.asarray(source != 0)
    model = EncoderDecoder(config)
    full = model.apply({"params": tiny_params}, jnp.asarray(source), target, mask)
    encoded = model.apply({"params": tiny_params}, jnp.asarray(source), mask, method="encode")
    params = unstack_decoder(tiny_params, config)
    cache = init_cache(params, config, encoded, mask, max_length=9)
    step = jax.jit(lambda tokens, cache: decode_step(params, config, tokens, cache))
    for t in range(target.shape[1]):
        logits, cache = step(target[:, t], cache)
        np.testing.assert_allclose(logits, full[:, t], atol=1e-5)
    assert int(cache.index) == target.shape[1]


def test_unstacking_is_done_once(tiny: MetroConfig, tiny_params: Any) -> None:
    once = unstack_decoder(tiny_params, tiny)
    assert unstack_decoder(once, tiny) is once
    assert len(once["decoder"]["layers"]) == tiny.num_decoder_layers


def test_too_long_a_text_is_refused(tiny: MetroConfig, tiny_params: Any) -> None:
    with pytest.raises(ValueError, match=r"generated text.*65"):
        init_cache(tiny_params, tiny, jnp.zeros((1, 3, 16)), jnp.ones((1, 3), bool), 65)
