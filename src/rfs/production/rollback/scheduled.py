"""`[[schedules]]`: what is done every so often, and when."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import msgspec

from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.schedule import Schedule
from rfs.production.rollback.settings import Settings, Source

Work = Literal["checkpoint", "prune", "drill", "rollback"]


class ScheduleTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[schedules]]` table: what `rfs watch` does every so often. Exactly one of `every` and `cron`.

    Attributes:
        do: "checkpoint"; "prune", which removes what retention does not keep; "drill", with the last checkpoint; or
            "rollback".
        every: how long between two.
        cron: five fields: minute, hour, day of month, month, day of week.
        time_zone: IANA name in which `cron` is meant.
        components: of a checkpoint, a drill or a rollback: these only.
        message: of a checkpoint; of a rollback, its reason.
        to: where a rollback goes: a tag, "@last-good", or what else names a checkpoint.
    """

    do: Work = "checkpoint"
    every: Duration | None = None
    cron: str | None = None
    time_zone: str = "UTC"
    components: tuple[str, ...] = ()
    message: str = ""
    to: str = ""

    def __post_init__(self) -> None:
        if self.do == "prune" and self.components:
            raise ValueError("components belongs to a checkpoint, a drill or a rollback")
        if self.do not in ("checkpoint", "rollback") and self.message:
            raise ValueError("message belongs to a checkpoint or a rollback")
        if (self.do == "rollback") != bool(self.to):
            raise ValueError('to belongs to a rollback, which needs it: to = "@last-good", for example')
        try:
            self.schedule()
        except UsageError as error:
            raise ValueError(str(error)) from error

    def schedule(self) -> Schedule:
        """Return when it is due."""
        every = parse_duration(self.every) if self.every is not None else None
        return Schedule(every=every, cron=self.cron, time_zone=self.time_zone)

    @property
    def rule(self) -> str:
        """What it does and when, in words: it is remembered under this."""
        when = f"every {self.every}" if self.every is not None else f"at {self.cron} {self.time_zone}"
        of = f" of {', '.join(self.components)}" if self.components else ""
        where = f" to {self.to}" if self.to else ""
        return f"{self.do}{where}{of} {when}"


def parse_schedules(settings: Settings, components: Sequence[str]) -> list[ScheduleTable]:
    """Return what `[[schedules]]` describes.

    Raises:
        UsageError: a key is unknown, a value is not usable, two are the same, or there is no such component.
    """
    source = Source(settings.path)
    found = [source.convert(table, ScheduleTable, ("schedules", n)) for n, table in enumerate(settings.schedules)]
    for number, table in enumerate(found):
        for name in table.components:
            if name not in components:
                source.bad(("schedules", number, "components"), f'there is no component called "{name}"')
        if table.rule in (other.rule for other in found[:number]):
            source.bad(("schedules", number), "it is there twice")
    return found


def lock_path(settings: Settings) -> str:
    """Return the path of the lock that the one daemon of a store holds."""
    return os.path.join(settings.store.path, "watch.lock")
