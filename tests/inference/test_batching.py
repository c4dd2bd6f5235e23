"""Batches hold every input once; trees of targets hold every target and nothing twice."""

import numpy as np
import pytest

from metro_jax.inference import batching
from metro_jax.inference.batching import NODES_PER_BATCH, Tree, batches, grow, pack, shown

START = 2


@pytest.mark.parametrize(("count", "size", "shards"), [(1, 32, 1), (7, 3, 1), (10, 4, 4), (5, 32, 2)])
def test_every_input_is_in_one_batch(count: int, size: int, shards: int) -> None:
    rng = np.random.default_rng(count)
    sources = [rng.integers(4, 90, rng.integers(2, 70)).tolist() for _ in range(count)]
    made = batches(sources, size, shards, 128)
    assert sorted(row for batch in made for row in batch.rows) == list(range(count))
    for rows, tokens in made:
        assert len(rows) <= size
        assert len(tokens) % shards == 0
        for i, row in enumerate(rows):
            assert tokens[i][tokens[i] != 0].tolist() == sources[row]
        assert (tokens[len(rows) :] == tokens[0]).all()
    widths = [tokens.shape[1] for _, tokens in made]
    assert widths == sorted(widths, reverse=True)


def test_a_tree_shares_beginnings() -> None:
    targets = [[7, 8, 3], [7, 8, 9, 3], [5, 3], [7, 8, 3], [3]]
    tree = Tree(START)
    for target in targets:
        tree.add(target)
    assert len(tree.tokens) == 5  # start, 7, 8, 9, 5
    for target, (begin, end) in zip(targets, tree.spans, strict=True):
        path = []
        for node, token in tree.scored[begin:end]:
            if path:
                assert tree.tokens[node] == path[-1]
            path.append(token)
        assert path == target
    packed = pack([tree], 2)
    for node, depth in enumerate(tree.depth):
        assert packed.ancestors[0, node].sum() == depth + 1
        assert packed.ancestors[0, node, [0, node]].all()
    assert not packed.ancestors[1].any()
    assert (packed.labels[1] == 0).all()


def test_many_long_targets_become_several_trees() -> None:
    rng = np.random.default_rng(0)
    targets = [rng.integers(4, 900, 256).tolist() for _ in range(11)]
    grown = grow(targets, START)
    assert len(grown) > 2
    assert [n for numbers, _ in grown for n in numbers] == list(range(11))
    for _, tree in grown:
        assert len(tree.tokens) <= NODES_PER_BATCH
        assert len(tree.scored) <= NODES_PER_BATCH
    assert pack([tree for _, tree in grown], 4).tokens.shape[1] in batching.TREE_BUCKETS


def test_progress_counts_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    made = batches([[4, 5]] * 5, 2, 1, 64)
    assert list(shown(made, 5, "working", True)) == made
    assert "5/5" in capsys.readouterr().err
    assert list(shown(made, 5, "working", None)) == made
    assert not capsys.readouterr().err


def test_scoring_batches_hold_every_tree_and_are_bounded() -> None:
    rng = np.random.default_rng(5)
    sources = [rng.integers(4, 90, rng.integers(2, 500)).tolist() for _ in range(700)]
    buckets = [int(rng.choice([8, 16, 128])) for _ in sources]
    made = batching.scoring_batches(sources, buckets, None, 2, 1024)
    assert sorted(row for batch in made for row in batch.rows) == list(range(700))
    for rows, tokens, bucket in made:
        assert {buckets[row] for row in rows} == {bucket}
        assert tokens.shape[0] // 2 * bucket <= NODES_PER_BATCH
        assert tokens.size // 2 <= batching.TOKENS_PER_BATCH
        assert tokens.shape[0] % 2 == 0
    assert max(len(batch.rows) for batch in batching.scoring_batches(sources, buckets, 5, 2, 1024)) == 5
    # All full batches of a bucket have a number of rows that needs no padding.
    assert all(
        batching.full(n) <= n and batching.bucket_batch(batching.full(n)) == batching.full(n) for n in range(1, 200)
    )


@pytest.mark.parametrize("shards", [1, 2])
def test_batches_for_a_cpu_pad_little(shards: int) -> None:
    rng = np.random.default_rng(6)
    sources = [rng.integers(4, 90, rng.integers(2, 512)).tolist() for _ in range(301)]
    buckets = [int(rng.choice([8, 96])) for _ in sources]
    made = batching.scoring_batches(sources, buckets, None, shards, 512, cpu=True)
    assert sorted(row for batch in made for row in batch.rows) == list(range(301))
    for rows, tokens, bucket in made:
        assert {buckets[row] for row in rows} == {bucket}
        assert tokens.shape[0] - len(rows) < shards  # no surplus rows but those that fill a mesh
        assert tokens.size <= shards * batching.CPU_TOKENS_PER_BATCH
        assert tokens.shape[1] <= 512
    usual = batching.scoring_batches(sources, buckets, None, shards, 512)
    assert sum(batch.tokens.size for batch in made) < 0.9 * sum(batch.tokens.size for batch in usual)


def test_buckets_of_trees_hold_nodes_and_labels() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        targets = [rng.integers(4, 9, rng.integers(1, 30)).tolist() for _ in range(rng.integers(1, 6))]
        ((_, tree),) = grow(targets, START)
        bucket = batching.tree_bucket(targets)
        assert max(len(tree.tokens), len(tree.scored)) <= bucket
        assert pack([tree], 1, bucket).labels.shape == (1, bucket)
