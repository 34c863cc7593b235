"""What the daemon does about scheduled rollbacks: those that are due are made, or refused, and each is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from rfs.production.rollback.application import Application
from rfs.production.rollback.deferred import Deferred, Due
from rfs.production.rollback.deferring import retryable
from rfs.production.rollback.errors import LockedError, RollbackError
from rfs.production.rollback.lock import actor
from rfs.production.rollback.model import OperationStatus, RollbackStrategy, new_id, utc_now
from rfs.production.rollback.schedule import following
from rfs.production.rollback.scheduled import ScheduleTable

Say = Callable[[str, str, str], None]

# What has to wait for something else is tried again after this long.
_AGAIN_SECONDS = 10.0


def turn(app: Application, tables: Sequence[ScheduleTable], say: Say) -> float:
    """Make what is due; return in how many seconds the next one is.

    Args:
        tables: `[[schedules]]`.
        say: told what was done: a word for it, a sentence, and the id.

    Raises:
        RollbackError: the catalog cannot be read or written.
    """
    _forget_conditions(app, say)
    _follow_rules(app, [table for table in tables if table.do == "rollback"], say)
    # What a program measures it makes itself, while it lives.
    ours = [each for each in app.catalog.waiting_deferred() if not (each.owned and app.measured(each))]
    return min([look(app, found, say) for found in ours], default=math.inf)


def look(app: Application, found: Deferred, say: Say) -> float:
    """Do what is due of one that waits; return in how many seconds something is.

    Args:
        say: as for `turn`.
    """
    match app.look_at(found):
        case Due.WAIT:
            return math.inf if found.at is None else (found.at - utc_now()).total_seconds()
        case Due.FIRE:
            return _fire(app, found, say)
        case Due.MISS:
            return _miss(app, found, say)
        case Due.OVER:
            _ended(app, found, say)
    return _AGAIN_SECONDS


def _fire(app: Application, found: Deferred, say: Say) -> float:
    try:
        app.fire(found.rollback_id)
    except RollbackError as error:
        # Whether it began is in the catalog: what was raised may be of a way back.
        now = app.find_deferred(found.rollback_id)
        if now.waits and app.look_at(now) not in (Due.OVER, Due.UNDER_WAY):
            if retryable(error):
                app.put_off(now, str(error))
                return _AGAIN_SECONDS
            return _refuse(app, now, str(error), say)
    _ended(app, found, say)
    return _AGAIN_SECONDS


def _miss(app: Application, found: Deferred, say: Say) -> float:
    late = f"it could not begin within {app.settings.policy.misfire_grace:g} s of its time"
    return _refuse(app, found, f"{late}: {found.why}" if found.why else late, say)


def _refuse(app: Application, found: Deferred, why: str, say: Say) -> float:
    try:
        with app.locked("schedule"):
            app.give_up(found, why.rstrip("."))
    except LockedError:
        return _AGAIN_SECONDS
    text = f"The {found.strategy} rollback {found.rollback_id} is not made: {why.rstrip('.')}."
    say("refused", text, found.rollback_id)
    return _AGAIN_SECONDS


def _ended(app: Application, found: Deferred, say: Say) -> None:
    now = app.follow_up(app.find_deferred(found.rollback_id))
    if now.waits or now.operation_id is None:
        return
    operation = app.catalog.operation(now.operation_id)
    why = f" ({operation.error.rstrip('.')})" if operation.error else ""
    text = f"The {now.strategy} rollback {now.operation_id} to {operation.plan.target} is {operation.status}{why}."
    say("rollback", text, now.operation_id)


def _forget_conditions(app: Application, say: Say) -> None:
    """Give up what is armed with a condition that nobody measures any more: it would wait for ever."""
    armed = [each for each in app.catalog.waiting_deferred() if each.condition and each.at is None]
    if not armed:
        return
    names = {str(table.get("name")) for table in app.settings.conditions}
    for found in armed:
        if found.owned:
            if not app.measured(found):
                _refuse(app, found, "the program that measured its condition has ended", say)
        elif found.condition not in names:
            _refuse(app, found, f"rfs.toml has no condition {found.condition} any more", say)


# — what [[schedules]] asks for —


def _follow_rules(app: Application, tables: Sequence[ScheduleTable], say: Say) -> None:
    """Let each rule have exactly one that waits, for the next time that it is due."""
    waiting = {found.rule: found for found in app.catalog.waiting_deferred() if found.rule}
    wanted = {table.rule: table for table in tables}
    for rule in waiting.keys() - wanted.keys():
        if app.look_at(waiting[rule]) is not Due.UNDER_WAY:
            _refuse(app, waiting[rule], "rfs.toml asks for it no longer", say)
    missing = [table for rule, table in wanted.items() if rule not in waiting]
    if not missing:
        return
    last: dict[str, datetime] = {}
    for found in app.catalog.deferred():
        if found.rule and found.at is not None:
            last.setdefault(found.rule, found.at)
    for table in missing:
        app.catalog.put_deferred(
            Deferred(
                rollback_id=new_id(),
                strategy=RollbackStrategy.SCHEDULED,
                status=OperationStatus.SCHEDULED,
                target=table.to,
                created_at=utc_now(),
                actor=actor(),
                reason=table.message or table.rule,
                at=_next(table, last.get(table.rule), utc_now()),
                rule=table.rule,
                components=table.components,
            )
        )


def _next(table: ScheduleTable, last: datetime | None, now: datetime) -> datetime:
    """Return when a rule is due next; never at once: nobody wants a rollback because a line was written."""
    schedule = table.schedule()
    first = following(schedule, now)
    # One that was called off before its time is left out, not made up. After a clock that was set back nothing is.
    if last is None or last > first + timedelta(seconds=1):
        return first
    then = following(schedule, last)
    return then if then > now else first
