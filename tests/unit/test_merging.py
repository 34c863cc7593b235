"""Three-way merging: what both sides changed apart is kept, what they changed together is a conflict."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.production.rollback.merging import (
    MISSING,
    MOST_BYTES,
    Resolution,
    merge_content,
    merge_lines,
    merge_values,
)

REFUSE, OURS, THEIRS, WHOLE = Resolution
BASE = b"".join(b"%d\n" % number for number in range(10))


def test_changes_of_lines_that_lie_apart_are_both_kept() -> None:
    want, onto = BASE.replace(b"2\n", b"two\n"), b"start\n" + BASE.replace(b"7\n8\n", b"")
    merged, clashes = merge_lines(BASE, want, onto, REFUSE)
    assert merged == b"start\n0\n1\ntwo\n3\n4\n5\n6\n9\n"
    assert clashes == []


@pytest.mark.parametrize(("how", "line"), [(REFUSE, b"there"), (OURS, b"there"), (THEIRS, b"want")])
def test_changes_of_the_same_line_are_a_conflict_with_three_values(how: Resolution, line: bytes) -> None:
    want, onto = BASE.replace(b"2\n", b"want\n").replace(b"8\n", b""), BASE.replace(b"2\n", b"there\n")
    merged, clashes = merge_lines(BASE, want, onto, how)
    assert merged == BASE.replace(b"2\n", line + b"\n").replace(b"8\n", b"")
    assert clashes == [("line 3", b"2\n", b"want\n", b"there\n")]


@pytest.mark.parametrize("newline", [b"\r\n", b"\n"])
def test_line_ends_and_a_missing_last_one_stay_as_they_are(newline: bytes) -> None:
    base, onto = b"a\nb\nc\nd".replace(b"\n", newline), b"a\nb\nc\nD".replace(b"\n", newline)
    assert merge_lines(base, base.replace(b"a", b"A"), onto, REFUSE) == (onto.replace(b"a", b"A"), [])


CONTENTS: list[tuple[Any, Any, Any, Resolution, Any, int]] = [
    (b"new", b"old", b"new", REFUSE, b"old", 0),
    (b"new", b"old", b"old", REFUSE, b"old", 0),
    (b"new", None, b"other", REFUSE, b"other", 1),
    (b"new", None, b"other", THEIRS, None, 1),
    (None, b"old", None, REFUSE, b"old", 0),
    (None, b"old", b"other", OURS, b"other", 1),
    (b"\0new", b"\0old", b"\0other", REFUSE, b"\0other", 1),
    (b"\0new", b"\0old", b"\0other", WHOLE, b"\0old", 0),
    (b"a\n" * MOST_BYTES, b"b\n", b"c\n", REFUSE, b"c\n", 1),
]


@pytest.mark.parametrize(("base", "want", "onto", "how", "merged", "count"), CONTENTS)
def test_what_has_no_lines_is_one_thing(
    base: Any, want: Any, onto: Any, *, how: Resolution, merged: Any, count: int
) -> None:
    found, clashes = merge_content(base, want, onto, how)
    assert (found, len(clashes)) == (merged, count)


VALUES: list[tuple[Any, Any, Any, Any, list[str]]] = [
    ({"a": 2, "b": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 5}, {"a": 1, "b": 5}, []),
    ({"a": 2}, {"a": 1}, {"a": 3}, {"a": 3}, ["a"]),
    ({"a": 2, "n": 1}, {"a": 1}, {"a": 2, "n": 1, "x": 0}, {"a": 1, "x": 0}, []),
    ({"t": {"a": 1}}, {}, {"t": {"a": 1, "b": 2}}, {"t": {"b": 2}}, []),
    ({"t": {"a": 1}}, {}, {"t": {"a": 1}}, {}, []),
    ({"t": {"a": 1}}, {}, {"t": {"a": 7}}, {"t": {"a": 7}}, ["t.a"]),
    ({"a": 1}, {"a": True}, {"a": 1.0}, {"a": 1.0}, ["a"]),
    ({"a": [1]}, {"a": [1, 2]}, {"a": [1], "b": 0}, {"a": [1, 2], "b": 0}, []),
]


@pytest.mark.parametrize(("base", "want", "onto", "merged", "where"), VALUES)
def test_keys_are_merged_one_by_one(base: Any, want: Any, onto: Any, merged: Any, where: list[str]) -> None:
    found, clashes = merge_values(base, want, onto, REFUSE)
    assert (found, [clash.where for clash in clashes]) == (merged, where)
    assert merge_values(base, want, onto, WHOLE) == (want, [])
    assert merge_values(base, want, onto, THEIRS)[0] == found or where


def test_a_value_that_is_not_there_is_none_that_is_nothing() -> None:
    assert merge_values({"a": None}, {}, {"a": None, "b": 1}, REFUSE) == ({"b": 1}, [])
    assert merge_values(MISSING, 1, 2, REFUSE) == (2, [("", MISSING, 1, 2)])


TEXTS = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n"]), max_size=8).map(b"".join)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(TEXTS, TEXTS, TEXTS)
def test_where_one_side_changed_nothing_the_other_is_taken(base: bytes, want: bytes, onto: bytes) -> None:
    assert merge_lines(base, want, base, REFUSE) == (want, [])
    assert merge_lines(base, base, onto, REFUSE) == (onto, [])
    assert merge_lines(base, want, want, REFUSE) == (want, [])
    assert merge_lines(base, want, onto, OURS)[1] == merge_lines(base, want, onto, THEIRS)[1]


TREES = st.recursive(st.integers(0, 2), lambda inner: st.dictionaries(st.sampled_from("ab"), inner), max_leaves=6)
TABLES = st.dictionaries(st.sampled_from("ab"), TREES)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TABLES, TABLES, TABLES, st.sampled_from([REFUSE, OURS, THEIRS]))
def test_merging_keys_again_changes_nothing(base: Any, want: Any, onto: Any, how: Resolution) -> None:
    merged, clashes = merge_values(base, want, onto, how)
    again, more = merge_values(base, want, merged, how)
    assert again == merged
    assert {clash.where for clash in more} <= {clash.where for clash in clashes}
    assert merge_values(base, want, base, how) == (want, [])
    assert merge_values(base, base, onto, how) == (onto, [])
