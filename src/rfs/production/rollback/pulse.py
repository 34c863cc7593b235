"""How long a step may still take, whether somebody said stop, and how far it is.

One object is handed to every driver as its `Pulse`. Its `tick` is where a driver that
works for long finds out that its time is over: both clocks act there, not only between steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rfs.production.rollback.errors import InterruptedByUserError, TimedOutError

Reporter = Callable[[str, int, int], None]
"""Called with (what is being done, entries so far, bytes so far)."""


class Beat:
    """A Pulse with a deadline that can be set, and a stop that can be asked for from another thread.

    Args:
        reporter: told of progress; must be quick and must not raise.
        clock: seconds that never go back.
    """

    def __init__(self, reporter: Reporter | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._reporter = reporter
        self._clock = clock
        self._deadline = math.inf
        self._budget: tuple[str, str, float] = ("", "", math.inf)
        self._interrupted = False  # no Event: one signal handler may interrupt another that is just setting it
        self._heard = False
        self._calls = 0
        self._deaf = False
        self._what = ""
        self._items = self._size = 0

    def allow(self, what: str, key: str, seconds: float) -> None:
        """Start a clock: from now on `seconds` remain. `what` and `key` are for the error's text."""
        self._budget = (what, key, seconds)
        self._deadline = self._clock() + seconds

    def interrupt(self) -> None:
        """Ask the call that is running to stop, or when none is the next one; it turns back at its next tick.

        Safe from a signal handler.
        """
        self._interrupted = True

    @contextmanager
    def call(self) -> Iterator[None]:
        """Let an interruption that stopped something inside the block stop nothing after it. May be nested."""
        self._calls += 1
        try:
            yield
        except InterruptedByUserError:  # also one that another process, which does the work, was stopped by
            self._heard = True
            raise
        finally:
            self._calls -= 1
            if self._heard and not self._calls:
                self._interrupted = self._heard = False

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Name what the ticks inside the block belong to."""
        self._what, self._items, self._size = what, 0, 0
        if self._reporter:
            self._reporter(what, 0, 0)
        self.tick()
        yield

    def relay(self, what: str, items: int, size: int) -> None:
        """Report the progress of another process that does the work; figures as in `Reporter`."""
        if self._reporter:
            self._reporter(what, items, size)

    def deafen(self) -> None:
        """From now on nobody can stop it: the way back must not be left in the middle."""
        self._deaf = True

    def reset(self) -> None:
        """Stop the clock and listen again: the operation is over."""
        self._deadline = math.inf
        self._deaf = False

    @property
    def interrupted(self) -> bool:
        return self._interrupted

    def tick(self, items: int = 0, size: int = 0) -> None:
        """See driver.Pulse."""
        if self._interrupted and not self._deaf:
            self._heard = True
            raise InterruptedByUserError("interrupted")
        if self._clock() > self._deadline:
            what, key, seconds = self._budget
            raise TimedOutError("rollback.timeout", what=what, key=key, seconds=f"{seconds:g}")
        self._items += items
        self._size += size
        if self._reporter and (items or size):
            self._reporter(self._what, self._items, self._size)

    def remaining(self) -> float:
        """See driver.Pulse. Without a clock running: an hour, so that nothing waits for ever."""
        return max(0.0, min(self._deadline - self._clock(), 3600.0))
