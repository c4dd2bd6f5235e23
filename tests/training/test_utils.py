"""Datasets as a run reads them."""

import dataclasses

import numpy as np
import pytest

from metro_jax.data.feature_converters import EncoderDecoderFeatureConverter, MetroPretrainingFeatureConverter
from metro_jax.training.errors import UserError
from metro_jax.training.models import EncoderDecoderModel
from metro_jax.training.utils import DatasetConfig, check_fits, create_learning_rate_scheduler, get_dataset

PREPARED = "metro_jax.tasks.prepared"
CFG = DatasetConfig("prompts", {"inputs": 16, "targets": 4}, "train", 4, module=PREPARED)


def take(cfg, count, converter=EncoderDecoderFeatureConverter, seed=1, **options):
    dataset = get_dataset(cfg, 0, 1, converter, seed=seed, **options)
    return list(dataset.take(count).as_numpy_iterator())


def test_batches_have_the_features_of_the_converter(data):
    batch = take(CFG, 1)[0]
    assert batch["encoder_input_tokens"].shape == (4, 16)
    assert batch["decoder_target_tokens"].shape == (4, 4)


def test_the_seed_of_the_run_orders_the_examples_unless_the_dataset_has_its_own(data):
    def first(seed, own=None):
        return take(dataclasses.replace(CFG, seed=own), 3, seed=seed)[2]["encoder_input_tokens"]

    np.testing.assert_array_equal(first(1), first(1))
    assert not np.array_equal(first(1), first(2))
    np.testing.assert_array_equal(first(1, own=5), first(2, own=5))


def test_training_repeats_and_one_epoch_ends(data):
    assert len(take(CFG, 15)) == 15  # 40 examples are 10 batches
    assert len(take(CFG, 15, num_epochs=1)) == 10


def test_mixtures_and_pretraining(data):
    assert len(take(dataclasses.replace(CFG, mixture_or_task_name="both"), 2)) == 2
    cfg = DatasetConfig("metro_pretrain", {"inputs": 32, "targets": 32}, "train", 4, pack=True, module=PREPARED)
    batch = take(cfg, 1, MetroPretrainingFeatureConverter)[0]
    assert batch["encoder_segment_ids"].max() > 1
    assert (batch["generator_target_tokens"] > 0).sum() > 0


def test_unknown_tasks_are_answered_with_the_nearest(data):
    with pytest.raises(UserError, match=r"'promts' is not registered.*prompts"):
        take(dataclasses.replace(CFG, mixture_or_task_name="promts"), 1)
    with pytest.raises(UserError, match=r"'no_such_task'.*MIXTURE_OR_TASK_MODULE"):
        take(dataclasses.replace(CFG, mixture_or_task_name="no_such_task", module=None), 1)
    with pytest.raises(UserError, match=r"'metro_jax.tasks.prepred' cannot be imported"):
        take(dataclasses.replace(CFG, module="metro_jax.tasks.prepred"), 1)


def test_unknown_splits_and_uneven_shares(data):
    with pytest.raises(UserError, match="no split 'tran'; it has 'train', 'validation'"):
        take(dataclasses.replace(CFG, split="tran"), 1)
    with pytest.raises(UserError, match="batch_size=5 is not a multiple of the 2 shards"):
        get_dataset(dataclasses.replace(CFG, batch_size=5), 0, 2, EncoderDecoderFeatureConverter)


def test_what_the_model_cannot_read_is_refused(data, model):
    check_fits(model, CFG)
    with pytest.raises(UserError, match=r"'inputs' has length 65, .*end at 64; give 64 or less"):
        check_fits(model, dataclasses.replace(CFG, task_feature_lengths={"inputs": 65, "targets": 4}))
    with pytest.raises(UserError, match="length '8'"):
        check_fits(model, dataclasses.replace(CFG, task_feature_lengths={"inputs": "8"}))
    small = EncoderDecoderModel(dataclasses.replace(model.config, vocab_size=100))
    with pytest.raises(
        UserError, match=r"has \d+ ids, the model's token matrix 100 rows; set MetroConfig.vocab_size=\d+"
    ):
        check_fits(small, CFG)


def test_the_schedule_is_found_under_t5xs_name():
    assert float(create_learning_rate_scheduler(factors="constant", base_learning_rate=2.0)(1)) == 2.0
