"""Tables applied: round trips, and misfits that are all listed at once."""

import ml_dtypes
import numpy as np
import pytest

from metro_jax.convert.apply import cast, check_params, match, to_params, to_tensors
from metro_jax.convert.errors import ConversionError, TensorMismatchError
from metro_jax.convert.hub import HUB_RULES
from metro_jax.convert.rules import flatten, nest, sizes_of

F16, F32, BF16 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)


@pytest.fixture
def sizes(config):
    return sizes_of(config)


@pytest.fixture
def tensors(params, sizes):
    return {name: np.asarray(value) for name, value in to_tensors(HUB_RULES, sizes, params, "float32").items()}


def problems(tensors):
    with pytest.raises(TensorMismatchError) as caught:
        match(HUB_RULES, tensors, "the test")
    for lines in caught.value.problems.values():
        assert all(line in str(caught.value) for line in lines)
    return caught.value.problems


def test_there_and_back_is_bit_equal(params, sizes, tensors):
    plan = match(HUB_RULES, tensors, "the test")
    assert {letter: plan.sizes[letter] for letter in sizes} == sizes
    back = flatten(to_params(plan, tensors))
    expected = flatten(params)
    assert set(back) == set(expected)
    for path, value in expected.items():
        assert back[path].dtype == np.float32
        np.testing.assert_array_equal(back[path], value)


def test_half_precision_is_kept_on_request(params, tensors):
    halves = {name: value.astype(np.float16) for name, value in tensors.items()}
    plan = match(HUB_RULES, halves, "the test")
    for dtype in ("float16", "stored"):
        back = flatten(to_params(plan, halves, dtype))
        for path, value in flatten(params).items():
            assert back[path].dtype == np.float16
            np.testing.assert_array_equal(back[path], value)
    assert flatten(to_params(plan, halves, "bfloat16"))["token_embedding"].dtype == ml_dtypes.bfloat16


def test_the_result_is_memory_of_its_own(tensors):
    params = flatten(to_params(match(HUB_RULES, tensors, "the test"), tensors))
    before = {path: value.copy() for path, value in params.items()}
    for value in tensors.values():
        if value.flags.writeable:
            value += 1
    for path, value in params.items():
        np.testing.assert_array_equal(value, before[path])


def test_all_misfits_are_listed(tensors):
    tensors["decoder.block.0.layer.2.DenseReluDense.wi.weight"] = np.zeros((20, 13), np.float32)
    tensors["encoder.first_layer_norm.bias"] = np.zeros((12, 1), np.float32)
    tensors["decoder.first_layer_norm.bias"] = np.zeros(12, np.int64)
    del tensors["encoder.block.1.layer.0.SelfAttention.q.bias"]
    del tensors["decoder.block.0.layer.1.layer_norm.weight"]
    tensors["encoder.block.1.layer.0.SelfAttention.Q.bias"] = np.zeros(12, np.float32)
    tensors["encoder.block.01.layer.0.SelfAttention.q.bias"] = np.zeros(12, np.float32)
    tensors["final_layer_norm.weight"] = np.zeros(12, np.float32)
    found = problems(tensors)
    assert found["misshapen"] == [
        "encoder.first_layer_norm.bias: shape (12, 1), expected 1 axes (d)",
        "decoder.block.0.layer.2.DenseReluDense.wi.weight: shape (20, 13), expected (20, 12) (f d)",
    ]
    assert found["missing"] == [
        "encoder.block.1.layer.0.SelfAttention.q.bias",
        "decoder.block.0.layer.1.layer_norm.weight",
    ]
    assert [line.split()[0] for line in found["unknown"]] == [
        "encoder.block.1.layer.0.SelfAttention.Q.bias",
        "encoder.block.01.layer.0.SelfAttention.q.bias",
        "final_layer_norm.weight",
    ]
    assert "nearest known: encoder.block.0.layer.0.SelfAttention." in found["unknown"][0]
    assert [line.split(":")[0] for line in found["of a wrong type"]] == ["decoder.first_layer_norm.bias"]


