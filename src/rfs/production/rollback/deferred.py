"""A rollback that is agreed to now and made later: when its time has come, or when a condition trips. Pure.

Its record is written down when somebody asks for it. The operation that it becomes is named in it before that begins,
so that whoever comes after a crash knows whether it began: it fires once, whatever is killed and when.
"""

from __future__ import annotations

import enum
import re
from datetime import datetime, timedelta

import msgspec

from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.model import FORMAT, OperationStatus, RollbackRecord, RollbackStrategy
from rfs.production.rollback.plan import Plan

WAITING = frozenset({OperationStatus.SCHEDULED, OperationStatus.ARMED})


class Deferred(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduled or an armed rollback.

    Attributes:
        rollback_id: 12 hexadecimal digits; the operation that it becomes has the same id, unless an attempt that
            changed nothing had it.
        strategy: SCHEDULED or CONDITIONAL.
        target: the checkpoint's id; of a rule of rfs.toml a selector, which is resolved when it fires.
        at: UTC, of a scheduled one; of an armed one, when its condition tripped.
        condition: the name of that of an armed one.
        owned: that is a function of a program, which measures it for as long as it holds the lock of this rollback.
        tripped: how its condition tripped, a sentence without its full stop.
        rule: of one that `[[schedules]]` asks for, what it says in words.
        components: those that go back; all that the target has when empty.
        selection: of these components only a part, as of a rollback.
        plan: as it was agreed to, without changes; None where nobody saw one.
        schema: what told of the databases' schema then, by component.
        status: SCHEDULED or ARMED while it waits; then that of its operation, or CANCELLED.
        why: a sentence without its full stop: why it waits on though it is due, or why it was cancelled.
        request: the approved request that it may be made with, or None.
        operation_id: the operation that it became, or was about to.
    """

    rollback_id: str
    strategy: RollbackStrategy
    target: str
    created_at: datetime
    actor: str
    reason: str = ""
    at: datetime | None = None
    condition: str = ""
    owned: bool = False
    tripped: str = ""
    rule: str = ""
    components: tuple[str, ...] = ()
    selection: dict[str, tuple[str, ...]] = {}
    plan: Plan | None = None
    schema: dict[str, str] = {}
    status: OperationStatus = OperationStatus.SCHEDULED
    why: str = ""
    request: str | None = None
    operation_id: str | None = None
    finished_at: datetime | None = None
    format: int = FORMAT

    @property
    def told_reason(self) -> str:
        """The reason of the operation that it becomes."""
        return ": ".join(filter(None, (self.reason, self.tripped)))

    @property
    def waits(self) -> bool:
        """Whether it is neither over nor under way, as far as its record says."""
        return self.status in WAITING

    def record(self) -> RollbackRecord:
        """Return what the history tells of it while there is no operation of it."""
        return RollbackRecord(
            rollback_id=self.rollback_id,
            checkpoint_id=self.target,
            reason=self.reason,
            executed_at=self.created_at,
            at=self.at,
            status=self.status,
            finished_at=self.finished_at,
            strategy=self.strategy,
            components=self.plan.components if self.plan is not None else self.components,
            actor=self.actor,
            error=self.why or None,
        )


class Due(enum.StrEnum):
    """What is due of a deferred rollback that its record says waits."""

    WAIT = "wait"
    FIRE = "fire"
    MISS = "miss"
    UNDER_WAY = "under way"
    OVER = "over"


def due(found: Deferred, now: datetime, grace: float, operation: OperationStatus | None, *, dropped: bool) -> Due:
    """Return what is due of one that waits.

    Args:
        now: UTC.
        grace: seconds after its time in which it still fires.
        operation: how the operation that it names stands; None when there is none, so that it did not begin.
        dropped: that was interrupted, and dropped, before it changed anything.
    """
    if operation in (OperationStatus.RUNNING, OperationStatus.HELD):
        return Due.UNDER_WAY
    if operation is not None and not dropped:
        return Due.OVER
    if found.at is None or now < found.at:
        return Due.WAIT
    return Due.FIRE if now <= found.at + timedelta(seconds=grace) else Due.MISS


_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)


def parse_at(text: str, now: datetime) -> datetime:
    """Return the moment that somebody wrote.

    Args:
        text: an ISO time, local where it has no zone; "03:00", the next time that it is so late here; or "in 2h".
        now: with a time zone; the local one for what is local.

    Raises:
        UsageError: it is none of these, or lies in the past.
    """
    wanted = text.strip()
    try:
        if wanted.startswith("in "):
            moment = now + timedelta(seconds=parse_duration(wanted[3:]))
        elif clock := _CLOCK.fullmatch(wanted):
            moment = _next(now, int(clock[1]), int(clock[2]), int(clock[3] or 0))
        else:
            moment = datetime.fromisoformat(wanted)
            moment = moment if moment.tzinfo is not None else moment.astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError("deferred.no_time", text=text) from error
    if moment <= now:
        raise UsageError("deferred.past", text=text)
    return moment


def _next(now: datetime, hour: int, minute: int, second: int) -> datetime:
    """Return the next moment at which a clock on the wall here shows that."""
    wall = now.astimezone().replace(tzinfo=None, hour=hour, minute=minute, second=second, microsecond=0, fold=0)
    today = wall.astimezone()
    return today if today > now else (wall + timedelta(days=1)).astimezone()
