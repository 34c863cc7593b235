"""When the next scheduled checkpoint is due. Pure: the daemon asks, nothing here waits.

Cron expressions are read by cronsim, which treats the two odd hours of a year as Debian's
cron does: a time that is skipped in spring is due right after the gap, one that comes twice
in autumn is due once.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from rfs.production.rollback.errors import UsageError


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule: every so often, or by cron. Exactly one of `every` and `cron` is given.

    Attributes:
        every: seconds between two.
        cron: five fields: minute, hour, day of month, month, day of week.
        time_zone: IANA name in which `cron` is meant; UTC when left out.

    Raises:
        UsageError: it cannot be understood.
    """

    every: float | None = None
    cron: str | None = None
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        if (self.every is None) == (self.cron is None):
            raise UsageError("schedule.unclear", what="it needs either every or cron")
        if self.every is not None and self.every <= 0:
            raise UsageError("schedule.unclear", what="every must be longer than nothing")
        _zone(self.time_zone)
        if self.cron is not None:
            following(self, datetime(2000, 1, 1, tzinfo=UTC))


def due(schedule: Schedule, last: datetime | None, now: datetime) -> bool:
    """Tell whether one is due now.

    Args:
        last: when the last one was taken; None when there never was one, which makes one due.
        now: UTC.

    Runs that were missed while nothing was there to take them are made up by one, not by many.
    A `last` that lies in the future, after the clock was set back, does not stop the schedule
    for longer than one period.
    """
    if last is None:
        return True
    if last > now:
        return schedule.every is not None and last - now > timedelta(seconds=schedule.every)
    return following(schedule, last) <= now


def following(schedule: Schedule, last: datetime) -> datetime:
    """Return when the one after `last` is due, in UTC."""
    if schedule.every is not None:
        return (last + timedelta(seconds=schedule.every)).astimezone(UTC)
    from cronsim import CronSim, CronSimError

    try:
        moments = CronSim(schedule.cron or "", last.astimezone(_zone(schedule.time_zone)))
        return next(moments).astimezone(UTC)
    except CronSimError as error:
        raise UsageError("schedule.unclear", what=f"{schedule.cron!r} is not a cron expression: {error}") from error
    except StopIteration:
        raise UsageError("schedule.unclear", what=f"{schedule.cron!r} never comes") from None


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError("schedule.unclear", what=f"{name!r} is not a time zone") from error
