"""YAML edited scalar by scalar, and where that does not do, by whole members of a mapping."""

from __future__ import annotations

import json
import re
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from rfs.production.rollback.drivers.writing.spans import Edit, apply
from rfs.production.rollback.drivers.writing.write import same

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([Tt ][\d:.+Zz -]+)?")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


def edit(text: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return YAML text that says `after`; `before` is what it says now."""
    loader = YAML(typ="safe", pure=True)
    loader.composer.warn_double_anchors = False
    root = loader.compose(text)
    if root is None or not before:
        # Nothing is said in it, but perhaps in comments.
        kept = "" if root is not None else text
        return (kept if not kept or kept.endswith("\n") else f"{kept}\n") + _dumped(after, "")
    editor = _Editor(text)
    edits = editor.edits(root, before, after)
    return apply(text, [editor.all(root, after)] if edits is None else edits)


class _Editor:
    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def all(self, root: Any, after: dict[str, Any]) -> Edit:
        """Return the edit that puts other values in the place of everything that the text says."""
        text = _dumped(after, "") if after else ""
        if root.flow_style:
            return Edit(root.start_mark.index, root.end_mark.index, text)
        (first, _), (last, value) = root.value[0], root.value[-1]
        return Edit(self._starts[first.start_mark.line], self._end(last, value), text)

    def edits(self, node: Any, before: Any, after: Any) -> list[Edit] | None:
        """Return what to change in a value, or None where it has to be written anew."""
        if same(before, after):
            return []
        if isinstance(node, MappingNode) and isinstance(before, dict) and isinstance(after, dict):
            return self._mapping(node, before, after)
        if isinstance(node, SequenceNode) and isinstance(after, list) and len(after) == len(node.value):
            found: list[Edit] = []
            for item, old, new in zip(node.value, before, after, strict=True):
                inner = self._inside(item, node.start_mark.index, old, new)
                if inner is None:
                    return None
                found += inner
            return found
        if isinstance(node, ScalarNode) and node.style not in ("|", ">") and not isinstance(after, dict | list):
            return self._scalar(node, after)
        return None

    def _inside(self, node: Any, since: int, before: Any, after: Any) -> list[Edit] | None:
        """As `edits`; an alias stands elsewhere than its node, which others use too."""
        alias = node.start_mark.index < since
        return (None if not same(before, after) else []) if alias else self.edits(node, before, after)

    def _scalar(self, node: Any, after: Any) -> list[Edit] | None:
        start, end = node.start_mark.index, node.end_mark.index
        is_date = node.tag == _TIMESTAMP and isinstance(after, str) and _DATE.fullmatch(after)
        written = str(after) if is_date else _written(after, node.style)
        if start == end:  # "key:" with nothing behind it
            return [Edit(start, end, f" {written}")] if self._text[start - 1 : start] == ":" else None
        return [Edit(start, end, written)] if "\n" not in self._text[start:end] else None

    def _mapping(self, node: Any, before: dict[str, Any], after: dict[str, Any]) -> list[Edit] | None:
        own = [(str(key.value), key, value) for key, value in node.value if key.tag != _MERGE]
        if not any(name in after for name, _, _ in own) or (node.flow_style and after.keys() != before.keys()):
            return None
        found: list[Edit] = []
        for name, key, value in own:
            if name not in after:
                found.append(self._lines(key, value, ""))
                continue
            inner = self._inside(value, key.start_mark.index, before[name], after[name])
            if inner is None and node.flow_style:
                return None
            if inner is None:
                inner = [self._lines(key, value, self._member(key, name, after[name]))]
            found += inner
        _, last, value = own[-1]
        names = {name for name, _, _ in own}
        # What was merged in and stays so is not repeated.
        added = {name: new for name, new in after.items() if name not in names and not same(before.get(name, ...), new)}
        if added and node.flow_style:
            return None
        if added:
            found.append(self._after(last, value, "".join(self._member(last, *each) for each in added.items())))
        return found

    def _member(self, beside: Any, name: str, value: Any) -> str:
        return _dumped({name: value}, " " * beside.start_mark.column)

    def _lines(self, key: Any, value: Any, text: str) -> Edit:
        """Put `text` in the place of a member's lines. The first may hold what comes before the key ("- ")."""
        start = self._starts[key.start_mark.line]
        before = self._text[start : key.start_mark.index]
        if before.strip():
            # What stands there in front of it stays; the next member is brought up to it.
            return Edit(start + len(before), self._end(key, value) + (0 if text else len(before)), text.lstrip(" "))
        return Edit(start, self._end(key, value), text)

    def _after(self, key: Any, value: Any, text: str) -> Edit:
        end = self._end(key, value)
        ended = end == 0 or self._text[end - 1] == "\n"
        return Edit(end, end, text if ended else f"\n{text}")

    def _end(self, key: Any, value: Any) -> int:
        """Return where the line after a member begins."""
        alias = value.start_mark.index < key.start_mark.index
        line = key.end_mark.line if alias else max(self._last_line(value), key.end_mark.line)
        return self._starts[line + 1] if line + 1 < len(self._starts) else len(self._text)

    def _last_line(self, node: Any) -> int:
        if isinstance(node, ScalarNode) or node.flow_style or not node.value:
            line = int(node.end_mark.line)
            if getattr(node, "style", None) in ("|", ">") and not node.end_mark.column:
                line -= 1
                while line > node.start_mark.line and not self._line(line).strip():
                    line -= 1
            return line
        if isinstance(node, SequenceNode):
            inside = [item for item in node.value if item.start_mark.index >= node.start_mark.index]
            return max([int(node.start_mark.line), *map(self._last_line, inside)])
        key, value = node.value[-1]
        alias = value.start_mark.index < key.start_mark.index
        return int(key.end_mark.line) if alias else max(self._last_line(value), int(key.end_mark.line))

    def _line(self, number: int) -> str:
        end = self._starts[number + 1] if number + 1 < len(self._starts) else len(self._text)
        return self._text[self._starts[number] : end]


def _written(value: Any, style: str | None) -> str:
    """Return a scalar in the quotes that it had, or in those that it needs."""
    if not isinstance(value, str):
        return json.dumps(value)
    if style == "'" and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    if style is None and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())


def _dumped(value: dict[str, Any], margin: str) -> str:
    """Return a mapping as lines that begin with `margin`."""
    dumper = YAML(typ="safe", pure=True)
    dumper.default_flow_style = False
    dumper.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # its own default says None
    dumper.allow_unicode = True
    dumper.width = 1_000_000
    stream = StringIO()
    dumper.dump(value, stream)
    return "".join(f"{margin}{line}\n" if line else "\n" for line in stream.getvalue().splitlines())
