"""Environment files as a table of names and values: dotenv, and systemd's EnvironmentFile.

For display only: what a shell or a service makes of a value is its own affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rfs.production.rollback.drivers.formats import UnparsableError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}", re.ASCII)
_START = re.compile(r"[ \t]*(?:export[ \t]+)?([^=\s]*)[ \t]*(=?)[ \t]*", re.ASCII)
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN = re.compile(r"(?:(?![ \t]#)[^\n])*")
_REST = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|$)")
_SKIPPED = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|$)")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_WORD_START, _BLANK = ("#", ";"), (" ", "\t")


def _at(text: str, position: int) -> UnparsableError:
    return UnparsableError(line=text.count("\n", 0, position) + 1)


def parse_dotenv(text: str) -> dict[str, str]:
    """Return the variables of a dotenv file; the last of equal names counts.

    Raises:
        UnparsableError: a line is no assignment, or a quote is not closed.
    """
    return {place.name: place.text for place in dotenv_places(text.replace("\r\n", "\n"))}


class Place(NamedTuple):
    """Where a variable stands, in characters.

    Attributes:
        text: its value.
        start, end: of its lines, with the line end.
        value, value_end: of the value as it is written, with its quotes.
    """

    name: str
    text: str
    start: int
    end: int
    value: int
    value_end: int


def dotenv_places(text: str) -> Iterator[Place]:
    """Yield where each variable of a dotenv file stands. Lines end with "\\n".

    Raises:
        UnparsableError: a line is no assignment, or a quote is not closed.
    """
    position = 0
    while position < len(text):
        skipped = _SKIPPED.match(text, position)
        if skipped:
            position = skipped.end()
            continue
        start = _START.match(text, position)
        if start is None or not start[2] or not _NAME.fullmatch(start[1]):
            raise _at(text, position)
        value, written, end = _dotenv_value(text, start.end())
        yield Place(start[1], value, position, end, start.end(), written)
        position = end


def _dotenv_value(text: str, position: int) -> tuple[str, int, int]:
    """Return the value that begins at `position`, where it ends, and where its line does."""
    quote = text[position : position + 1]
    if quote in ("'", '"'):
        quoted = (_SINGLE if quote == "'" else _DOUBLE).match(text, position)
        rest = quoted and _REST.match(text, quoted.end())
        if not quoted or not rest:
            raise _at(text, position)
        value = _unescaped(quoted[1]) if quote == '"' else quoted[1].replace("\\'", "'")
        return value, quoted.end(), rest.end()
    plain = _PLAIN.match(text, position)
    end = plain.end() if plain else position
    rest = _REST.match(text, end)
    value = text[position:end].rstrip()
    return value, position + len(value), rest.end() if rest else len(text)


def _unescaped(value: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), value)


def parse_systemd(text: str) -> dict[str, str]:
    """Return the variables of a file for systemd's EnvironmentFile=; the last of equal names counts.

    Raises:
        UnparsableError: a line is no assignment, or a quote is not closed.
    """
    text = text.replace("\r\n", "\n")
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        end = text.find("\n", position)
        line = text[position : end if end >= 0 else len(text)]
        if not line.strip() or line.lstrip().startswith(_WORD_START):
            position += len(line) + 1
            continue
        name, equals, _ = line.partition("=")
        if not equals or not _NAME.fullmatch(name.strip()):
            raise _at(text, position)
        value, position = _systemd_value(text, position + len(name) + 1)
        found[name.strip()] = value
    return found


def _systemd_value(text: str, position: int) -> tuple[str, int]:
    """Return the value that begins at `position`, and where its line ends. Quotes and words may follow each other."""
    value: list[str] = []
    began = position
    kept = 0  # unquoted blanks at the end do not count
    quote = ""
    while position < len(text):
        letter = text[position]
        position += 1
        if letter == "\\" and quote != "'":
            value.append("" if text[position : position + 1] == "\n" else text[position : position + 1])
            position += 1
            kept = len(value)
        elif letter == quote:
            quote = ""
        elif not quote and letter in ("'", '"'):
            quote = letter
        elif not quote and letter == "\n":
            break
        elif quote or letter not in _BLANK or value:
            value.append(letter)
            kept = kept if not quote and letter in _BLANK else len(value)
    if quote:
        raise _at(text, began)
    return "".join(value[:kept]), position
