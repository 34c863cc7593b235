"""`[track]`, and the rules of when an edit is recorded and what of it is rfs's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rfs.production.rollback.edits import Burst, parse_track, told
from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.settings import parse

KINDS = {"tree": "files", "settings": "config", "db": "sqlite", "env": "environment"}
AT = datetime(2026, 11, 23, 3, 12, 7, tzinfo=UTC)


def table(text: str) -> str:
    return f'[app]\nname = "x"\n[track]\n{text}\n'


def test_all_that_can_be_tracked_is_unless_some_are_named() -> None:
    assert parse_track(parse('[app]\nname = "x"', "/x/rfs.toml"), KINDS) is None
    found = parse_track(parse(table(""), "/x/rfs.toml"), KINDS)
    assert found is not None
    assert found.components == ("tree", "settings", "env")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("componets = []", "Did you mean components?"),
        ('components = ["db"]', "db is of kind sqlite; only files, config, environment are tracked"),
        ('components = ["no"]', 'there is no component called "no"'),
        ('quiet = "soon"', "is not a duration"),
        ('quiet = "1m"', "not longer than at_most"),
        ('quiet = "0s"', "longer than nothing"),
        ('every = "1s"', "every must not be shorter than at_most"),
        ("largest = 0", "at least 1"),
        ("largest = true", "a whole number"),
    ],
)
def test_what_the_table_does_not_take(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_track(parse(table(text), "/x/rfs.toml"), KINDS)
    assert why in f"{caught.value} {caught.value.hint}"
    with pytest.raises(UsageError, match="it takes a table"):
        parse('track = 1\n[app]\nname = "x"\n', "/x/rfs.toml")
    with pytest.raises(UsageError, match="there is no component of kind files"):
        parse_track(parse(table(""), "/x/rfs.toml"), {"db": "sqlite"})


def test_a_burst_ends_when_it_is_quiet_or_has_lasted_too_long() -> None:
    assert Burst(AT, AT).due(2, 30) == AT + timedelta(seconds=2)
    assert Burst(AT, AT + timedelta(seconds=29)).due(2, 30) == AT + timedelta(seconds=30)


def test_what_the_log_says_of_an_edit() -> None:
    later = AT + timedelta(hours=1)
    assert told(["a"], AT, later, noticed=True) == "a, at 2026-11-23 03:12:07 UTC"
    keys = ["a", "b", "c" * 80, "d", "e"]
    text = told(keys, AT, later, noticed=False)
    assert text == f"a, b, …{'c' * 60} and 2 more, between 2026-11-23 03:12:07 and 2026-11-23 04:12:07 UTC"