def test_every_single_missing_tensor_is_noticed(tensors):
    tied = set(HUB_RULES[0].names)
    for name in set(tensors) - tied:
        rest = {key: value for key, value in tensors.items() if key != name}
        assert problems(rest) == {"missing": [name]}
    for name in tied:
        match(
            HUB_RULES, {key: value for key, value in tensors.items() if key not in tied - {name}}, "one copy is enough"
        )
    found = problems({key: value for key, value in tensors.items() if key not in tied})
    assert "shared.weight" in found["missing"][0]


def test_every_single_misshapen_tensor_is_noticed(tensors):
    for name, value in tensors.items():
        other = {**tensors, name: np.zeros((value.shape[0] + 1, *value.shape[1:]), np.float32)}
        (line,) = problems(other)["misshapen"]
        # One position table's word stands against the other's.
        assert line.startswith(name) or ("pos_embed" in name and "pos_embed" in line)


def test_missing_layers(tensors):
    rest = {name: value for name, value in tensors.items() if not name.startswith("encoder.block.1.")}
    assert problems(rest)["missing"] == ["encoder.block.1.* (the whole layer)"]
    moved = {name.replace("encoder.block.2.", "encoder.block.99999."): value for name, value in tensors.items()}
    assert problems(moved)["missing"] == ["encoder.block.2.* to 99998.* (whole layers)"]
    none = {name: value for name, value in tensors.items() if not name.startswith("decoder.block.")}
    missing = problems(none)["missing"]
    assert missing
    assert all(name.startswith("decoder.block.0.") for name in missing)


def test_nothing_at_all():
    found = problems({})
    assert len(found["missing"]) == len(HUB_RULES)


def test_heads_that_do_not_divide_the_width(tensors):
    changed = {
        name: np.zeros((16, 5), np.float32) if name.endswith("relative_attention_bias.weight") else value
        for name, value in tensors.items()
    }
    assert "not a multiple of the 5 heads" in problems(changed)["misshapen"][0]


def test_empty_and_tiny_vocabularies(tensors):
    for rows, reason in ((0, "is empty"), (1, "no room")):
        changed = {name: value[:rows] if name in HUB_RULES[0].names else value for name, value in tensors.items()}
        assert any(reason in line for line in problems(changed)["misshapen"])


def test_parameters_that_do_not_fit_are_all_listed(params, sizes):
    flat = flatten(params)
    flat["encoder/layers/mlp/wi/kernel"] = flat["encoder/layers/mlp/wi/kernel"][:2]
    flat["decoder/position_embedding"] = flat["decoder/position_embedding"].astype(np.int32)
    flat["encoder/layers/mlp/wi/bais"] = flat.pop("encoder/layers/mlp/wi/bias")
    with pytest.raises(TensorMismatchError) as caught:
        check_params(HUB_RULES, sizes, nest(flat), "the test")
    assert {kind: [line.split()[0].strip(":") for line in lines] for kind, lines in caught.value.problems.items()} == {
        "missing": ["encoder/layers/mlp/wi/bias"],
        "unknown": ["encoder/layers/mlp/wi/bais"],
        "misshapen": ["encoder/layers/mlp/wi/kernel"],
        "of a wrong type": ["decoder/position_embedding"],
    }


@pytest.mark.parametrize(
    ("value", "source", "target", "lost"),
    [
        (65504.0, F32, F16, False),
        (65536.0, F32, F16, True),
        (-1e30, BF16, F16, True),
        (3e38, F32, BF16, False),
        (3.4028235e38, F32, BF16, True),
        (1e300, np.dtype(np.float64), F32, True),
        (np.inf, F32, F16, False),
        (np.nan, F32, F16, False),
        (1e-30, F32, F16, False),
    ],
)
def test_overflow_is_an_error(value, source, target, lost):
    array = np.array([1.0, value], source)
    if not lost:
        assert cast("w", array, target).dtype == target
        return
    with pytest.raises(ConversionError, match=f"w: 1 values do not fit into {target}"):
        cast("w", array, target)


@pytest.mark.parametrize("dtype", ["float61", "int8", "float64", None])
def test_unknown_number_types(params, sizes, dtype):
    with pytest.raises(ConversionError, match="choose one of"):
        to_tensors(HUB_RULES, sizes, params, dtype)
