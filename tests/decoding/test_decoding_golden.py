"""Generation with the network of `hub_tiny` against the reference's, ids exactly and logits at 1e-4 (spec 2.9)."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.convert import load_hub_folder
from metro_jax.decoding import Beam, Greedy, bucket_length, decode
from metro_jax.model.cache import decode_step, init_cache, reorder, unstack_decoder
from metro_jax.model.network import EncoderDecoder
from metro_jax.text.ids import PAD, swap_ids

pytestmark = pytest.mark.golden
RULES = {"G": "4.17", "G_newer": "4.36"}  # Transformers versions behind the fixture's keys


@pytest.fixture(scope="module")
def loaded(golden_dir):
    config, params, *_ = load_hub_folder(golden_dir / "hub_tiny")
    return config, jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module")
def expected(golden_dir):
    with np.load(golden_dir / "hub_tiny_expected.npz") as arrays:
        return {name: arrays[name] for name in arrays if name.split(".")[0] in RULES}


@pytest.fixture(scope="module")
def generate(loaded):
    """generate(tokens, mask, max_length=, options=, ...) under jit; metro_jax ids and a mask of bools."""
    config, params = loaded
    # Compiling these small programs takes longer than running them.
    jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

    @functools.partial(jit, static_argnames="max_length")
    def encode(params, tokens, mask, max_length):
        encoded = EncoderDecoder(config).apply({"params": params}, tokens, mask, method="encode")
        return init_cache(unstack_decoder(params, config), config, encoded, mask, max_length)

    @functools.partial(jit, static_argnames=("max_length", "options", "return_logits"))
    def extend(params, cache, max_length, options, return_logits):
        decoder = unstack_decoder(params, config)
        return decode(
            lambda last, cache: decode_step(decoder, config, last, cache), cache, len(cache.past.visible),
            max_length=max_length, options=options, start_token=config.decoder_start_token, reorder=reorder,
            return_logits=return_logits,
        )  # fmt: skip

    def generate(tokens, mask, max_length, options, return_logits=False):
        return extend(params, encode(params, tokens, mask, max_length), max_length, options, return_logits)

    generate.compilations = lambda: (encode._cache_size(), extend._cache_size())
    return generate


def cases(expected, kind):
    """(key, sequences in metro_jax ids) of all cases of a kind in the fixture."""
    pattern = re.compile(rf"(?:{'|'.join(RULES)})\.{kind}\w*\.sequences")
    found = {key.removesuffix(".sequences"): swap_ids(expected[key]) for key in expected if pattern.fullmatch(key)}
    assert found, f"the fixture has no {kind} case"
    return found


def beam_options(key):
    """Options from a case's name: G_newer.beam4_lp2_ret2 -> 4 beams, length penalty 2, 2 sequences, newer rule."""
    prefix, name = key.split(".")
    fields = {"length_rule": RULES[prefix]}
    names = {"beam": ("num_beams", int), "lp": ("length_penalty", float), "ret": ("num_return_sequences", int)}
    names["early"] = ("early_stopping", lambda _: True)
    for part in name.split("_"):
        what, number = re.fullmatch(r"([a-z]+)([\d.]*)", part).groups()
        field, convert = names[what]
        fields[field] = convert(number)
    return Beam(**fields)


def source(expected, name="mask"):
    """Source ids and mask of a case: the one given, the one derived from the pads, or all ones."""
    tokens = swap_ids(expected["G.input_ids"]).astype(np.int32)
    masks = {"mask": expected["G.attention_mask"] != 0, "nomask": tokens != PAD, "ones": np.ones_like(tokens, bool)}
    return tokens, masks[name]


def test_greedy_equals_the_reference(expected, generate):
    for key, sequences in cases(expected, "greedy").items():
        tokens, mask = source(expected, key.rsplit("_", 1)[1])
        decoded = generate(tokens, mask, max_length=sequences.shape[1], options=Greedy(), return_logits=True)
        np.testing.assert_array_equal(decoded.tokens, sequences, err_msg=key)
        if f"{key}.step_logits" in expected:
            logits, valid = expected[f"{key}.step_logits"], expected[f"{key}.step_valid"]
            logits = logits[..., swap_ids(np.arange(logits.shape[-1]))]
            got = np.asarray(decoded.step_logits)[:, : logits.shape[1]]
            np.testing.assert_allclose(got[valid], logits[valid], atol=1e-4, rtol=0, err_msg=key)


def test_beam_search_equals_the_reference(expected, generate):
    tokens, mask = source(expected)
    for key, sequences in cases(expected, "beam").items():
        decoded = generate(tokens, mask, max_length=sequences.shape[1], options=beam_options(key))
        np.testing.assert_array_equal(decoded.tokens, sequences, err_msg=key)
        np.testing.assert_allclose(decoded.scores, expected[f"{key}.sequences_scores"], atol=1e-4, err_msg=key)


def test_logits_with_cache_equal_logits_without(loaded, expected, generate):
    config, params = loaded
    recompute = jax.jit(EncoderDecoder(config).apply)
    for key, sequences in cases(expected, "greedy").items():
        tokens, mask = source(expected, key.rsplit("_", 1)[1])
        decoded = generate(tokens, mask, max_length=sequences.shape[1], options=Greedy(), return_logits=True)
        inputs = decoded.tokens[:, :-1]
        whole = recompute({"params": params}, tokens, inputs, mask)
        # Rows before their end, and before a pad among the tokens, which only recomputation skips (spec 2.1).
        live = (np.arange(1, sequences.shape[1]) < decoded.lengths[:, None]) & ~np.cumsum(
            inputs == PAD, axis=1, dtype=bool
        )
        assert live.any()
        np.testing.assert_allclose(decoded.step_logits[live], whole[live], atol=1e-5, rtol=0, err_msg=key)


def test_new_lengths_in_a_bucket_do_not_compile_anew(loaded, generate):
    config, _ = loaded
    rng = np.random.default_rng(0)

    def answer(prompt, width):
        tokens = np.full((1, width), PAD, np.int32)
        tokens[0, : len(prompt)] = prompt
        return np.asarray(generate(tokens, tokens != PAD, max_length=9, options=Greedy()).tokens)

    before, buckets = np.asarray(generate.compilations()), set()
    for length in (17, 18, 21, 24, 25, 26, 31, 32):
        prompt = rng.integers(4, config.vocab_size, length)
        bucket = bucket_length(length)
        buckets.add(bucket)
        answer(prompt, bucket)
        assert (generate.compilations() - before == len(buckets)).all()
    assert len(buckets) == 2
    # What a bucket adds is masked: a prompt has the same answer in any bucket.
    prompt = rng.integers(4, config.vocab_size, 20)
    np.testing.assert_array_equal(answer(prompt, 24), answer(prompt, 32))
