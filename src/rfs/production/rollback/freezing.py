"""When nothing may be deployed: recurring windows of rfs.toml, and freezes that somebody declared. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.model import FORMAT
from rfs.production.rollback.schedule import Schedule, following

# Windows that follow each other without a gap are one; so many are looked at to find its end.
_CHAINED = 100


class FreezeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[freeze]]` table: a window that comes again and again, in which nothing may be deployed.

    Attributes:
        cron: when it begins, in five fields: minute, hour, day of month, month, day of week.
        duration: how long it lasts, in time that passes: a change to summer time makes it neither shorter nor longer.
        time_zone: IANA name in which `cron` is meant.
        reason: why, for whoever is refused.
    """

    cron: str
    duration: Duration
    time_zone: str = "UTC"
    reason: str = ""

    def __post_init__(self) -> None:
        if parse_duration(self.duration) == 0:
            raise ValueError("duration must be longer than nothing")
        try:
            self.schedule()
        except UsageError as error:
            raise ValueError(str(error)) from error

    def schedule(self) -> Schedule:
        """Return when it begins."""
        return Schedule(cron=self.cron, time_zone=self.time_zone)


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """A freeze that somebody declared.

    Attributes:
        until: UTC; None: until somebody lifts it.
        lifted_at, lifted_by, lifted_why: of its end before that.
    """

    freeze_id: str
    since: datetime
    by: str
    reason: str
    until: datetime | None = None
    lifted_at: datetime | None = None
    lifted_by: str = ""
    lifted_why: str = ""
    format: int = FORMAT

    def holds(self, now: datetime) -> bool:
        """Tell whether it is in force."""
        return self.lifted_at is None and (self.until is None or now < self.until)


class InForce(msgspec.Struct, frozen=True):
    """A freeze that is in force now.

    Attributes:
        until: UTC; None: until somebody lifts it.
        why: a phrase, may be empty.
        by: who declared it; "" for a window of rfs.toml.
    """

    until: datetime | None
    why: str
    by: str = ""

    @property
    def told(self) -> str:
        """It, as the end of a sentence about a freeze."""
        until = f"until {self.until.astimezone():%Y-%m-%d %H:%M %Z}" if self.until else "until it is lifted"
        whose = f"declared by {self.by}" if self.by else "a window of rfs.toml"
        return f"{until} ({', '.join(filter(None, (whose, self.why)))})"


def in_force(tables: Sequence[FreezeTable], declared: Iterable[Freeze], now: datetime) -> InForce | None:
    """Return what freezes deployments now: of several the one that lasts longest; None when nothing does.

    Args:
        now: UTC.
    """
    found = [InForce(each.until, each.reason, each.by) for each in declared if each.holds(now)]
    found += [InForce(end, table.reason) for table in tables if (end := window_end(table, now)) is not None]
    return max(found, key=lambda each: each.until or datetime.max.replace(tzinfo=UTC), default=None)


def window_end(table: FreezeTable, now: datetime) -> datetime | None:
    """Return when the window that is open now ends, UTC; None when none is."""
    schedule, lasts = table.schedule(), timedelta(seconds=parse_duration(table.duration))
    begin = following(schedule, now - lasts)
    if begin > now:
        return None
    end = begin + lasts
    for _ in range(_CHAINED):
        begin = following(schedule, begin)
        if begin > end:
            break
        end = begin + lasts
    return end
