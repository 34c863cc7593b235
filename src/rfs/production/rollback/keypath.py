"""Dotted keys, as people write them and as changes are listed: server.port; hosts."a.b".port where a name has a dot."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BARE = re.compile(r"[^\s.\[\]\"]+")
_WORD = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|([^.\"]+)", re.DOTALL)
_INDEX = re.compile(r"(?:\"(?:[^\"\\]|\\.)*\"|[^\[\"])*", re.DOTALL)


def join(words: Iterable[str]) -> str:
    """Return the dotted key of the names on the way to a value; odd ones in double quotes."""
    return ".".join(word if _BARE.fullmatch(word) else _quoted(word) for word in words)


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def split(key: str) -> list[str]:
    """Return the names that a dotted key consists of. A backslash counts only between quotes.

    Raises:
        ValueError: a name is empty without quotes, or its quotes do not end; a sentence.
    """
    words: list[str] = []
    at = 0
    while True:
        found = _WORD.match(key, at)
        if found is None or (found.end() < len(key) and key[found.end()] != "."):
            why = f"{key!r} is no dotted key"
            raise ValueError(why)
        words.append(re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL) if found[1] is not None else found[2])
        if found.end() == len(key):
            return words
        at = found.end() + 1


def table_of(key: str) -> str:
    """Return the key of a list of which a listed key names an element: hosts of hosts[0].name; else the key itself."""
    found = _INDEX.match(key)
    return found[0] if found is not None else key
