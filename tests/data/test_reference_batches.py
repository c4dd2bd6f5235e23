"""Epochs of the reference, against the reference's numbers."""

import json

import pytest

from metro_jax.data import reference_batches as rb


@pytest.fixture(scope="module")
def pipeline(golden_dir):
    return json.loads((golden_dir / "pipeline.json").read_text())


def test_a_task_is_walked_through_before_it_repeats():
    epochs = [rb.epoch_items([10], [5], 3, epoch) for epoch in (1, 2, 3)]
    assert sorted(epochs[0] + epochs[1]) == [(0, i) for i in range(10)]
    assert epochs[2] == epochs[0]
    assert rb.epoch_items([3, 4], [3, None], 3, 5) == [(0, 0), (0, 1), (0, 2), *((1, i) for i in range(4))]


def test_batches_keep_to_the_budget():
    sizes = sorted([3, 9, 4, 4, 30, 12, 7, 7, 7, 2, 25, 1])
    batches = rb.batch_by_size(sizes, 40, 2)
    assert [i for batch in batches for i in batch] == list(range(len(sizes)))
    assert all(len(batch) * max(sizes[i] for i in batch) <= 40 for batch in batches)


@pytest.mark.golden
def test_golden_batches(pipeline):
    for case in pipeline["batch_by_size"]:
        found = rb.batch_by_size(case["sorted_sizes"], case["max_tokens"], case["required_batch_size_multiple"])
        assert found == case["batches"], case["name"]


@pytest.mark.golden
def test_golden_epochs(pipeline):
    case = pipeline["capped_mixture"]
    sizes, caps, seed = case["dataset_sizes"], case["caps"], case["seed"]
    found = rb.permutations(sizes, caps, seed)
    assert [None if p is None else p.tolist() for p in found] == case["permutations"]
    for epoch in case["epochs"]:
        number = epoch["epoch"]
        assert [list(item) for item in rb.epoch_items(sizes, caps, seed, number)] == epoch["items"]
        order = rb.ordered_by_length(epoch["src_sizes"], epoch["tgt_sizes"], seed)
        assert order.tolist() == epoch["ordered_indices"]
        lengths = [max(epoch["src_sizes"][i], epoch["tgt_sizes"][i]) for i in order]
        positions = rb.batch_by_size(lengths, case["max_tokens"], case["required_batch_size_multiple"])
        batches = [[int(order[i]) for i in batch] for batch in positions]
        assert batches == epoch["batches"]
        batches = rb.shuffled(batches, seed, number)
        assert batches == epoch["batches_after_epoch_shuffle"]
        assert rb.dealt(batches, 2) == [epoch["shard0of2"], epoch["shard1of2"]]
