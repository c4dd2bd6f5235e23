"""Lists of any length cut into batches of few shapes, with progress; choices packed into trees."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from metro_jax.decoding import bucket_batch, bucket_length
from metro_jax.decoding.buckets import MAX_BATCH
from metro_jax.inference.engine import Trees
from metro_jax.text.ids import PAD

NODES_PER_BATCH = 1024  # bounds the logits of one scoring batch: 264 MB of float32 at 64,512 pieces
TOKENS_PER_BATCH = 16384  # and its sources: 403 MB of float32 attention scores at 512 tokens and 12 heads
# A CPU multiplies a thousand rows as fast as many thousands, so that batches may be small, and of similar lengths; and
# a program for a length compiles there in less time than a batch takes to run, so that there may be many lengths.
CPU_TOKENS_PER_BATCH = 1024
CPU_SOURCE_BUCKETS = (16, 24, 32, *(n << e for e in range(3, 8) for n in (5, 6, 7, 8)))  # 40, 48, 56, 64, 80 ... 1024
TREE_BUCKETS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, NODES_PER_BATCH)
# Trees of one bucket go together: padding labels costs little, padding long trees to the longest of a batch does.
LABEL_BUCKETS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, NODES_PER_BATCH)


class Batch(NamedTuple):
    """Numbers of the inputs in it, and their padded tokens; surplus rows repeat the first input, to end with it."""

    rows: list[int]
    tokens: np.ndarray


def batches(
    sources: Sequence[Sequence[int] | np.ndarray],
    size: int,
    shards: int,
    maximum: int,
    tokens: int | None = None,
    buckets: Sequence[int] | None = None,
    exact: bool = False,
) -> list[Batch]:
    """Inputs of similar length together, the longest first: memory runs out at once or never, and time left is honest.

    Args:
        size: inputs per batch.
        shards: devices that the rows are spread over.
        maximum: the longest sequence the model takes.
        tokens: at most so many padded tokens per device, whatever `size` says, but always one row.
        buckets: of the lengths below `maximum`, if not the usual ones.
        exact: what is left over makes several batches rather than one with surplus rows.
    """
    steps = None if buckets is None else (*buckets, maximum)
    order = sorted(range(len(sources)), key=lambda n: (-len(sources[n]), n))
    made, start = [], 0
    while start < len(order):
        width = bucket_length(len(sources[order[start]]), steps, maximum)
        most = size if tokens is None else min(size, shards * full(max(1, tokens // width)))
        rows = order[start : start + most]
        if exact:
            rows = rows[: shards * full(max(1, len(rows) // shards))]
        start += len(rows)
        height = shards * bucket_batch(-(-len(rows) // shards))
        padded = np.full((height, width), PAD, np.int32)
        for i in range(height):
            source = sources[rows[i] if i < len(rows) else rows[0]]
            padded[i, : len(source)] = source
        made.append(Batch(rows, padded))
    return made


def full(rows: int) -> int:
    """The largest number of rows up to `rows` that needs no padding to a bucket."""
    return next(n for n in range(min(rows, MAX_BATCH), 0, -1) if bucket_batch(n) == n)


B = TypeVar("B", Batch, "ScoringBatch")


class Tree:
    """Targets of one input as a tree of decoder inputs (`Trees`)."""

    def __init__(self, start: int) -> None:
        self.tokens, self.depth, self.parent = [start], [0], [0]
        self.scored: list[tuple[int, int]] = []  # node, token
        self.spans: list[tuple[int, int]] = []  # of each target in `scored`
        self._children: dict[tuple[int, int], int] = {}

    def add(self, target: Sequence[int]) -> None:
        """One more target: the nodes it shares with earlier ones are theirs."""
        begin, node = len(self.scored), 0
        for place, token in enumerate(target):
            self.scored.append((node, token))
            if place + 1 == len(target):  # the last token is predicted, never read
                break
            if (node, token) not in self._children:
                self._children[node, token] = len(self.tokens)
                self.tokens.append(token)
                self.depth.append(self.depth[node] + 1)
                self.parent.append(node)
            node = self._children[node, token]
        self.spans.append((begin, len(self.scored)))


def split(targets: Sequence[Sequence[int]]) -> list[list[int]]:
    """Numbers of the targets of an input that go into one tree each: one list, unless they are too many for a batch."""
    lists: list[list[int]] = []
    labels = NODES_PER_BATCH
    for number, target in enumerate(targets):
        labels += len(target)
        if labels > NODES_PER_BATCH:
            lists.append([])
            labels = len(target)
        lists[-1].append(number)
    return lists


def grow(targets: Sequence[Sequence[int]], start: int) -> list[tuple[list[int], Tree]]:
    """Trees of at most NODES_PER_BATCH nodes that hold all targets of an input, with the targets' numbers in each."""
    return [(numbers, tree([targets[number] for number in numbers], start)) for numbers in split(targets)]


