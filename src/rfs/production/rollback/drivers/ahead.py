"""Work on a few items ahead of who takes the results, on every processor, and results in the order of the items.

It pays for what lets other threads run meanwhile: hashing, compressing and encrypting 64 KiB and more do, and so
does what the C library is asked.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import Generic, TypeVar

# More would win little: somebody reads, and somebody writes.
_MOST_THREADS = 4
# What waits to be worked on, or to be taken, for each thread: it is held in memory.
_AHEAD = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Task(Generic[Item, Result]):
    """One item, and what became of it once `done` is open."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.result: list[Result] = []
        self.failure: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def outcome(self) -> Result:
        with self.done:
            if self.failure is not None:
                raise self.failure
            return self.result[0]


@contextmanager
def in_order(work: Callable[[Item], Result], items: Iterable[Item], *, apart: bool) -> Iterator[Iterator[Result]]:
    """Yield an iterator over `work(item)` of each item, in the order of the items; what fails is raised in its place.

    The items are taken on the caller's thread. When the block ends, no thread of this is left.

    Args:
        apart: whether it is worth threads; else the work is done on the caller's own, and nothing ahead.
    """
    if not apart:
        yield map(work, items)
        return
    with closing(_ahead(work, iter(items), min(len(os.sched_getaffinity(0)), _MOST_THREADS))) as results:
        yield results


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`, the last one shorter."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def _ahead(work: Callable[[Item], Result], items: Iterator[Item], count: int) -> Generator[Result]:
    tasks: SimpleQueue[_Task[Item, Result] | None] = SimpleQueue()

    def serve() -> None:
        while (task := tasks.get()) is not None:
            try:
                task.result.append(work(task.item))
            except BaseException as failure:  # a thread has nobody to raise it to: whoever takes the result gets it
                task.failure = failure
            task.done.release()

    threads: list[threading.Thread] = []
    try:
        for _ in range(count):
            threads.append(_started(serve))
        waiting: deque[_Task[Item, Result]] = deque()
        for item in items:
            waiting.append(_Task(item))
            tasks.put(waiting[-1])
            if len(waiting) > _AHEAD * count:
                yield waiting.popleft().outcome()
        while waiting:
            yield waiting.popleft().outcome()
    finally:
        for _ in threads:
            tasks.put(None)
        for thread in threads:
            thread.join()


def _started(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, name="rfs ahead")
    thread.start()
    return thread
