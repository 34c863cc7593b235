"""Asks conditions: whatever somebody else's function does, what comes of it is a sample."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from rfs.production.rollback.conditions import ConditionalRollback, Sample
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


def measured_on(loop: asyncio.AbstractEventLoop, condition: ConditionalRollback) -> ConditionalRollback:
    """Return a rule that any thread may measure: what it calls runs as `measure` has it, on that event loop."""

    def ask() -> float | Sample:
        sample = asyncio.run_coroutine_threadsafe(measure(condition, asyncio.Event()), loop).result()
        return sample if sample is not None else Sample(at=utc_now(), error="it was stopped")

    return msgspec.structs.replace(condition, condition=ask)
