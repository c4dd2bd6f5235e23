"""Prompted and ranked tasks and their mixtures, through seqio."""

import collections
import os

import numpy as np
import pytest
import seqio
import tensorflow as tf

from metro_jax.data import feature_converters as fc
from metro_jax.data import records
from metro_jax.tasks import prompted

LENGTHS = {"inputs": 48, "targets": 16}


@pytest.fixture
def tasks(data_folder):
    for name in ("liked", "stars"):
        prompted.register_prompted(name)
    prompted.register_ranked("ranked", "liked_score_eval")
    return data_folder


def batches(name, split="train", pack=False, lengths=LENGTHS, **kwargs):
    converter = fc.EncoderDecoderFeatureConverter(pack=pack)
    kwargs = {"shuffle": True, "seed": 0, "num_epochs": None, "batch_size": 4} | kwargs
    return seqio.get_dataset(name, lengths, converter, dataset_split=split, **kwargs)


def test_batches_hold_the_prepared_ids(tasks):
    found = set()
    for batch in batches("liked", num_epochs=1, batch_size=1).as_numpy_iterator():
        row = batch["decoder_target_tokens"][0]
        found.add((batch["encoder_input_tokens"][0].tobytes(), row.tobytes()))
        assert batch["decoder_input_tokens"][0, 0] == 2
    pad = lambda ids, n: np.pad(ids, (0, n - len(ids))).astype(np.int32).tobytes()  # noqa: E731
    written = records.read_records(tasks, "liked", "train", "prompted")
    assert found == {(pad(row["inputs"], 48), pad(row["targets"], 16)) for row in written}


def test_long_examples_are_cut_before_eos_or_dropped(tasks):
    lengths = {"inputs": 8, "targets": 16}
    cut = list(batches("liked", lengths=lengths, num_epochs=1, batch_size=1).as_numpy_iterator())
    full = [batch["encoder_input_tokens"][0] for batch in cut if batch["encoder_input_tokens"][0, -1]]
    assert full
    assert all(row[0] == 1 and row[-1] == 2 for row in full)
    prompted.register_prompted("liked_short", "liked", too_long="drop")
    kept = list(batches("liked_short", lengths=lengths, num_epochs=1, batch_size=1).as_numpy_iterator())
    longest = [len(row["inputs"]) for row in records.read_records(tasks, "liked", "train", "prompted")]
    assert len(kept) == sum(n <= 8 for n in longest) < len(cut)
    seqio.TaskRegistry.remove("liked_short")


def test_rates_are_proportional_to_capped_sizes(tasks):
    mixture = prompted.register_mixture("capped", ["liked", "stars"], cap=16)
    assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == {"liked": 16.0, "stars": 8.0}
    own = prompted.register_mixture("own", {"liked": None, "stars": 3})
    assert {task.name: own.get_rate(task) for task in own.tasks} == {"liked": 40.0, "stars": 3.0}
    origin = {}
    for name in ("liked", "stars"):
        for row in records.read_records(tasks, name, "train", "prompted"):
            origin[row["inputs"].tobytes()] = name
    counts = collections.Counter()
    for batch in batches("capped", batch_size=1).take(600).as_numpy_iterator():
        row = batch["encoder_input_tokens"][0]
        counts[origin[row[row != 0].tobytes()]] += 1
    assert counts["liked"] / 600 == pytest.approx(2 / 3, abs=0.08)  # four standard deviations


def test_a_mixture_goes_on_from_a_checkpoint(tasks, tmp_path):
    prompted.register_mixture("capped", ["liked", "stars"], cap=16)
    running = iter(batches("capped", pack=True))
    for _ in range(7):
        next(running)
    path = tf.train.Checkpoint(iterator=running).write(os.fspath(tmp_path / "state"))
    expected = [next(running)["encoder_input_tokens"].numpy() for _ in range(5)]
    restored = iter(batches("capped", pack=True))
    tf.train.Checkpoint(iterator=restored).read(path).assert_consumed()
    for batch in expected:
        assert (next(restored)["encoder_input_tokens"].numpy() == batch).all()


def test_ranked_tasks_are_scored_by_seqio(tasks):
    """With the right choice given the best score, then another one."""
    labels = {}
    for row in seqio.TaskRegistry.get("ranked").get_dataset(LENGTHS, "validation", shuffle=False).as_numpy_iterator():
        labels[len(labels)] = bool(row["is_correct"])
    evaluator = seqio.Evaluator(
        "ranked", fc.EncoderDecoderFeatureConverter(pack=False), sequence_length=LENGTHS, use_memory_cache=False
    )
    for sign, accuracy in ((1, 100.0), (-1, 0.0)):

        def score(dataset, *_, sign=sign):
            return [(int(index), sign * float(labels[int(index)])) for index, _ in dataset.as_numpy_iterator()]

        metrics, _ = evaluator.evaluate(compute_metrics=True, score_fn=score)
        assert metrics.result()["ranked"] == {"accuracy": accuracy, "examples": 9}
    evaluator.close()


def test_rank_rows_come_straight_from_batches_too(tasks):
    dataset = seqio.get_dataset(
        "ranked", LENGTHS, fc.RankFeatureConverter(), dataset_split="validation", shuffle=False, batch_size=3
    )
    for batch in dataset.as_numpy_iterator():  # three choices each, kept together by the shards
        assert len(set(batch["idx"][:, 0])) == 1
        assert batch["idx"][:, 1].tolist() == [0, 1, 2]
        assert batch["is_correct"].sum() == 1
