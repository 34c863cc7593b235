"""JSON edited value by value; spaces, line ends and the way numbers are written stay."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from rfs.production.rollback.drivers.writing.spans import Edit, apply
from rfs.production.rollback.drivers.writing.write import same

_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r"[^\s,\]}]+")
_INDENT = re.compile(r"\n([ \t]+)\S")
_KEY = re.compile(r'"(?:[^"\\]|\\.)*"')


class _Node(NamedTuple):
    """A value in the text. `members`: of an object, (key, where it begins, value); `items`: of an array."""

    start: int
    end: int
    members: list[tuple[str, int, _Node]] | None = None
    items: list[_Node] | None = None


def edit(text: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return JSON text that says `after`; `before` is what it says now."""
    if not text.strip():
        return json.dumps(after, ensure_ascii=False, indent=2) + "\n"
    found = _INDENT.search(text)
    return apply(text, _Editor(text, found[1] if found else "").edits(_node(text, 0), before, after))


def _node(text: str, position: int) -> _Node:
    """Return the value that begins at or after `position`; the text is known to be JSON."""
    start = _after_space(text, position)
    if text[start] == '"':
        found = _KEY.match(text, start)
        return _Node(start, found.end() if found else start)
    if text[start] not in "{[":
        found = _PLAIN.match(text, start)
        return _Node(start, found.end() if found else start)
    members: list[tuple[str, int, _Node]] = []
    items: list[_Node] = []
    position = _after_space(text, start + 1)
    while text[position] not in "]}":
        if text[start] == "{":
            key = _node(text, position)
            value = _node(text, _after_space(text, key.end) + 1)
            members.append((json.loads(text[key.start : key.end]), key.start, value))
        else:
            value = _node(text, position)
            items.append(value)
        position = _after_space(text, value.end)
        if text[position] == ",":
            position = _after_space(text, position + 1)
    is_object = text[start] == "{"
    return _Node(start, position + 1, members if is_object else None, None if is_object else items)


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


class _Editor:
    """`unit` is what one more level is indented by."""

    def __init__(self, text: str, unit: str) -> None:
        self._text = text
        self._unit = unit

    def edits(self, node: _Node, before: Any, after: Any) -> list[Edit]:
        if same(before, after):
            return []
        if node.members is not None and isinstance(after, dict) and any(key in after for key, _, _ in node.members):
            return self._object(node, node.members, before, after)
        if node.items is not None and isinstance(after, list) and len(after) == len(node.items):
            return [
                edit
                for item, old, new in zip(node.items, before, after, strict=True)
                for edit in self.edits(item, old, new)
            ]
        return [Edit(node.start, node.end, self._dumped(after, self._margin(node.start)))]

    def _object(self, node: _Node, members: list[tuple[str, int, _Node]], before: Any, after: Any) -> list[Edit]:
        found: list[Edit] = []
        kept = False
        for number, (key, start, value) in enumerate(members):
            if key in after:
                kept = True
                found += self.edits(value, before[key], after[key])
            elif kept:
                found.append(Edit(members[number - 1][2].end, value.end, ""))
            else:
                found.append(Edit(start, members[number + 1][1], ""))
        _, first, value = members[0]
        lead = self._text[node.start + 1 : first]
        between = "," + (lead or (" " if '": ' in self._text else ""))
        colon = self._text[self._key_end(first) : value.start]
        margin, inline = self._margin(first), "\n" not in lead
        known = {key for key, _, _ in members}
        added = "".join(
            f"{between}{json.dumps(key, ensure_ascii=False)}{colon}{self._dumped(new, margin, inline=inline)}"
            for key, new in after.items()
            if key not in known
        )
        return [*found, Edit(members[-1][2].end, members[-1][2].end, added)] if added else found

    def _key_end(self, start: int) -> int:
        found = _KEY.match(self._text, start)
        return found.end() if found else start

    def _margin(self, position: int) -> str:
        """Return the blanks that the line of a position begins with."""
        line = self._text[self._text.rfind("\n", 0, position) + 1 : position]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def _dumped(self, value: Any, margin: str, *, inline: bool = False) -> str:
        if inline or not self._unit:
            spaced = ": " if '": ' in self._text else ":"
            return json.dumps(value, ensure_ascii=False, separators=(", " if ", " in self._text else ",", spaced))
        return json.dumps(value, ensure_ascii=False, indent=self._unit).replace("\n", f"\n{margin}")
