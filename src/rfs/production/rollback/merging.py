"""Three-way merging, of texts by their lines and of JSON-like values by their keys. Pure.

What lies between `base` and `want` is done to `onto`. Where `onto` differs from `base` in the same place, and not as
`want` does, there is a conflict. Merging what was merged already changes nothing, so that it may be repeated.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rfs.production.rollback import keypath

# Beyond these a file is taken as a whole: comparing lines takes time that grows with the square of their number.
MOST_BYTES, MOST_LINES = 1 << 20, 20_000


class Resolution(enum.StrEnum):
    """What becomes of a place that was changed since.

    REFUSE: nothing is done. OURS: it stays as it is now, the rest is done. THEIRS: it becomes what it was before the
    change that is taken back. WHOLE: nothing is compared; all of the thing becomes what it was.
    """

    REFUSE = "refuse"
    OURS = "ours"
    THEIRS = "theirs"
    WHOLE = "whole"


class _Missing:
    """Stands for a key that is not there."""


MISSING = _Missing()


class Clash(NamedTuple):
    """A place with three values, of which none can be chosen. `where` is a dotted key, or lines of a text."""

    where: str
    base: Any
    want: Any
    onto: Any


def merge_values(base: Any, want: Any, onto: Any, how: Resolution, where: str = "") -> tuple[Any, list[Clash]]:
    """Return `onto` with what lies between `base` and `want`; MISSING stands for nothing, on each side."""
    if how is Resolution.WHOLE or _same(onto, base) or _same(onto, want):
        return want, []
    if _same(want, base):
        return onto, []
    sides = [{} if side is MISSING else side for side in (base, want, onto)]
    if not all(isinstance(side, dict) for side in sides) or sum(side is MISSING for side in (base, want, onto)) > 1:
        return (want if how is Resolution.THEIRS else onto), [Clash(where, base, want, onto)]
    first, second, third = sides
    merged: dict[str, Any] = {}
    clashes: list[Clash] = []
    for key in dict.fromkeys((*third, *second, *first)):
        word = keypath.join([str(key)])
        inner = f"{where}.{word}" if where else word
        old, wanted, there = (each.get(key, MISSING) for each in (first, second, third))
        value, found = merge_values(old, wanted, there, how, inner)
        clashes += found
        if value is not MISSING:
            merged[key] = value
    gone = not merged and (want is MISSING or onto is MISSING)
    return (MISSING if gone else merged), clashes


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)


def is_text(data: bytes | None) -> bool:
    """Tell whether a content can be merged by lines."""
    return data is not None and len(data) <= MOST_BYTES and b"\0" not in data and data.count(b"\n") < MOST_LINES


def merge_content(
    base: bytes | None, want: bytes | None, onto: bytes | None, how: Resolution
) -> tuple[bytes | None, list[Clash]]:
    """Return what a file that says `onto` says with what lies between `base` and `want`; None: there is no file."""
    if how is Resolution.WHOLE or onto in (base, want):
        return want, []
    if want == base:
        return onto, []
    if base is not None and want is not None and onto is not None and all(map(is_text, (base, want, onto))):
        return merge_lines(base, want, onto, how)
    return (want if how is Resolution.THEIRS else onto), [Clash("", base, want, onto)]


def merge_lines(base: bytes, want: bytes, onto: bytes, how: Resolution) -> tuple[bytes, list[Clash]]:
    """Merge three texts by their lines; see `merge_content`."""
    merged: list[bytes] = []
    clashes: list[Clash] = []
    number = 0
    for old, wanted, there in _pieces(*(text.splitlines(keepends=True) for text in (base, want, onto))):
        if wanted in (old, there):
            merged += there
        elif there == old:
            merged += wanted
        else:
            last = f"–{number + len(there)}" if len(there) > 1 else ""
            clashes.append(Clash(f"line {number + 1}{last}", *(b"".join(side) for side in (old, wanted, there))))
            merged += wanted if how is Resolution.THEIRS else there
        number += len(there)
    return b"".join(merged), clashes


_HERE, _MIDDLE, _BEFORE = b"<<<<<<< now", b"=======", b">>>>>>> before the change"


def marked(ours: bytes, theirs: bytes) -> bytes:
    """Return a text with both sides of what differs in two, between conflict markers."""
    from difflib import SequenceMatcher

    first, second = ours.splitlines(keepends=True), theirs.splitlines(keepends=True)
    end = b"\r\n" if first and first[0].endswith(b"\r\n") else b"\n"
    lines: list[bytes] = []
    for tag, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if tag == "equal":
            lines += first[a:b]
            continue
        # A last line without an end must not run into the marker.
        sides = ([line if line.endswith(b"\n") else line + end for line in side] for side in (first[a:b], second[c:d]))
        here, before = sides
        lines += [_HERE + end, *here, _MIDDLE + end, *before, _BEFORE + end]
    return b"".join(lines)


def is_marked(text: bytes) -> bool:
    """Tell whether one of the markers of `marked` is left; "=======" alone may be a text's own."""
    return any(line.rstrip(b"\r\n") in (_HERE, _BEFORE) for line in text.splitlines(keepends=True))


_Lines = Sequence[bytes]


def _pieces(base: _Lines, want: _Lines, onto: _Lines) -> Iterator[tuple[_Lines, _Lines, _Lines]]:
    """Yield the three texts in pieces that belong together: what all have in common, and what lies between."""
    at = (0, 0, 0)
    for start, ends in _common(base, want, onto):
        yield base[at[0] : start[0]], want[at[1] : start[1]], onto[at[2] : start[2]]
        yield base[start[0] : ends[0]], want[start[1] : ends[1]], onto[start[2] : ends[2]]
        at = ends


_Places = tuple[int, int, int]


def _common(base: _Lines, want: _Lines, onto: _Lines) -> Iterator[tuple[_Places, _Places]]:
    """Yield where runs of lines that stand in all three begin and end, and at last their ends."""
    first, second = _matches(base, want), _matches(base, onto)
    i = j = 0
    while i < len(first) and j < len(second):
        (a, w, n), (b, o, m) = first[i], second[j]
        start, end = max(a, b), min(a + n, b + m)
        if start < end:
            yield (start, w + start - a, o + start - b), (end, w + end - a, o + end - b)
        if a + n < b + m:
            i += 1
        else:
            j += 1
    ends = (len(base), len(want), len(onto))
    yield ends, ends


def _matches(a: _Lines, b: _Lines) -> list[tuple[int, int, int]]:
    from difflib import SequenceMatcher  # what only looks at changes needs no comparing of lines

    return [(*each,) for each in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks() if each.size]
