"""INI files edited line by line, as configparser reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_SECTION = re.compile(r"\[(.+)\]")
_OPTION = re.compile(r"(.*?)\s*[=:]\s*")
_COMMENT = ("#", ";")


@dataclass
class _Option:
    """`first` and `last`: its lines; `value` is where its text begins in the first."""

    key: str
    first: int
    last: int
    value: int


@dataclass
class _Section:
    """`header`: its line; `last`: the last one that says something of it."""

    name: str
    header: int
    last: int
    options: list[_Option] = field(default_factory=list)


def edit(text: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return INI text that says `after`; `before` is what it says now."""
    lines = text.split("\n")
    sections = _sections(lines)
    colon = any(option for section in sections for option in section.options if _uses_colon(lines[option.first]))
    joiner = ": " if colon else " = " if " = " in text or "=" not in text else "="
    edits: dict[int, list[str]] = {}
    later: dict[int, list[str]] = {}
    for section in sections:
        wanted = after.get(section.name)
        for option in section.options:
            if wanted is None or option.key not in wanted:
                edits.update({number: [] for number in range(option.first, option.last + 1)})
            elif wanted[option.key] != before[section.name][option.key]:
                edits.update({number: [] for number in range(option.first, option.last + 1)})
                edits[option.first] = _lines(lines[option.first][: option.value], wanted[option.key])
        if wanted is None:
            edits[section.header] = []
    for name, wanted in after.items():
        known = before.get(name, {})
        added = [line for key, value in wanted.items() if key not in known for line in _lines(key + joiner, value)]
        place = next((section for section in reversed(sections) if section.name == name), None)
        if place is not None:
            later.setdefault(place.last, []).extend(added)
        else:
            end = len(lines) - 1
            later.setdefault(end, []).extend([*([""] if later.get(end) or text.strip() else []), f"[{name}]", *added])
    return _joined(lines, edits, later)


def _joined(lines: list[str], edits: dict[int, list[str]], later: dict[int, list[str]]) -> str:
    made: list[str] = []
    for number, line in enumerate(lines):
        last = number == len(lines) - 1
        if not (last and line == "" and number in later):
            made += edits.get(number, [line])
        made += later.get(number, [])
    # A file that ended with a line end does so still.
    if made and lines[-1] == "" and made[-1] != "":
        made.append("")
    return "\n".join(made)


def _uses_colon(line: str) -> bool:
    found = _OPTION.match(line)
    return found is not None and ":" in found[0][len(found[1]) :]


def _lines(head: str, value: str) -> list[str]:
    first, *more = value.split("\n")
    return [f"{head}{first}".rstrip() if not first else f"{head}{first}", *(f"\t{line}" for line in more)]


def _sections(lines: list[str]) -> list[_Section]:
    found: list[_Section] = []
    option: _Option | None = None
    indent = 0
    for number, line in enumerate(lines):
        word = line.strip()
        if not word or word.startswith(_COMMENT):
            continue
        deep = len(line) - len(line.lstrip())
        if option is not None and deep > indent:
            option.last = number
        else:
            indent = deep
            header = _SECTION.match(word)
            if header:
                found.append(_Section(header[1], number, number))
                option = None
                continue
            head = _OPTION.match(line)
            if head is None or not found:
                continue
            option = _Option(head[1].strip(), number, number, head.end())
            found[-1].options.append(option)
        found[-1].last = number
    return found
