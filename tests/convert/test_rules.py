"""The tables: complete, free of contradictions, and of the sizes that the published models have."""

import itertools
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from metro_jax.convert.apply import match
from metro_jax.convert.fairseq import fairseq_rules
from metro_jax.convert.hub import HUB_RULES
from metro_jax.convert.lazy import LazyTensor
from metro_jax.convert.rules import (
    RESHAPE,
    SWAP_ROWS,
    TRANSPOSE,
    config_fields,
    count_parameters,
    flatten,
    nest,
    param_shapes,
    sizes_of,
    tensor_shapes,
)
from metro_jax.model.config import RTD_HEADS, SHARING, MetroConfig, PretrainingConfig
from metro_jax.model.network import EncoderDecoder
from metro_jax.model.pretraining import MetroPretraining

from .conftest import CONFIG

PRETRAINING = [
    PretrainingConfig(sharing=sharing, rtd_head=head, generator_layers=2)
    for sharing, head in itertools.product(SHARING, RTD_HEADS)
]
TABLES = {"hub": HUB_RULES, "fairseq": fairseq_rules()} | {
    f"{p.sharing}.{p.rtd_head}": fairseq_rules(p) for p in PRETRAINING
}
SIZES = sizes_of(CONFIG) | {"G": 2}


def never():
    raise AssertionError("shapes are checked without reading values")


def unread(shapes):
    """Tensors of these shapes that cannot be read."""
    return {name: LazyTensor(tuple(shape), np.dtype(np.float16), never, name) for name, shape in shapes.items()}


@pytest.mark.parametrize("table", TABLES)
def test_names_and_paths_occur_once(table):
    names = [name for rule in TABLES[table] for name in rule.names]
    paths = [rule.param for rule in TABLES[table]]
    assert len(set(names)) == len(names)
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("table", TABLES)
def test_sizes_are_solved_from_shapes(table):
    rules = TABLES[table]
    for copies in (True, False):
        plan = match(rules, unread(tensor_shapes(rules, SIZES, copies)), "test")
        assert plan.sizes | {"G": 2, "1": 1} == SIZES | {"1": 1}


def shapes_of(module, *inputs):
    """Shapes of the parameters that a network makes for itself."""
    keys = {"params": jax.random.key(0), "sampling": jax.random.key(0)}
    made = jax.eval_shape(lambda *inputs: nn.unbox(module.init(keys, *inputs)), *inputs)
    return {path: value.shape for path, value in flatten(made["params"]).items()}


@pytest.mark.parametrize("table", ["hub", "fairseq"])
def test_the_tree_is_the_networks(table):
    tokens = np.zeros((1, 4), np.int32)
    assert param_shapes(TABLES[table], SIZES) == shapes_of(EncoderDecoder(CONFIG), tokens, tokens)


def test_every_format_gives_the_same_main_tree():
    main = param_shapes(HUB_RULES, SIZES)
    for name, rules in TABLES.items():
        shapes = param_shapes(rules, SIZES)
        assert {path: shape for path, shape in shapes.items() if path in main} == main, name
        assert all(path.startswith(("generator/", "rtd_head/")) for path in shapes if path not in main)


def test_changes_are_inverse():
    x = np.arange(24.0).reshape(4, 6)
    for change, shape in ((RESHAPE, (2, 2, 6)), (TRANSPOSE, (6, 2, 2)), (SWAP_ROWS, (4, 6))):
        there = change.to_param(x, shape)
        assert there.shape == shape
        np.testing.assert_array_equal(change.to_tensor(there, x.shape), x)


def test_kernels_compute_what_the_stored_maps_do():
    """y = x W' + b, heads as contiguous slices of y (spec 2.2, 2.3)."""
    rng = np.random.default_rng(0)
    d, h, k = 12, 3, 4
    weight, bias, x = rng.normal(size=(d, d)), rng.normal(size=d), rng.normal(size=(5, d))
    y = (x @ weight.T + bias).reshape(5, h, k)
    kernel = TRANSPOSE.to_param(weight, (d, h, k))
    np.testing.assert_allclose(np.einsum("td,dhk->thk", x, kernel) + RESHAPE.to_param(bias, (h, k)), y)
    out = TRANSPOSE.to_param(weight, (h, k, d))
    np.testing.assert_allclose(np.einsum("thk,hkd->td", y, out), y.reshape(5, d) @ weight.T)


def test_rows_of_the_two_ids_change_places():
    x = np.arange(10).reshape(5, 2)
    np.testing.assert_array_equal(SWAP_ROWS.to_param(x, x.shape), x[[1, 0, 2, 3, 4]])
    np.testing.assert_array_equal(x, np.arange(10).reshape(5, 2))


def test_every_vocabulary_axis_is_swapped():
    for rules in TABLES.values():
        for rule in rules:
            assert (rule.change is SWAP_ROWS) == ("V" in rule.axes.split())


def test_flatten_and_nest():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert nest(flatten(tree)) == tree
    assert flatten({"a": nn.Partitioned(np.ones(2), names=("embed",))})["a"].shape == (2,)


def test_configuration_and_sizes():
    assert CONFIG.replace(**config_fields(sizes_of(CONFIG))) == CONFIG


@pytest.mark.parametrize("pretraining", PRETRAINING, ids=lambda p: f"{p.sharing}.{p.rtd_head}")
def test_the_pretraining_tree_is_the_networks(pretraining):
    module = MetroPretraining(CONFIG.replace(padding="training"), pretraining=pretraining)
    tokens = np.ones((1, 8), np.int32)
    batch = {
        "encoder_input_tokens": tokens,
        "generator_target_tokens": np.zeros((1, 8), np.int32),
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
    }
    assert param_shapes(fairseq_rules(pretraining), SIZES) == shapes_of(module, batch)


@pytest.mark.parametrize(
    ("config", "total", "simple"),
    [
        (MetroConfig.base(), 225_618_432, 769),
        (MetroConfig.base_pp(), 249_604_608, 769),
        (MetroConfig.large_pp(), 773_644_288, 1025),
    ],
)
def test_published_sizes(config, total, simple):
    """Parameter counts of spec 1.1, the auxiliary model's with both ways of sharing, and the RTD heads'."""
    sizes = sizes_of(config) | {"G": 6 if config.d_model == 1024 else 4}
    assert count_parameters(HUB_RULES, sizes) == total
    d = config.d_model
    positions = config.position_rows * d + 2 * d
    counts = {p: count_parameters(fairseq_rules(p), sizes) - total for p in PRETRAINING}
    by_name = {(p.sharing, p.rtd_head): count for p, count in counts.items()}
    assert by_name["token", "simple"] - simple == by_name["token_pos_norm", "simple"] - simple + positions
    assert by_name["token", "roberta"] - by_name["token", "simple"] == d * d + 3 * d
    own = {768: {33280: 29_767_936, 64512: 29_799_168}, 1024: {64512: 77_758_464}}
    assert by_name["token", "simple"] - simple == own[d][config.vocab_size]


@pytest.mark.golden
def test_golden_published_shapes(golden_dir):
    """For every listed size: the table fits, counts what the list counts, and gives exactly the listed keys back."""
    listed = json.loads((golden_dir / "hub_state_dict_shapes.json").read_text())
    assert listed
    for entry in listed.values():
        shapes = {name: tuple(shape) for name, shape in entry["shapes"].items()}
        plan = match(HUB_RULES, unread(shapes), "published shapes")
        assert count_parameters(HUB_RULES, plan.sizes) == entry["unique_parameters"]
        assert tensor_shapes(HUB_RULES, plan.sizes) == shapes
        assert len(shapes) == entry["n_keys"]