def tree(targets: Sequence[Sequence[int]], start: int) -> Tree:
    """One tree of all of these."""
    made = Tree(start)
    for target in targets:
        made.add(target)
    return made


def tree_bucket(targets: Sequence[Sequence[int]]) -> int:
    """A bucket that holds nodes and labels of the tree of these targets: the batches it can be in.

    A target of n tokens adds at most n - 1 nodes, so there are never more nodes than labels, the start token included.
    """
    return bucket_length(sum(map(len, targets)), LABEL_BUCKETS)


class ScoringBatch(NamedTuple):
    """As `Batch`: which trees are in it, and the bucket of their labels."""

    rows: list[int]
    tokens: np.ndarray
    bucket: int


def scoring_batches(
    sources: Sequence[Sequence[int] | np.ndarray],
    buckets: Sequence[int],
    size: int | None,
    shards: int,
    maximum: int,
    cpu: bool = False,
) -> list[ScoringBatch]:
    """Inputs with trees of one bucket and similar length together, the largest batches first.

    Args:
        sources, buckets: of every tree the input it belongs to and its `tree_bucket`.
        size: at most so many trees per batch.
        shards, maximum: as in `batches`.
        cpu: batches for a CPU, small and of many lengths.
    """
    tokens_per_batch, steps = (CPU_TOKENS_PER_BATCH, CPU_SOURCE_BUCKETS) if cpu else (TOKENS_PER_BATCH, None)
    groups: dict[int, list[int]] = {}
    for number, bucket in enumerate(buckets):
        groups.setdefault(bucket, []).append(number)
    made = []
    for bucket, members in groups.items():
        most = shards * full(NODES_PER_BATCH // bucket)
        own = [sources[number] for number in members]
        for rows, tokens in batches(own, min(most, size or most), shards, maximum, tokens_per_batch, steps, cpu):
            made.append(ScoringBatch([members[row] for row in rows], tokens, bucket))
    return sorted(made, key=lambda batch: -len(batch.tokens) * (batch.tokens.shape[1] + batch.bucket))


def pack(trees: Sequence[Tree], height: int, labels: int | None = None) -> Trees:
    """Trees of one batch, padded to `height` rows and to buckets of nodes and labels.

    Args:
        labels: their bucket, when it is known; fewer shapes than the smallest that holds these trees.
    """
    nodes = bucket_length(max(len(tree.tokens) for tree in trees), TREE_BUCKETS)
    labels = labels or bucket_length(max(len(tree.scored) for tree in trees), TREE_BUCKETS)
    shapes = (height, nodes), (height, nodes), (height, nodes, nodes), (height, labels), (height, labels)
    kinds = np.int32, np.int32, np.bool_, np.int32, np.int32
    # Zero is the pad, and the depth and number of the start token.
    arrays: Any = [np.zeros(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
    packed: Any = Trees(*arrays)
    for row, tree in enumerate(trees):
        packed.tokens[row, : len(tree.tokens)] = tree.tokens
        packed.depth[row, : len(tree.depth)] = tree.depth
        own = packed.ancestors[row]
        for node, parent in enumerate(tree.parent):
            own[node] = own[parent]
            own[node, node] = True
        packed.parents[row, : len(tree.scored)], packed.labels[row, : len(tree.scored)] = zip(*tree.scored, strict=True)
    return packed


def shown(made: Sequence[B], total: int, what: str, progress: bool | None) -> Iterator[B]:
    """The batches, with a bar that says how many inputs are done and the time left.

    Args:
        progress: None shows it for several batches when standard error is a terminal.
    """
    wanted = len(made) > 1 and sys.stderr.isatty() if progress is None else progress
    if not wanted:
        yield from made
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        for batch in made:
            yield batch
            bar.advance(task, len(batch.rows))
