"""Patterns as in a .gitignore: which names belong to exclude, keep and in_place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_SPECIAL = re.compile(r"[*?\[\]\\]")


class _Rule(NamedTuple):
    negated: bool
    folders_only: bool
    anchored: bool
    regex: re.Pattern[str]


class Patterns:
    """An ordered list of patterns; the last one that matches decides.

    `*.log` and `tmp/` match at any depth, `/build` and `var/cache` from the root on, `**` spans
    folders, a final slash means folders only, and `!` takes back what an earlier one matched.
    What lies inside a matching folder is never asked about: it belongs to the folder.

    Raises:
        ValueError: a pattern cannot be understood; the text names it.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules: list[_Rule] = []
        # Most folders hold nothing that matches. A pattern like `*.log` is ruled out for a whole
        # folder by one substring search in its joined names; this list holds what to search for.
        self._hints: list[str] | None = []
        for line in lines:
            self._add(line)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def _add(self, line: str) -> None:
        negated = line.startswith("!")
        text = line[1:] if negated else line
        folders_only = text.endswith("/")
        text = text.rstrip("/")
        anchored = "/" in text
        text = text.removeprefix("/")
        if not text:
            message = f"{line!r} names nothing"
            raise ValueError(message)
        try:
            regex = re.compile(_translate(text), re.DOTALL)
        except re.error as error:
            message = f"{line!r} is not a pattern: {error}"
            raise ValueError(message) from None
        self._rules.append(_Rule(negated, folders_only, anchored, regex))
        if not negated and self._hints is not None:
            hint = None if anchored else _hint(text)
            self._hints = None if hint is None else [*self._hints, hint]

    def maybe(self, joined: str) -> bool:
        """Tell whether a folder may hold a match; quick, and never wrongly False.

        Args:
            joined: its names, each between two NULs.
        """
        if self._hints is None:
            return True
        return any(hint in joined for hint in self._hints)

    def match(self, folder: str, name: str, *, is_folder: bool) -> bool:
        """Tell whether an entry matches.

        Args:
            folder: the path of its folder from the root, "" for the root itself.
        """
        path = f"{folder}/{name}" if folder else name
        for rule in reversed(self._rules):
            if rule.folders_only and not is_folder:
                continue
            if rule.regex.fullmatch(path if rule.anchored else name):
                return not rule.negated
        return False


def _hint(text: str) -> str | None:
    """Return a substring that a name needs, between NULs, to match an unanchored pattern; None if there is none."""
    if text.startswith("*") and not _SPECIAL.search(text[1:]):
        return text[1:] + "\0"
    if text.endswith("*") and not _SPECIAL.search(text[:-1]):
        return "\0" + text[:-1]
    if not _SPECIAL.search(text):
        return "\0" + text + "\0"
    return None


def _translate(text: str) -> str:
    """Return the regular expression of one pattern, for a whole name or path."""
    parts = text.split("/")
    out = []
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            out.append(".+" if last else "(?:[^/]+/)*")
        else:
            out.append(_translate_name(part) + ("" if last else "/"))
    return "".join(out)


def _translate_name(part: str) -> str:
    out = []
    at = 0
    while at < len(part):
        char = part[at]
        at += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "\\" and at < len(part):
            out.append(re.escape(part[at]))
            at += 1
        elif char == "[" and (end := part.find("]", at + 1)) > 0:
            inside = part[at:end].replace("\\", "\\\\").replace("[", "\\[")
            out.append("[^" + inside[1:] + "]" if inside[0] in "!^" else f"[{inside}]")
            at = end + 1
        else:
            out.append(re.escape(char))
    return "".join(out)
