"""Freeze windows, the two odd nights of a year among them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from rfs.production.rollback.freezing import Freeze, FreezeTable, InForce, in_force, window_end

SEOUL = ZoneInfo("Asia/Seoul")
BERLIN = ZoneInfo("Europe/Berlin")
WEEKEND = FreezeTable(cron="0 18 * * FRI", duration="62h", time_zone="Asia/Seoul", reason="the weekend")


def at(zone: ZoneInfo, *moment: int) -> datetime:
    return datetime(*moment, tzinfo=zone).astimezone(UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("moment", "frozen"),
    [
        ((2026, 11, 20, 17, 59, 59), False),
        ((2026, 11, 20, 18, 0, 0), True),
        ((2026, 11, 20, 18, 0, 1), True),
        ((2026, 11, 22, 3, 0, 0), True),
        ((2026, 11, 23, 7, 59, 59), True),
        ((2026, 11, 23, 8, 0, 0), False),
        ((2026, 11, 25, 12, 0, 0), False),
    ],
)
def test_a_window_begins_and_ends_to_the_second(moment: tuple[int, ...], frozen: bool) -> None:
    end = window_end(WEEKEND, at(SEOUL, *moment))
    assert end == (at(SEOUL, 2026, 11, 23, 8) if frozen else None)


@pytest.mark.parametrize(
    ("friday", "ends"),
    [
        ((2026, 3, 20), (2026, 3, 23, 8)),
        ((2026, 3, 27), (2026, 3, 30, 9)),  # the night in which an hour is missing
        ((2026, 10, 23), (2026, 10, 26, 7)),  # the one in which an hour comes twice
    ],
)
def test_it_lasts_as_long_as_it_says_also_when_the_clock_changes(
    friday: tuple[int, ...], ends: tuple[int, ...]
) -> None:
    table = FreezeTable(cron="0 18 * * FRI", duration="62h", time_zone="Europe/Berlin")
    begin = at(BERLIN, *friday, 18)
    assert window_end(table, begin - timedelta(seconds=1)) is None
    assert window_end(table, begin) == begin + timedelta(hours=62) == at(BERLIN, *ends)
    assert window_end(table, begin + timedelta(hours=62)) is None


def test_a_beginning_that_the_clock_skips_is_right_after_the_gap() -> None:
    table = FreezeTable(cron="30 2 * * *", duration="1h", time_zone="Europe/Berlin")
    gap = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)  # 02:00 becomes 03:00
    assert window_end(table, gap - timedelta(minutes=1)) is None
    assert window_end(table, gap + timedelta(minutes=30)) is not None
    assert window_end(table, gap + timedelta(hours=2)) is None


def test_windows_without_a_gap_are_one() -> None:
    always = FreezeTable(cron="0 * * * *", duration="1h")
    now = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
    assert (window_end(always, now) or now) > now + timedelta(hours=90)
    twice = FreezeTable(cron="0 1,2 * * *", duration="90m")
    assert window_end(twice, now.replace(hour=1)) == now.replace(hour=3, minute=30)


def test_of_several_the_one_that_lasts_longest_is_told() -> None:
    now = at(SEOUL, 2026, 11, 21, 12)
    short = Freeze(freeze_id="a", since=now, by="kim", reason="demo", until=now + timedelta(hours=1))
    for_ever = Freeze(freeze_id="b", since=now, by="lee", reason="audit")
    assert in_force([], [], now) is None
    assert in_force([WEEKEND], [short], now) == InForce(at(SEOUL, 2026, 11, 23, 8), "the weekend")
    assert in_force([WEEKEND], [short, for_ever], now) == InForce(None, "audit", "lee")
    assert in_force([], [short], now + timedelta(hours=1)) is None
    lifted = Freeze(freeze_id="c", since=now, by="lee", reason="x", lifted_at=now, lifted_by="kim")
    assert in_force([], [lifted], now) is None


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"cron": "0 18 * *", "duration": "1h"}, "is not a cron expression"),
        ({"cron": "0 0 31 2 *", "duration": "1h"}, "is not a cron expression"),
        ({"cron": "0 18 * * FRI", "duration": "0"}, "longer than nothing"),
        ({"cron": "0 18 * * FRI", "duration": "long"}, "is not a duration"),
        ({"cron": "0 18 * * FRI", "duration": "1h", "time_zone": "Asia/Nowhere"}, "is not a time zone"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(table: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        FreezeTable(**table)  # type: ignore[arg-type]  # as it may stand in rfs.toml
