"""AutoRollbackManager: measures conditions, and goes back by itself when one trips."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from rfs.core.result import Failure, Result
from rfs.production.rollback.automatic import gist
from rfs.production.rollback.conditions import Action, ConditionalRollback, Decision, Sample, assess, decide
from rfs.production.rollback.errors import ConflictError, RollbackError, UsageError
from rfs.production.rollback.judging import RULE, Ground, ground_of, judge, taken_by
from rfs.production.rollback.manager import RollbackManager
from rfs.production.rollback.measuring import measure
from rfs.production.rollback.model import CheckpointType, utc_now
from rfs.production.rollback.samples import KEPT, Samples

_log = logging.getLogger("rfs")


class AutoRollbackManager:
    """Watches an application, and rolls it back by itself when a condition trips.

    It goes to the last checkpoint that was verified healthy before the trouble began, never merely to the latest. It
    may run inside the very service that is stopped for it: the rollback then goes on outside. What it measures is kept
    in the store, so that a version can be compared with the one before it, which another process measured.

    Args:
        manager: of the application; one for the rfs.toml found from the working directory when left out.

    Attributes:
        conditions: the rules.
        alerts: what was alerted, as (name, value), the newest last.
    """

    def __init__(self, manager: RollbackManager | None = None) -> None:
        self.manager = manager if manager is not None else RollbackManager()
        self.conditions: list[ConditionalRollback] = []
        self.alerts: list[tuple[str, float | None]] = []
        self._samples: dict[str, deque[Sample]] = {}
        self._history: Samples | None = None
        self._told: dict[str, str] = {}
        self._stopped: asyncio.Event | None = None
        self._busy = asyncio.Lock()
        self._since = utc_now()

    def add_rollback_condition(
        self,
        name: str,
        condition: Callable[[], float | Sample | Awaitable[float | Sample]],
        threshold: float,
        action: Action = "rollback",
        **options: Any,
    ) -> None:
        """Add a rule; also while it is monitored.

        Args:
            name: for people; unique.
            condition: returns a number, or an awaitable of one. A sync one runs in a worker thread.
            threshold: strictly above it, it trips.
            options: further fields of ConditionalRollback: lasting, failure_limit, min_samples, ….

        Raises:
            UsageError: a value is not usable, or there is such a condition already.
        """
        if any(each.name == name for each in self.conditions):
            raise UsageError("usage", what=f"There is a condition {name} already", hint="Give each its own name.")
        try:
            self.conditions.append(ConditionalRollback(name, condition, threshold, action, **options))
        except TypeError as error:
            raise UsageError("usage", what=f"The condition {name} is not right: {error}", hint="") from error

    @property
    def monitoring_active(self) -> bool:
        """Whether `start_monitoring` runs."""
        return self._stopped is not None and not self._stopped.is_set()

    async def start_monitoring(self, interval: float | None = None) -> None:
        """Measure and judge every condition again and again; return after `stop_monitoring`.

        Whatever a condition raises, it is another failed measurement: nothing but `stop_monitoring` or a cancellation
        ends this.

        Args:
            interval: seconds between two measurements of each; every condition's own (30) when left out.

        Raises:
            ConflictError: it runs already.
        """
        if self.monitoring_active:
            raise ConflictError("monitor.active")
        stopped = self._stopped = asyncio.Event()
        self._since = utc_now()
        measuring: dict[str, asyncio.Task[None]] = {}
        self._history = await asyncio.to_thread(self._opened_history)
        try:
            while not stopped.is_set():
                for each in self.conditions:
                    if each.name not in measuring:
                        measuring[each.name] = asyncio.create_task(
                            self._watch(each, interval or each.interval, stopped)
                        )
                # A condition that is added meanwhile is watched soon.
                await _wait(stopped, min(interval or 1.0, 1.0))
        except asyncio.CancelledError:
            for task in measuring.values():
                task.cancel()
            raise
        finally:
            stopped.set()
            await asyncio.gather(*measuring.values(), return_exceptions=True)
            history, self._history = self._history, None
            if history is not None:
                history.close()

    def stop_monitoring(self) -> None:
        """End `start_monitoring` soon: a rollback that runs is waited for. Cancelling it turns that back."""
        if self._stopped is not None:
            self._stopped.set()

    def should_rollback(self, value: float, threshold: float) -> bool:
        """Tell whether a value is strictly greater than a threshold; NaN never is."""
        return value > threshold

    async def execute_auto_rollback(self, reason: str) -> Result[dict[str, Any], RollbackError]:
        """Roll back to the last checkpoint verified healthy before the trouble.

        Where no health checks are configured, that is the newest checkpoint, safety checkpoints apart, that was taken
        before it. The trouble began with the first failing sample of what tripped, or now. The version that was live,
        where a guarded deployment made it so, is quarantined.

        Returns:
            As `RollbackManager.rollback_to_checkpoint`; a Failure when there is no such checkpoint.
        """
        return await self._go_back(reason, utc_now())

    async def send_alert(self, name: str, value: float | None) -> None:
        """Tell a person: a warning of the logger `rfs`, and an entry of `alerts`. A subclass may tell more.

        Args:
            name: of the condition.
            value: its last one; None when it could not be measured.
        """
        self.alerts.append((name, value))
        _log.warning("Alert: %s = %s", name, value)

    # — how —

    async def _watch(self, condition: ConditionalRollback, interval: float, stopped: asyncio.Event) -> None:
        # It is told from its interval whether measuring ever ceased.
        condition = msgspec.structs.replace(condition, interval=interval)
        while not stopped.is_set():
            sample = await measure(condition, stopped)
            if sample is None:
                return
            samples = self._samples.setdefault(condition.name, deque(maxlen=KEPT))
            # After a clock that was set back nobody can tell what was measured when.
            if samples and samples[-1].at >= sample.at:
                samples.clear()
            samples.append(sample)
            try:
                await asyncio.to_thread(self._keep, condition, sample)
                await self._judge(condition, list(samples))
            except RollbackError as error:
                _log.warning("%s could not be judged: %s", condition.name, error)
            await _wait(stopped, interval)

    def _opened_history(self) -> Samples | None:
        try:
            with self.manager.opened() as app:
                return Samples(app.settings.store.path)
        except RollbackError as error:  # it may come into being; what is measured is judged without it
            _log.warning("What is measured is not kept: %s", error)
            return None

    def _keep(self, condition: ConditionalRollback, sample: Sample) -> None:
        if self._history is None:
            return
        with suppress(RollbackError):  # on a full disk it is judged by what is in memory
            self._history.add(_kept_as(condition), sample)

    def _ground(self, condition: ConditionalRollback) -> tuple[Ground, list[Sample], list[datetime]]:
        """Return what a condition is judged on, what was before that, and when what it may do was done already."""
        with self.manager.opened() as app:
            now = utc_now()
            ground = ground_of(app, now, [condition])
            taken = taken_by(app, condition, now) if condition.action == "checkpoint" else list(ground.rollbacks)
        span = ground.compared(condition)
        before = self._history.between(_kept_as(condition), *span) if self._history is not None and span else []
        return ground, before, taken

    async def _judge(self, condition: ConditionalRollback, samples: list[Sample]) -> None:
        now = utc_now()
        self._since = min(self._since, now)  # a clock that was set back
        since = self._since
        verdict = assess(condition, [each for each in samples if each.at >= since], now, changed_at=since)
        earlier: list[datetime] = []
        if verdict.failing:
            ground, before, earlier = await asyncio.to_thread(self._ground, condition)
            verdict = judge(condition, before, samples, ground, now, began=self._since)
        if not verdict.why:
            self._told.pop(condition.name, None)
            return
        decision, why = decide(condition, verdict, now, earlier)
        if decision is Decision.ROLLBACK:
            # Two conditions often trip at once, for one reason.
            async with self._busy:
                _, _, earlier = await asyncio.to_thread(self._ground, condition)
                decision, why = decide(condition, verdict, utc_now(), earlier)
                if decision is Decision.ROLLBACK:
                    result = await self._go_back(why, verdict.since or now)
                    self._samples.clear()  # they are of the state that went
                    self._since = utc_now()
                    if isinstance(result, Failure):
                        why = f"{why}; it could not be rolled back: {result.error}"
                        decision = Decision.ALERT
        if decision is Decision.CHECKPOINT:
            taken = await self._take(condition, why)
            if isinstance(taken, Failure):
                why = f"{why}; no checkpoint could be taken: {taken.error}"
                decision = Decision.ALERT
        if decision is Decision.ALERT and self._told.get(condition.name) != gist(why):
            self._told[condition.name] = gist(why)
            _log.warning("%s.", why)
            await self.send_alert(condition.name, samples[-1].measured)

    async def _go_back(self, reason: str, trouble: datetime) -> Result[dict[str, Any], RollbackError]:
        return await self.manager.roll_back_automatically(reason, before=trouble)

    async def _take(self, condition: ConditionalRollback, why: str) -> Result[str, RollbackError]:
        facts = {RULE: condition.name, "why": why}
        return await self.manager.create_checkpoint("", facts, type=CheckpointType.CONDITIONAL)


def _kept_as(condition: ConditionalRollback) -> str:
    """Return what no condition of rfs.toml is called, which the daemon measures."""
    return f"watched by itself: {condition.name}"


async def _wait(stopped: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stopped.wait(), seconds)
