"""What `decode` promises for every algorithm: errors, and memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.decoding import Beam, Greedy, Sample, decode


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": "beem"}, r"options='beem' is not a way to decode.*did you mean Beam\(\)"),
        ({"options": Beam}, "is not a way to decode"),
        ({"batch": 0}, "batch=0"),
        ({"max_length": 1}, "max_length=1 must be a whole number of at least 2: the start token counts"),
        ({"limit": 1}, "limit=1"),
        ({"limit": 99}, "limit=99 is more than max_length=8"),
        ({"eos": 7, "pad": 7}, "eos and pad are both 7"),
        ({"options": Sample()}, r"give rng, for example jax.random.key\(0\)"),
        ({"options": Beam(2), "return_logits": True}, "return_logits=True: a beam search"),
        (
            {"options": Beam(2), "cache": {"keys": [jnp.zeros((3, 4))]}},
            r"cache\['keys'\]\[0\] has shape \(3, 4\).* 4 rows",
        ),
    ],
)
def test_bad_arguments_say_what_and_why(toy_model, changes, message):
    model = toy_model(0, 7, (0, 0, 4))
    arguments = {"cache": model.cache(), "batch": 4, "max_length": 8, "eos": model.eos, "pad": model.pad, **changes}
    with pytest.raises(ValueError, match=message):
        decode(model.step, arguments.pop("cache"), arguments.pop("batch"), **arguments)


def test_start_tokens_may_differ_by_row(toy_model):
    model = toy_model(1, 7, (-9, -9, 3))
    starts = jnp.asarray([3, 4, 6])
    decoded = decode(model.step, model.cache(), 3, max_length=4, start_token=starts, eos=model.eos, pad=model.pad)
    for row, tokens in enumerate(np.asarray(decoded.tokens).tolist()):
        assert tokens[0] == starts[row]
        assert tokens[1] == np.argmax(model.logits(row, tokens[:1]))


def shapes_with_vocabulary_and_length(model, **arguments):
    """Shapes in the lowered program of which one axis is a multiple of the vocabulary and another of the length."""
    vocab, length = model.table.shape[1], 53

    def program(cache):
        return decode(
            model.step, cache, model.rows, max_length=length, eos=model.eos, pad=model.pad, **arguments
        )  # fmt: skip

    text = jax.jit(program).lower(model.cache()).as_text()
    shapes = {tuple(int(n) for n in dims.split("x")[:-1]) for dims in re.findall(r"tensor<((?:\d+x)+\w+)>", text)}
    assert any(shape[-1:] == (vocab,) for shape in shapes)
    return [
        shape
        for shape in shapes
        if any(a % vocab == 0 and b % length in (0, length - 1) for a in shape for b in shape if a and b >= length - 1)
    ]


def test_no_tensor_of_vocabulary_times_length(toy_model):
    model = toy_model(0, 97, (0, 0, 2))
    rng = jax.random.key(0)
    for options in (Greedy(), Beam(4, num_return_sequences=2), Sample(top_k=5, top_p=0.9)):
        assert shapes_with_vocabulary_and_length(model, options=options, rng=rng) == []
    assert shapes_with_vocabulary_and_length(model, options=Greedy(), return_logits=True) == [(2, 52, 97)]
