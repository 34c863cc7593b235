from __future__ import annotations

import pytest

from rfs.production.rollback.duration import parse_duration


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5.0),
        (0.25, 0.25),
        (0, 0.0),
        ("30", 30.0),
        ("500ms", 0.5),
        ("5s", 5.0),
        (" 5 s ", 5.0),
        ("2m", 120.0),
        ("1.5h", 5400.0),
        ("1d", 86400.0),
        ("2w", 1209600.0),
        ("1h30m", 5400.0),
        ("1m 30s", 90.0),
    ],
)
def test_reads_what_people_write(value, seconds):
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "  ",
        "soon",
        "5 apples",
        "5s!",
        "s",
        "-5s",
        "5s and a bit",
        "1e400",
        "٥s",
        -1,
        True,
        None,
        [5],
        float("nan"),
        float("inf"),
        10**400,
        "9" * 400,
    ],
)
def test_refuses_anything_else(value):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)
