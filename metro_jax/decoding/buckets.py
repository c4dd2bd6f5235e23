"""Buckets: a jitted function is compiled once per shape, so lengths and batch sizes are rounded up to few values.

Steps are the powers of two and their multiples by 3/2: two compilations per doubling, and rounding up never adds half
of what is there (from 16 tokens on; shorter inputs share one bucket).
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence

from metro_jax.decoding.options import whole_number

MAX_LENGTH = 1024  # tokens the position tables of every published model can tell apart (spec 2.1)
MIN_LENGTH = 16  # below it, compiling costs more than padding
MAX_BATCH = 1024


def _steps(start: int) -> Iterator[int]:
    """start, then every greater power of two and every power of two times 3/2; `start` is a power of two."""
    for exponent in itertools.count():
        yield start << exponent
        if (start << exponent) > 1:
            yield (start << exponent) * 3 // 2


def _buckets(start: int, maximum: int) -> list[int]:
    return [*itertools.takewhile(lambda step: step < maximum, _steps(start)), maximum]


def bucket_length(n: int, buckets: Sequence[int] | None = None, maximum: int = MAX_LENGTH) -> int:
    """The smallest bucket that holds `n` tokens.

    Args:
        buckets: lengths to choose from, in any order; by default 16, 24, 32, 48, ... and `maximum` itself.
        maximum: the longest sequence the model takes (`MetroConfig.max_length`); buckets beyond it are not used.

    Raises:
        ValueError: `n` is not positive, or more than `maximum` or the largest bucket.
    """
    whole_number("length", n, 1, "; an empty text still has its special tokens")
    if n > maximum:
        raise ValueError(
            f"a sequence of {n} tokens is longer than the limit of {maximum} (the model's position table): "
            f"truncate it to {maximum} tokens or split it"
        )
    chosen = _buckets(MIN_LENGTH, maximum) if buckets is None else sorted({b for b in buckets if b <= maximum})
    if not chosen or n > chosen[-1]:
        raise ValueError(
            f"a sequence of {n} tokens fits none of the buckets {sorted(set(buckets or ()))} (limit {maximum}): "
            "add a larger bucket or truncate the sequence"
        )
    return int(chosen[bisect.bisect_left(chosen, n)])


def bucket_batch(n: int, maximum: int = MAX_BATCH) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, ... and `maximum` that holds `n` rows.

    On a mesh with s data shards use `s * bucket_batch(ceil(n / s))`.

    Raises:
        ValueError: `n` is not positive or more than `maximum`.
    """
    whole_number("batch", n, 1, "; there is nothing to decode")
    if n > maximum:
        raise ValueError(f"a batch of {n} rows is more than the limit of {maximum}: split it into smaller batches")
    buckets = _buckets(1, maximum)
    return buckets[bisect.bisect_left(buckets, n)]
