"""Epochs with caps out of prepared records: which examples, in what order, on which host, and after a restart."""

import collections
import json
import os
import random

import pytest
import seqio
import tensorflow as tf
from etils import epath

from metro_jax.data import epochs, records
from metro_jax.data.reference_batches import epoch_items
from metro_jax.data.sources import PreparedSource
from metro_jax.data.vocabulary import MetroVocabulary, copy_vocabulary
from metro_jax.tasks import prompted

SIZES = {"small": 7, "large": 25, "middle": 12}
CAPS = {"small": 10, "large": 6, "middle": 6}
LENGTHS = {"inputs": 16, "targets": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer, vocabulary_folder):
    """Tasks whose targets say which example they are: the text of task, comma, number."""
    root = tmp_path_factory.mktemp("epochs")
    copy_vocabulary(epath.Path(vocabulary_folder), epath.Path(root / "vocab"))
    for name, size in SIZES.items():
        pairs = [(f"{name},{i}", "yes") for i in range(size)]
        records.write_prompted(root, name, "train", pairs, tokenizer, shards=3, progress=False)
    return root


def source_of(folder, caps=CAPS):
    vocabulary = MetroVocabulary(folder / "vocab")
    return epochs.EpochSource({name: PreparedSource(name, "prompted", vocabulary, folder) for name in SIZES}, caps)


def items(dataset):
    found = []
    for row in dataset.as_numpy_iterator():
        name, number = row["inputs_pretokenized"].decode().split(",")
        found.append((list(SIZES).index(name), int(number)))
    return found


def epochs_of(found, size):
    return [found[begin : begin + size] for begin in range(0, len(found), size)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_has_the_examples_of_the_reference(folder, shuffle):
    source = source_of(folder)
    size = source.num_input_examples("train")
    assert size == 19
    found = epochs_of(items(source.get_dataset(shuffle=shuffle, seed=3).take(6 * size)), size)
    for number, part in enumerate(found, start=1):
        assert sorted(part) == sorted(epoch_items(list(SIZES.values()), list(CAPS.values()), 3, number))
        in_order = [task for task, _ in part] == [0] * 7 + [1] * 6 + [2] * 6
        assert in_order is not shuffle


@pytest.mark.golden
def test_golden_items(golden_dir, tmp_path, tokenizer, vocabulary_folder):
    """Every epoch of the reference's own case, through records and TensorFlow."""
    case = json.loads((golden_dir / "pipeline.json").read_text())["capped_mixture"]
    vocabulary = MetroVocabulary(vocabulary_folder)
    sources, caps = {}, {}
    for number, (size, cap) in enumerate(zip(case["dataset_sizes"], case["caps"], strict=True)):
        name = f"task{number}"
        pairs = [(f"{number},{i}", "yes") for i in range(size)]
        records.write_prompted(tmp_path, name, "train", pairs, tokenizer, shards=2, progress=False)
        sources[name], caps[name] = PreparedSource(name, "prompted", vocabulary, tmp_path), cap
    dataset = epochs.EpochSource(sources, caps).get_dataset(seed=case["seed"])
    rows = iter(dataset.as_numpy_iterator())
    for epoch in case["epochs"]:
        found = [next(rows)["inputs_pretokenized"].decode() for _ in epoch["items"]]
        assert sorted(found) == sorted(f"{task},{i}" for task, i in epoch["items"])


def test_the_seed_decides(folder):
    first, again, other = (items(source_of(folder).get_dataset(seed=seed).take(40)) for seed in (3, 3, 4))
    assert first == again != other


def test_tasks_are_mixed_evenly(folder, monkeypatch):
    """In chunks smaller than an epoch every chunk has its share of each task."""
    counts = tf.constant([100, 3, 57], tf.int64)
    monkeypatch.setattr(epochs, "CHUNK", 40)
    order = [int(t) for t in epochs._order(counts, tf.constant([1, 2], tf.int64))]
    assert collections.Counter(order) == {0: 100, 1: 3, 2: 57}
    for part in epochs_of(order, 32):
        assert abs(part.count(0) - 20) <= 3
    assert order != sorted(order)


@pytest.mark.parametrize("hosts", [2, 5])
def test_hosts_share_every_epoch(folder, hosts):
    """By shards where every host gets one, else record by record."""
    parts = []
    for index in range(hosts):
        source = source_of(folder)
        with source.lasting(1):
            parts.append(items(source.get_dataset(seed=3, shard_info=seqio.ShardInfo(index, hosts))))
    together = sorted(item for part in parts for item in part)
    assert together == sorted(epoch_items(list(SIZES.values()), list(CAPS.values()), 3, 1))


def test_the_task_counts_epochs_and_goes_on_from_a_checkpoint(folder, tmp_path):
    prompted.register_epochs("three_epochs", CAPS, folder)
    task = seqio.TaskRegistry.get("three_epochs")
    assert task.splits == ("train",)
    assert len(items(task.get_dataset(LENGTHS, num_epochs=2, seed=3))) == 38
    running = iter(task.get_dataset(LENGTHS, num_epochs=None, seed=3))
    for _ in range(30):
        next(running)
    path = tf.train.Checkpoint(iterator=running).write(os.fspath(tmp_path / "state"))
    expected = [next(running)["inputs_pretokenized"].numpy() for _ in range(25)]
    restored = iter(task.get_dataset(LENGTHS, num_epochs=None, seed=3))
    tf.train.Checkpoint(iterator=restored).read(path).assert_consumed()
    assert [next(restored)["inputs_pretokenized"].numpy() for _ in range(25)] == expected
    seqio.TaskRegistry.remove("three_epochs")


def test_a_task_without_a_cap_comes_whole(folder):
    source = source_of(folder, dict.fromkeys(CAPS))
    with source.lasting(2):
        found = items(source.get_dataset(seed=random.Random(1).randint(1, 99)))
    everything = [(t, i) for t, size in enumerate(SIZES.values()) for i in range(size)]
    assert sorted(found) == sorted(everything * 2)


def test_tasks_without_a_split_are_left_out_where_that_is_asked_for(folder, tokenizer):
    vocabulary = MetroVocabulary(folder / "vocab")
    records.write_prompted(folder, "small", "test", [("small,0", "yes")] * 3, tokenizer, progress=False)
    sources = {name: PreparedSource(name, "prompted", vocabulary, folder) for name in SIZES}
    uncapped = dict.fromkeys(SIZES)
    whole, partial = epochs.EpochSource(sources, uncapped), epochs.EpochSource(sources, uncapped, partial=True)
    assert whole.splits == ("train",)
    assert partial.splits == ("test", "train")
    assert partial.num_input_examples("test") == len(list(partial.get_dataset("test").take(3))) == 3
    assert partial.list_shards("test") == sources["small"].list_shards("test")
    assert partial.num_input_examples("train") == whole.num_input_examples("train")
    with pytest.raises(FileNotFoundError, match="no split 'test'"):
        whole.num_input_examples("test")
