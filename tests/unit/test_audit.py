"""The chain of the audit log: what a reader of it finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256

import pytest

from rfs.production.rollback.audit import (
    NOTHING,
    TORN,
    Fact,
    Reach,
    digest,
    entry_of,
    follow,
    lines_of,
    verify,
)

AT = "2026-11-23T03:00:00+00:00"


def fact(name: str, what: str = "rollback", **detail: str) -> Fact:
    return Fact(key=name, when=AT, who="김", what=what, outcome="done", subject=name, detail=detail)


DATA, REACH = lines_of([fact(name, reason=f"why {name}") for name in "abcd"], Reach(), AT)
LINES = DATA.splitlines(keepends=True)


def test_a_whole_log_is_whole_and_can_be_checked_by_anybody() -> None:
    found = verify(DATA, REACH, [REACH.head, json.loads(LINES[1])["hash"]])
    assert (found.entries, found.head, found.findings, found.notes) == (4, REACH.head, (), ())
    assert REACH.size == len(DATA)
    # As docs/governance.md describes it, with nothing of rfs.
    prev = NOTHING
    for number, line in enumerate(DATA.decode().splitlines(), 1):
        entry = json.loads(line)
        claimed = entry.pop("hash")
        assert (entry["n"], entry["prev"]) == (number, prev)
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        prev = sha256(text.encode()).hexdigest()
        assert claimed == prev


def rehashed(line: bytes, **changes: object) -> bytes:
    entry = {**json.loads(line), **changes}
    entry.pop("hash")
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    whole = {**entry, "hash": sha256(text.encode()).hexdigest()}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


EDITS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a letter": (lambda: DATA.replace(b"why b", b"why x"), "line 2 is no entry, or was edited"),
    "a letter, with its hash": (
        lambda: b"".join([LINES[0], rehashed(LINES[1], who="lee"), *LINES[2:]]),
        "line 3 does not follow",
    ),
    "a space": (lambda: DATA.replace(b'"n":2', b'"n": 2'), "line 2 is no entry"),
    "a key more": (lambda: DATA.replace(b'{"at"', b'{"a":"","at"', 1), "line 1 is no entry"),
    "one gone from the middle": (lambda: b"".join([*LINES[:1], *LINES[2:]]), "line 2 does not follow"),
    "the first gone": (lambda: b"".join(LINES[1:]), "line 1 does not follow"),
    "two exchanged": (lambda: b"".join([LINES[0], LINES[2], LINES[1], LINES[3]]), "line 2 does not follow"),
    "one twice": (lambda: b"".join([LINES[0], LINES[0], *LINES[1:]]), "line 2 does not follow"),
    "the last gone": (lambda: b"".join(LINES[:3]), "its end is not the one that rfs wrote: entry 4 was"),
    "half of the last gone": (lambda: DATA[:-20], "its end is not the one that rfs wrote"),
    "all gone": (lambda: b"", "its end is not the one"),
    "garbage": (lambda: LINES[0] + b"\x00\xff\xfe\n" + b"".join(LINES[1:]), "line 2 is no entry"),
    "a number": (lambda: LINES[0] + b"17\n" + b"".join(LINES[1:]), "line 2 is no entry"),
    "a surrogate": (lambda: DATA.replace("김".encode(), b"\\ud800", 1), "line 1 is no entry"),
    "another number, with its hash": (
        lambda: b"".join([*LINES[:3], rehashed(LINES[3], n=9)]),
        "line 4 has the number 9, and should have 4",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_was_done_to_it_is_found(name: str) -> None:
    data, says = EDITS[name]
    assert data() != DATA
    told = [f"line {each.line} {each.what}" if each.line else each.what for each in verify(data(), REACH).findings]
    assert any(says in each for each in told), told


def test_a_file_that_is_gone_is_found_and_one_that_never_was_is_not() -> None:
    assert "gone" in verify(None, REACH).findings[0].what
    assert verify(None, None).findings == ()


def test_a_log_that_was_made_anew_is_only_found_by_a_hash_noted_elsewhere() -> None:
    other, reach = lines_of([fact(name) for name in "abcd"], Reach(), AT)
    assert verify(other, reach).findings == ()
    assert "which was noted elsewhere" in verify(other, reach, [REACH.head]).findings[0].what
    more, _ = lines_of([fact("e")], REACH, AT)
    assert verify(DATA + more, REACH, [REACH.head]).findings == ()  # longer by now


def test_the_chain_is_followed_from_where_it_was_known_to_reach() -> None:
    more, after = lines_of([fact("e"), fact("f")], REACH, AT)
    assert follow(more, REACH) == (after, frozenset("ef"), b"")
    found = follow(more[:-5], REACH)
    assert found is not None
    assert (found[0].count, found[1]) == (5, frozenset("e"))
    assert found[0].size + len(found[2]) == len(DATA + more) - 5
    assert follow(more, Reach()) is None
    assert follow(b"x\n", REACH) is None


def test_a_line_that_a_crash_tore_is_explained_by_the_entry_after_it_and_by_no_other() -> None:
    rest = b'{"at":"2026'
    torn, after = lines_of([fact("t", TORN, sha256=digest(rest), bytes=str(len(rest)))], REACH, AT)
    found = verify(DATA + rest + b"\n" + torn, after)
    assert (found.findings, len(found.notes), found.entries) == ((), 1, 5)
    assert verify(DATA + rest + b"x\n" + torn, after).findings != ()
    assert verify(DATA + rest, REACH).notes
    assert follow(DATA + rest + b"\n" + torn, Reach()) is not None


def test_only_an_entry_is_one() -> None:
    assert entry_of(LINES[0].rstrip()) is not None
    for line in (b"", b"{}", b"[]", b"null", LINES[0], LINES[0].rstrip() + b" ", b"\xff"):
        assert entry_of(line) is None
