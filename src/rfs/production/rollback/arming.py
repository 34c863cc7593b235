"""A rollback that is armed with a condition of a program's own: it is measured in this process, while that lives.

A function cannot be written down. What can be is that the rollback is armed, and that somebody measures: a lock in the
store, which goes with this process. Whoever finds it free knows that nobody does any longer, and gives the rollback up.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, TypeVar

from rfs.core.result import Result, Success
from rfs.production.rollback import firing
from rfs.production.rollback.application import Application
from rfs.production.rollback.conditions import ConditionalRollback, Outcome, Sample, assess
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.lock import exclusive
from rfs.production.rollback.measuring import measure
from rfs.production.rollback.model import new_id, utc_now

T = TypeVar("T")
Do = Callable[[Callable[[Application], Any]], Awaitable[Result[Any, RollbackError]]]

# A day at the usual interval; what is older tells nothing about the present.
_REMEMBERED = 2880

_log = logging.getLogger("rfs")
_measuring: set[asyncio.Task[None]] = set()
"""So that none is collected: a loop refers to its tasks only weakly."""


async def arm(
    do: Do, rule: ConditionalRollback, act: Callable[..., dict[str, Any]]
) -> Result[dict[str, Any], RollbackError]:
    """Arm a rollback, and measure its condition from now on, in a task of this loop.

    Args:
        do: runs a function on an application of its own, in a worker thread.
        act: arms it, given the application, and as `Application.defer` takes them `condition`, `rollback_id`, `owned`.
    """
    rollback_id = new_id()
    held = ExitStack()

    def armed(app: Application) -> dict[str, Any]:
        place = app.owner_path(rollback_id)
        held.callback(partial(_removed, place))
        held.enter_context(exclusive(place, f"measuring {rule.name}"))
        return act(app, condition=rule.name, rollback_id=rollback_id, owned=True)

    try:
        done = await do(armed)
    except BaseException:  # a cancellation, too: nobody measures then
        held.close()
        raise
    if not isinstance(done, Success):
        held.close()
        return done
    task = asyncio.create_task(_watch(do, rule, rollback_id, held))
    _measuring.add(task)
    task.add_done_callback(_measuring.discard)
    return done


def _removed(place: str) -> None:
    with suppress(OSError):
        os.unlink(place)


async def _watch(do: Do, rule: ConditionalRollback, rollback_id: str, held: ExitStack) -> None:
    samples: deque[Sample] = deque(maxlen=_REMEMBERED)
    never = asyncio.Event()
    with held:
        while True:
            sample = await measure(rule, never)
            if sample is not None:
                samples.append(sample)
            verdict = assess(rule, list(samples), utc_now())
            tripped = verdict.outcome is Outcome.FAILURE and not rule.dry_run
            looked = await do(partial(_look, rollback_id=rollback_id, why=verdict.why if tripped else ""))
            if isinstance(looked, Success) and not looked.value:
                return
            await asyncio.sleep(rule.interval)


def _look(app: Application, *, rollback_id: str, why: str) -> bool:
    """Make it when it has tripped; tell whether it still waits."""
    try:
        found = app.find_deferred(rollback_id)
    except NotFoundError:
        return False
    if found.waits and why:
        found = app.trip_one(found, why)
    if found.waits and found.at is not None:
        firing.look(app, found, _say)
        found = app.find_deferred(rollback_id)
    return found.waits


def _say(what: str, text: str, subject: str) -> None:
    _log.warning("%s", text)
