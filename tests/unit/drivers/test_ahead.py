"""Work on other threads, in order."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from rfs.production.rollback.drivers.ahead import in_batches, in_order

pytestmark = pytest.mark.parametrize("apart", [False, True])


def test_results_come_in_the_order_of_the_items(apart: bool) -> None:
    done: list[int] = []
    other = threading.Event()

    def work(number: int) -> int:
        if apart and number == 0 and len(os.sched_getaffinity(0)) > 1:
            assert other.wait(10)  # one after it is done before
        done.append(number)
        other.set()
        return number * 2

    with in_order(work, range(100), apart=apart) as results:
        assert list(results) == [number * 2 for number in range(100)]
    assert threading.active_count() == 1


def test_what_fails_is_raised_where_its_result_would_be(apart: bool) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise LookupError
        return number

    seen: list[int] = []
    with pytest.raises(LookupError), in_order(work, range(100), apart=apart) as results:
        seen.extend(results)
    # Those before it were taken one by one.
    assert seen in ([], [0, 1, 2])
    assert threading.active_count() == 1


def test_an_item_that_fails_ends_it_after_what_was_asked_for(apart: bool) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError

    with pytest.raises(LookupError), in_order(abs, items(), apart=apart) as results:
        list(results)
    assert threading.active_count() == 1


def test_who_leaves_early_leaves_no_thread_and_little_was_done(apart: bool) -> None:
    begun: list[int] = []
    with in_order(begun.append, range(1000), apart=apart) as results:
        next(results)
    assert len(begun) < 100
    assert threading.active_count() == 1


def test_only_a_few_are_read_ahead(apart: bool) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    with in_order(abs, items(), apart=apart) as results:
        next(results)
        assert len(read) < 20


def test_batches(apart: bool) -> None:
    assert list(in_batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(in_batches((), 2)) == []
