"""Asks conditions: whatever somebody else's function does, what comes of it is a sample."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from rfs.production.rollback.conditions import ConditionalRollback, Outcome, Sample, assess
from rfs.production.rollback.model import utc_now


async def measure(condition: ConditionalRollback, stopped: asyncio.Event) -> Sample | None:
    """Ask a condition once. Whatever it does, that is a sample; None when it was `stopped` first."""
    began = utc_now()
    asked, over = asyncio.ensure_future(_asked(condition.condition)), asyncio.ensure_future(stopped.wait())
    try:
        async with asyncio.timeout(condition.timeout):
            await asyncio.wait({asked, over}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                return None
            value = asked.result()
    except TimeoutError:
        return Sample(at=began, error=f"it did not answer within {condition.timeout:g} s")
    except Exception as error:  # whatever somebody else's function raises
        return Sample(at=began, error=f"{type(error).__name__}: {error}")
    finally:
        asked.cancel()
        over.cancel()
    if isinstance(value, Sample):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Sample(at=began, error=f"{type(value).__name__} is no number")
    return Sample(at=began, value=float(value))


async def _asked(condition: Callable[[], Any]) -> Any:
    if inspect.iscoroutinefunction(condition):
        return await condition()
    # It may block; and what it returns may still have to be awaited, as with a lambda around a coroutine.
    value = await asyncio.to_thread(condition)
    return await value if inspect.isawaitable(value) else value


def in_the_bake(condition: ConditionalRollback) -> Callable[[datetime], Awaitable[str | None]]:
    """Return a rule as something that a guard asks while it watches a change; see guarding.Watch.

    It trips only where its action is "rollback" and it is no dry run: there is nobody yet to be alerted.
    """
    samples: list[Sample] = []
    never = asyncio.Event()

    async def ask(since: datetime) -> str | None:
        now = utc_now()
        if samples and 0 <= (now - samples[-1].at).total_seconds() < condition.interval:
            return None
        sample = await measure(condition, never)
        if sample is not None:
            samples.append(sample)
        verdict = assess(condition, samples, utc_now(), changed_at=since)
        trips = condition.action == "rollback" and not condition.dry_run
        return verdict.why if trips and verdict.outcome is Outcome.FAILURE else None

    return ask
