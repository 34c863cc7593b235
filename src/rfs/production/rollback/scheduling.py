"""A schedule of checkpoints that runs in a program of one's own, on its event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from datetime import datetime, timedelta
from typing import Any

from rfs.core.result import Result
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.schedule import Schedule, due, following

DEFAULT_INTERVAL = timedelta(hours=6)
# Asleep no longer than this: a clock that was set, or a machine that slept, is noticed.
_NAP_SECONDS = 60.0

_log = logging.getLogger("rfs")


class CheckpointSchedule:
    """A running schedule; awaiting it waits until it is cancelled.

    Args:
        take: takes one checkpoint.
        newest: returns when the last scheduled one was taken, UTC; runs in a worker thread.
        interval: between two; 6 hours when left out.

    Attributes:
        last: how the last checkpoint ended, Success of its id or Failure; None before the first.
        next_at: when the next one is due, UTC; None until it is known.
        taken: how many were taken by this schedule.
    """

    def __init__(
        self,
        take: Callable[[], Awaitable[Result[str, RollbackError]]],
        newest: Callable[[], datetime | None],
        interval: timedelta | None = None,
    ) -> None:
        self._take = take
        self._newest = newest
        self._schedule = Schedule(every=(interval if interval is not None else DEFAULT_INTERVAL).total_seconds())
        self.last: Result[str, RollbackError] | None = None
        self.next_at: datetime | None = None
        self.taken = 0
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            what = "A schedule needs a running event loop"
            raise UsageError("usage", what=what, hint="Call it inside a coroutine.") from error
        self._task = loop.create_task(self._run(), name="rfs checkpoint schedule")

    @property
    def running(self) -> bool:
        """Whether further checkpoints will be taken."""
        return not self._task.done()

    def cancel(self) -> None:
        """Take no more; one that is being taken is given up, and nothing of it remains."""
        self._task.cancel()

    def __await__(self) -> Generator[Any, None, None]:
        return self._ended().__await__()

    async def _ended(self) -> None:
        # The task's own cancellation is its normal end; the waiter's is passed on.
        await asyncio.wait([self._task])
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error

    async def _run(self) -> None:
        last = await self._last()
        while True:
            await self._wait_from(last)
            # Counted from when it was due, not from when it ended; only what was missed is not made up.
            due_at = self.next_at or utc_now()
            every = timedelta(seconds=self._schedule.every or 0)
            last = due_at if utc_now() - due_at < every else utc_now()
            self.next_at = following(self._schedule, last)
            self.last = await self._take()
            if self.last.is_success():
                self.taken += 1
            else:
                _log.warning("The scheduled checkpoint could not be taken: %s", self.last.error)

    async def _wait_from(self, last: datetime | None) -> None:
        now = utc_now()
        self.next_at = now if last is None else following(self._schedule, last)
        while not due(self._schedule, last, now):
            await asyncio.sleep(min(_NAP_SECONDS, max(0.0, (self.next_at - now).total_seconds())))
            now = utc_now()

    async def _last(self) -> datetime | None:
        try:
            return await asyncio.to_thread(self._newest)
        except RollbackError:
            return None  # no store yet, or none that can be read: the first attempt tells what is wrong
