"""Lists of any length cut into batches of few shapes, with progress; choices packed into trees."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from metro_jax.decoding import bucket_batch, bucket_length
from metro_jax.inference.engine import Trees
from metro_jax.text.ids import PAD

NODES_PER_BATCH = 1024  # bounds the logits of one scoring batch: 264 MB of float32 at 64,512 pieces
TREE_BUCKETS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, NODES_PER_BATCH)


class Batch(NamedTuple):
    """Numbers of the inputs in it, and their padded tokens; surplus rows repeat the first input, to end with it."""

    rows: list[int]
    tokens: np.ndarray


def batches(sources: Sequence[Sequence[int]], size: int, shards: int, maximum: int) -> list[Batch]:
    """Inputs of similar length together, the longest first: memory runs out at once or never, and time left is honest.

    Args:
        size: inputs per batch.
        shards: devices that the rows are spread over.
        maximum: the longest sequence the model takes.
    """
    order = sorted(range(len(sources)), key=lambda n: (-len(sources[n]), n))
    made = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        width = bucket_length(len(sources[rows[0]]), maximum=maximum)
        height = shards * bucket_batch(-(-len(rows) // shards))
        tokens = np.full((height, width), PAD, np.int32)
        for i in range(height):
            source = sources[rows[i] if i < len(rows) else rows[0]]
            tokens[i, : len(source)] = source
        made.append(Batch(rows, tokens))
    return made


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


def grow(targets: Sequence[Sequence[int]], start: int) -> list[tuple[list[int], Tree]]:
    """Trees of at most NODES_PER_BATCH nodes that hold all targets of an input, with the targets' numbers in each."""
    grown: list[tuple[list[int], Tree]] = []
    for number, target in enumerate(targets):
        if not grown or max(len(grown[-1][1].tokens), len(grown[-1][1].scored)) + len(target) > NODES_PER_BATCH:
            grown.append(([], Tree(start)))
        grown[-1][0].append(number)
        grown[-1][1].add(target)
    return grown


def pack(trees: Sequence[Tree], height: int) -> Trees:
    """Trees of one batch, padded to `height` rows and to buckets of nodes and labels."""
    nodes = bucket_length(max(len(tree.tokens) for tree in trees), TREE_BUCKETS)
    labels = bucket_length(max(len(tree.scored) for tree in trees), TREE_BUCKETS)
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


def shown(made: list[Batch], total: int, what: str, progress: bool | None) -> Iterator[Batch]:
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
