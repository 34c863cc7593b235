from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.schedule import Schedule, due, following

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_every_so_often() -> None:
    six_hours = Schedule(every=6 * 3600)
    assert due(six_hours, None, NOON)
    assert not due(six_hours, NOON - 5 * HOUR, NOON)
    assert due(six_hours, NOON - 6 * HOUR, NOON)
    assert due(six_hours, NOON - 600 * HOUR, NOON)


def test_cron_is_meant_in_its_time_zone() -> None:
    nightly = Schedule(cron="30 3 * * *", time_zone="Asia/Seoul")
    assert following(nightly, NOON) == datetime(2026, 5, 4, 18, 30, tzinfo=UTC)
    assert not due(nightly, datetime(2026, 5, 3, 19, tzinfo=UTC), NOON)
    assert due(nightly, datetime(2026, 5, 3, 18, tzinfo=UTC), NOON)


def test_the_hour_that_is_skipped_and_the_one_that_comes_twice() -> None:
    nightly = Schedule(cron="30 2 * * *", time_zone="Europe/Berlin")
    spring = following(nightly, datetime(2026, 3, 28, 12, tzinfo=UTC))
    assert spring == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    autumn = following(nightly, datetime(2026, 10, 24, 12, tzinfo=UTC))
    assert following(nightly, autumn) - autumn >= 24 * HOUR


def test_a_clock_that_was_set_back_does_not_stop_it_for_long() -> None:
    hourly = Schedule(every=3600)
    assert not due(hourly, NOON + timedelta(minutes=30), NOON)
    assert due(hourly, NOON + 5 * HOUR, NOON)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "either"),
        ({"every": 60.0, "cron": "* * * * *"}, "either"),
        ({"every": 0.0}, "longer"),
        ({"cron": "61 * * * *"}, "cron expression"),
        ({"cron": "tomorrow"}, "cron expression"),
        ({"cron": "0 0 31 2 *"}, "cron expression"),
        ({"cron": "* * * * *", "time_zone": "Mars/Base"}, "time zone"),
        ({"cron": "* * * * *", "time_zone": "../etc/passwd"}, "time zone"),
    ],
)
def test_what_cannot_be_understood(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        Schedule(**fields)


@given(
    st.sampled_from(["* * * * *", "*/7 3 * * *", "0 0 1 * *", "15 2 * * SUN"]),
    st.sampled_from(["UTC", "Asia/Seoul", "America/St_Johns"]),
    st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2030, 1, 1)),  # noqa: DTZ001  # hypothesis wants naive bounds
)
def test_the_following_one_is_later_and_is_due_from_then_on(cron: str, zone: str, moment: datetime) -> None:
    schedule, last = Schedule(cron=cron, time_zone=zone), moment.replace(tzinfo=UTC)
    when = following(schedule, last)
    assert when > last
    assert due(schedule, last, when)
    assert not due(schedule, last, when - timedelta(seconds=1))
