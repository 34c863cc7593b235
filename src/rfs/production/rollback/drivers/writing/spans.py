"""Places in a text, and putting something else there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Edit(NamedTuple):
    """`text` is put in the place of what lies from `start` to `end`, in characters."""

    start: int
    end: int
    text: str


def apply(text: str, edits: Iterable[Edit]) -> str:
    """Return the text with edits made that do not overlap; of those at one place, the first comes first."""
    pieces: list[str] = []
    position = 0
    for edit in sorted(edits, key=lambda each: (each.start, each.end)):
        pieces += (text[position : edit.start], edit.text)
        position = max(edit.end, position)
    return "".join((*pieces, text[position:]))
