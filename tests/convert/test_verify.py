"""The proof itself: it must see what differs, wherever that is."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from metro_jax.convert.conversion import convert
from metro_jax.convert.errors import ConversionError, MissingFileError
from metro_jax.convert.lazy import LazyStack, LazyTensor
from metro_jax.convert.rules import flatten, nest
from metro_jax.convert.source import open_checkpoint
from metro_jax.convert.verify import compare_tensors, render, verify

from .test_conversion import model  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("fast_network")


@pytest.fixture(scope="module")
def source(model):  # noqa: F811
    return open_checkpoint(model)


def changed(source, path, layer, change):
    """The source with one tensor changed."""
    flat = dict(flatten(source.params))
    parts = list(flat[path].parts)
    value = change(np.array(parts[layer]))
    parts[layer] = LazyTensor(value.shape, value.dtype, lambda: value, "changed")
    flat[path] = LazyStack(parts)
    return dataclasses.replace(source, params=nest(flat))


def test_equal_sides(source, tmp_path):
    convert(source, tmp_path / "out", "hub")
    report = verify(source, open_checkpoint(tmp_path / "out"))
    assert report["passed"]
    assert report["tensors"]["equal"] == report["tensors"]["count"] == 1 + 3 + 3 + 3 * 17 + 2 * 26
    assert report["tensors"]["largest_difference"] == report["network"]["logits"]["largest_difference"] == 0
    assert [len(x) for x in report["network"]["layers"].values()] == [4, 3]  # the embedding and every layer
    rows = report["network"]["prompts"]
    assert all(row["top_equal"] and row["generated_equal"] and len(row["top"]["source"]) == 5 for row in rows)
    assert "verdict  same model" in render(report)


@pytest.mark.parametrize("layer", [0, 2])
def test_one_number_in_one_layer(source, layer):
    def change(value):
        value[1] += 1
        return value

    other = changed(source, "encoder/layers/mlp/wo/bias", layer, change)
    report = verify(source, other)
    assert not report["passed"]
    wrong = [(row["name"], row["layer"]) for row in report["tensors"]["rows"] if not row["equal"]]
    assert wrong == [("encoder/layers/mlp/wo/bias", layer)]
    # Layers before the change agree, those after do not.
    differences = report["network"]["layers"]["encoder"]
    assert all(x == 0 for x in differences[: layer + 1])
    assert all(x > 0 for x in differences[layer + 1 :])
    assert report["network"]["logits"]["largest_difference"] > 0
    assert "NOT THE SAME MODEL" in render(report)


def test_a_lost_relative_distance_is_seen(source):
    """Equal tensors under another configuration are another model."""
    config = source.config.replace(relative_attention_max_distance=20, relative_attention_num_buckets=16)
    report = verify(source, dataclasses.replace(source, config=config))
    assert report["tensors"]["passed"]
    assert not report["network"]["passed"]
    assert not report["passed"]


def test_a_change_of_number_type_is_measured_and_passes(source, tmp_path):
    convert(source, tmp_path / "out", "hub", dtype="bfloat16")
    report = verify(source, open_checkpoint(tmp_path / "out"))
    assert report["passed"]
    assert 0 < report["tensors"]["largest_difference"] < 0.05
    assert report["network"]["logits"]["largest_difference"] > 0
    assert report["tensors"]["rows"][0]["dtypes"] == ["float16", "bfloat16"]


def test_what_the_other_side_lacks(source):
    flat = dict(flatten(source.params))
    flat["extra"] = flat["token_embedding"]
    rows = compare_tensors(source.params, nest(flat))
    assert [row["name"] for row in rows if not row["equal"]] == ["extra"]


def test_without_a_vocabulary_ids_are_asked(source):
    bare = dataclasses.replace(source, vocabulary=None)
    report = verify(bare, bare)
    assert report["passed"]
    assert all(row["prompt"].startswith("ids ") for row in report["network"]["prompts"])


def test_the_original_is_asked_only_where_it_can_be(source, tmp_path):
    with pytest.raises(MissingFileError, match=r"has no configuration_fairseq_t5\.py, modeling_fairseq_t5\.py"):
        verify(source, source, code=tmp_path)
    if importlib.util.find_spec("torch") is None:
        for name in ("configuration_fairseq_t5", "modeling_fairseq_t5"):
            (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
        with pytest.raises(ConversionError, match="needs torch and transformers"):
            verify(source, source, code=tmp_path)
    fairseq = dataclasses.replace(source, form="fairseq")
    with pytest.raises(ConversionError, match="reads Hub folders"):
        verify(fairseq, fairseq, code=tmp_path)
