"""dotenv files edited variable by variable, as `envfile` reads them."""

from __future__ import annotations

import re
from typing import Any

from rfs.production.rollback.drivers.envfile import dotenv_places
from rfs.production.rollback.drivers.writing.spans import Edit, apply

_PLAIN = re.compile(r"[\w./:@%+,~^-]*", re.ASCII)


def edit(text: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return dotenv text that says `after`; `before` is what it says now."""
    edits: list[Edit] = []
    for place in dotenv_places(text):
        if place.name not in after:
            edits.append(Edit(place.start, place.end, ""))
        elif before[place.name] != after[place.name]:
            old = text[place.value : place.value_end]
            edits.append(Edit(place.value, place.value_end, _written(after[place.name], old[:1])))
    added = "".join(f"{name}={_written(value, '')}\n" for name, value in after.items() if name not in before)
    made = apply(text, edits)
    if added and made and not made.endswith("\n"):
        made += "\n"
    return made + added


def _written(value: str, quote: str) -> str:
    """Return a value in the quotes that it had, or in those that it needs."""
    if quote not in ("'", '"') and _PLAIN.fullmatch(value):
        return value
    # In single quotes no program takes "$" for the beginning of a variable.
    simple = not any(letter in value for letter in "'\\\n\r")
    if simple and (quote == "'" or "$" in value or (quote != '"' and '"' in value)):
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'
