"""Pretraining tasks end to end: records to batches, the same for the same seed, and resumable."""

import os

import numpy as np
import pytest
import seqio
import tensorflow as tf

from metro_jax.data import feature_converters as fc
from metro_jax.data import records
from metro_jax.data.preprocessors import max_masked
from metro_jax.tasks import pretraining

LENGTH = 64
LENGTHS = {"inputs": LENGTH, "targets": LENGTH}


def batches(name="metro_pretrain", pack=False, seed=0, shuffle=True, num_epochs=None, batch_size=4, shard_info=None):
    converters = {"metro": fc.MetroPretrainingFeatureConverter, "t5": fc.SpanCorruptionFeatureConverter}
    return seqio.get_dataset(
        name,
        LENGTHS,
        converters[name.split("_")[0]](pack=pack),
        dataset_split="train",
        shuffle=shuffle,
        seed=seed,
        num_epochs=num_epochs,
        batch_size=batch_size,
        shard_info=shard_info,
    )


def take(dataset, number):
    return list(dataset.take(number).as_numpy_iterator())


def equal(a, b):
    return all(x.keys() == y.keys() and all((x[k] == y[k]).all() for k in x) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("pack", [False, True])
def test_batches_hold_masked_blocks(data_folder, tokenizer, pack):
    for batch in take(batches(pack=pack), 8):
        inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        masked = batch["generator_target_tokens"] != 0
        real = targets != 0
        assert inputs.shape == targets.shape == (4, LENGTH)
        assert ((inputs != 0) == real).all()
        assert (inputs == targets)[real & ~masked].all()
        assert (batch["generator_target_tokens"][masked] == targets[masked]).all()
        segments = fc.MAX_SEGMENTS if pack else 1
        assert masked.sum(1).max() <= max_masked(LENGTH, max_segments=segments)
        starts = batch["decoder_positions"] == 0 if pack else np.arange(LENGTH)[None] == 0
        assert (targets[real & starts] == tokenizer.bos_id).all()
        assert (batch["decoder_input_tokens"][real & starts] == tokenizer.mask_id).all()


def test_one_epoch_is_the_whole_corpus(data_folder, prepared):
    """Every line that fits in a block comes through once, in its own document."""
    rows = take(batches(shuffle=False, num_epochs=1, batch_size=1), -1)
    found = sorted(tuple(i for i in row["decoder_target_tokens"][0] if i > 1) for row in rows)
    lines = []
    for document in records.read_records(prepared, "corpus", "train", "documents"):
        ends = np.cumsum(document["line_lengths"])
        lines += [document["ids"][e - n : e].tolist() for n, e in zip(document["line_lengths"], ends, strict=True)]
    assert sum(map(len, found)) == sum(min(len(line), LENGTH - 1) for line in lines)


def test_epochs_differ_and_seeds_decide(data_folder):
    first = take(batches(seed=3, shuffle=False), 60)
    assert equal(first, take(batches(seed=3, shuffle=False), 60))
    assert not equal(first, take(batches(seed=4, shuffle=False), 60))
    blocks = {}
    for batch in first:
        for inputs, targets in zip(batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True):
            blocks.setdefault(targets.tobytes(), set()).add(inputs.tobytes())
    assert max(len(masks) for masks in blocks.values()) > 1  # a block that came again was masked anew


@pytest.mark.parametrize(("name", "pack"), [("metro_pretrain", True), ("t5_pretrain", False)])
def test_the_iterator_goes_on_from_a_checkpoint(data_folder, tmp_path, name, pack):
    dataset = batches(name, pack)
    running = iter(dataset)
    for _ in range(5):
        next(running)
    path = tf.train.Checkpoint(iterator=running).write(os.fspath(tmp_path / "state"))
    expected = [{k: v.numpy() for k, v in next(running).items()} for _ in range(6)]
    restored = iter(batches(name, pack))
    tf.train.Checkpoint(iterator=restored).read(path).assert_consumed()
    assert equal(expected, [{k: v.numpy() for k, v in next(restored).items()} for _ in range(6)])


def test_small_data_is_not_kept_in_memory(data_folder, monkeypatch):
    """seqio would; and what is kept in memory is written with every state of an iterator."""

    def cache(*_):
        raise AssertionError("the records are kept in memory")

    monkeypatch.setattr(tf.data.Dataset, "cache", cache)
    assert take(batches(), 1)


def test_hosts_read_different_documents(data_folder):
    parts = []
    for index in range(2):
        info = seqio.ShardInfo(index=index, num_shards=2)
        rows = take(batches(shuffle=False, num_epochs=1, batch_size=1, shard_info=info), -1)
        parts.append([row["decoder_target_tokens"].tobytes() for row in rows])
    assert all(parts)
    assert len(set(parts[0]) & set(parts[1])) <= 2  # documents of one short line may be the same


def test_span_corruption_gives_back_the_blocks(data_folder, tokenizer):
    for batch in take(batches("t5_pretrain"), 4):
        for inputs, targets in zip(batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True):
            inputs, targets = inputs[inputs != 0].tolist(), targets[targets != 0].tolist()
            assert targets[-1] == tokenizer.mask_id
            hidden: dict[int, list[int]] = {}
            for token in targets[:-1]:
                if token > tokenizer.mask_id:
                    hidden[token] = []
                else:
                    hidden[list(hidden)[-1]].append(token)
            block = [i for token in inputs for i in (hidden.pop(token) if token > tokenizer.mask_id else [token])]
            assert not hidden
            assert block[0] == tokenizer.bos_id
            assert all(token < tokenizer.mask_id for token in block)
        assert (batch["decoder_input_tokens"][:, 0] == tokenizer.mask_id).all()


def test_other_rates_and_corpora_can_be_registered(data_folder, tokenizer):
    pretraining.register_metro_pretrain("metro_letters", "letters", rate=0.5, keep=0.0, randomise=0.0)
    for batch in take(batches("metro_letters"), 2):
        masked = batch["generator_target_tokens"] != 0
        assert (batch["encoder_input_tokens"][masked] == tokenizer.mask_id).all()
        assert masked.sum() / (batch["decoder_target_tokens"] != 0).sum() == pytest.approx(0.5, abs=0.06)
    seqio.TaskRegistry.remove("metro_letters")
