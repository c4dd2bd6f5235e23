"""The reference's epochs in NumPy: capped sampling, order, token-budget batches, dealing to workers (spec 5.6, 6.2).

`permutations` and `in_epoch` are what training samples by (`metro_jax.data.epochs`). The rest is an oracle, not used in
training: batches here have static shapes and are packed, so no order by length and no token budget is needed.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def permutations(
    sizes: Sequence[int], caps: Sequence[int | None], seed: int
) -> list[Int[np.ndarray, " examples"] | None]:
    """The fixed permutation of every task that is larger than its cap, drawn in task order; None for the others."""
    random = np.random.RandomState(seed)
    return [
        random.permutation(size) if cap is not None and size > cap else None
        for size, cap in zip(sizes, caps, strict=True)
    ]


def epoch_items(sizes: Sequence[int], caps: Sequence[int | None], seed: int, epoch: int) -> list[tuple[int, int]]:
    """(task, example) of every example of an epoch (from 1), task after task (spec 6.2)."""
    items = []
    for task, (size, cap, permutation) in enumerate(zip(sizes, caps, permutations(sizes, caps, seed), strict=True)):
        if permutation is None or cap is None:
            items += [(task, example) for example in range(size)]
        else:
            items += [(task, int(permutation[(epoch * cap + i) % size])) for i in range(cap)]
    return items


def ordered_by_length(sources: Sequence[int], targets: Sequence[int], seed: int) -> Int[np.ndarray, " examples"]:
    """Random permutation, then stable sorts by target length and by source length."""
    order = np.random.RandomState(seed).permutation(len(sources))
    order = order[np.argsort(np.asarray(targets)[order], kind="stable")]
    return order[np.argsort(np.asarray(sources)[order], kind="stable")]


def batch_by_size(sizes: Sequence[int], max_tokens: int, multiple: int = 8) -> list[list[int]]:
    """Batches of positions in a list of lengths, by rows x longest row <= `max_tokens` (spec 5.6).

    A batch closes at the last point where its number of rows was allowed: fewer than `multiple`, or a multiple of it.
    """
    batches: list[list[int]] = []
    start = allowed = 0  # of the running batch; `allowed` is where it may end
    longest_before = longest_tail = 0  # of start..allowed and of allowed..here
    for here, size in enumerate(sizes):
        longest_tail = max(longest_tail, size)
        longest = max(longest_before, longest_tail)
        if (here + 1 - start) * longest > max_tokens and allowed > start:
            batches.append(list(range(start, allowed)))
            start, longest_before = allowed, 0
            if (here + 1 - start) * longest_tail > max_tokens and here > start:
                batches.append(list(range(start, here)))
                start = allowed = here
                longest_tail = size
        rows = here + 1 - start
        if rows < multiple or rows % multiple == 0:
            allowed = here + 1
            longest_before, longest_tail = max(longest_before, longest_tail), 0
    ends = [(start, allowed), (allowed, len(sizes))]
    return batches + [list(range(begin, end)) for begin, end in ends if end > begin]


def shuffled(batches: Sequence[list[int]], seed: int, epoch: int) -> list[list[int]]:
    """The batches in the order of an epoch."""
    order = list(batches)
    np.random.RandomState(seed + epoch).shuffle(order)  # type: ignore[arg-type]
    return order


def dealt(batches: Sequence[list[int]], workers: int) -> list[list[list[int]]]:
    """The batches of each worker, dealt in turn; the last round is filled up with empty ones."""
    rounds = -(-len(batches) // workers)
    filled = [*batches, *([] for _ in range(rounds * workers - len(batches)))]
    return [filled[worker::workers] for worker in range(workers)]
