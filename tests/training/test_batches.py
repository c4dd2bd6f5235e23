"""Batches do not depend on who reads them, and go on where they were."""

import itertools

import numpy as np
import pytest

from metro_jax.data.feature_converters import EncoderDecoderFeatureConverter
from metro_jax.training.batches import Batches, evaluation_batches, restore_position, save_position
from metro_jax.training.checkpoint_paths import data_shards
from metro_jax.training.partitioning import DataLayout
from metro_jax.training.utils import DatasetConfig

LENGTHS = {"inputs": 16, "targets": 4}
CFG = DatasetConfig("both", LENGTHS, "train", 8, module="metro_jax.tasks.prepared")


def read(shard_id, num_shards, of=None, cfg=CFG):
    return Batches(cfg, DataLayout(shard_id, num_shards, True), EncoderDecoderFeatureConverter, seed=1, num_shards=of)


def joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def test_any_number_of_processes_that_divides_the_shards_reads_the_same(data):
    alone, both = read(0, 1, of=4), [read(0, 2, of=4), read(1, 2, of=4)]
    assert alone.shapes["encoder_input_tokens"] == both[0].shapes["encoder_input_tokens"] == (8, 16)
    for _ in range(5):
        assert_same(next(alone), joined([next(part) for part in both]))
    with pytest.raises(ValueError, match="read in 3 shards, which 2 groups"):
        read(0, 2, of=3)


def test_two_processes_go_on_where_one_stopped(data, tmp_path):
    alone = read(0, 1, of=2)
    for _ in range(3):
        next(alone)
    save_position(alone, tmp_path / "dataset")
    assert data_shards(tmp_path) == 2
    both = [read(0, 2), read(1, 2)]
    for part in both:
        restore_position(part, tmp_path / "dataset")
    for _ in range(12):  # beyond the end of an epoch
        assert_same(next(alone), joined([next(part) for part in both]))
    (tmp_path / "dataset" / "train_ds-00001-of-00002.index").unlink()
    assert data_shards(tmp_path) is None
    assert data_shards(tmp_path / "nowhere") is None


def test_evaluation_reads_everything_and_fills_up_with_pads(data):
    cfg = DatasetConfig("prompts", LENGTHS, "validation", 4, shuffle=False, module="metro_jax.tasks.prepared")
    batches = list(evaluation_batches(cfg, EncoderDecoderFeatureConverter, 1, 20))
    rows = joined(batches)["encoder_input_tokens"]
    assert rows.shape == (12, 16)  # ten examples
    assert rows[:10].any(axis=1).all()
    assert not rows[10:].any()
    assert len(list(evaluation_batches(cfg, EncoderDecoderFeatureConverter, 1, 2))) == 2


def test_data_without_examples_is_named(data):
    batches = read(0, 1)
    batches.iterators = dict(enumerate([itertools.chain()]))
    with pytest.raises(ValueError, match="'both', split 'train', gives no batch"):
        next(batches)
