"""Worker processes that transform chunks; results come in the order of the chunks, and few are held at a time."""

import collections
import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from metro_jax.data.prepare.inputs import Chunk
from metro_jax.data.prepare.transform import Result, Transform

AHEAD = 2  # chunks for each worker, waiting, in work or waiting to be written

Item = TypeVar("Item")
_transform: Transform | None = None  # of a worker process


class Workers:
    """Processes that share a transform; with one worker there are none, and the work is done here."""

    def __init__(self, transform: Transform, workers: int) -> None:
        """To be used in a `with` statement."""
        self._transform, self._workers = transform, workers
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self._workers > 1:
            # Spawned, not forked: the parent may have threads, of a progress bar or of TensorFlow.
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), _start, (self._transform,)
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, chunks: Iterable[tuple[Item, Chunk]]) -> Iterator[tuple[tuple[Item, Chunk], Result]]:
        """Each chunk with its result, in order."""
        if self._pool is None:
            for item, chunk in chunks:
                yield (item, chunk), self._transform(chunk)
            return
        waiting: collections.deque[tuple[tuple[Item, Chunk], concurrent.futures.Future]] = collections.deque()
        for item, chunk in chunks:
            waiting.append(((item, chunk), self._pool.submit(_work, chunk)))
            if len(waiting) > AHEAD * self._workers:
                pair, future = waiting.popleft()
                yield pair, future.result()
        while waiting:
            pair, future = waiting.popleft()
            yield pair, future.result()


def _start(transform: Transform) -> None:
    """Prepares a worker process."""
    global _transform
    _transform = transform
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Ends this process when its parent was killed and could not say goodbye."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(chunk: Chunk) -> Result:
    assert _transform is not None, "set when the process starts"
    return _transform(chunk)
