"""Awaiting an application's synchronous work: in a worker thread, and never half done when it is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from rfs.core.result import Failure, Result, Success
from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import RollbackError

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


async def in_thread(open_: Callable[[asyncio.AbstractEventLoop], Application], act: Callable[[Application], T]) -> T:
    """Return what `act` does with an application that is opened for it, in a worker thread.

    Cancelled, it has the operation turn back, waits for that, and only then raises CancelledError.

    Args:
        open_: is given the caller's event loop.
    """
    import asyncio  # 40 ms that the command line does not need

    loop = asyncio.get_running_loop()
    opened: list[Application] = []
    cancelled = False

    def work() -> T:
        with open_(loop) as app:
            opened.append(app)
            if cancelled:
                app.beat.interrupt()
            return act(app)

    future = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError as cancellation:
        # Never half done: the operation turns back, and only then the caller is let go.
        cancelled = True
        for app in opened:
            app.beat.interrupt()
        while not future.done():
            with suppress(asyncio.CancelledError):  # whoever cancels twice waits all the same
                await asyncio.wait([future])
        # Also where the way back failed: that must not be lost with the answer.
        raise cancellation from future.exception()


async def as_result(
    open_: Callable[[asyncio.AbstractEventLoop], Application], act: Callable[[Application], T]
) -> Result[T, RollbackError]:
    """Return what `in_thread` does as a Success, or the expected error as a Failure."""
    try:
        return Success(await in_thread(open_, act))
    except RollbackError as error:
        return Failure(error)
