"""TOML edited key by key."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import suppress
from datetime import date, datetime, time
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import String

from rfs.production.rollback.drivers.writing.write import UnwritableError, same


def edit(text: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return TOML text that says `after`; `before` is what it says now."""
    try:
        document = tomlkit.parse(text)
        _update(document, before, after, "")
        return tomlkit.dumps(document)
    except TOMLKitError:
        # Files that tomllib reads and this editor does not: the reason would quote them.
        why = "this TOML file is written in a way that it cannot be changed by key"
        raise UnwritableError(why) from None


def _update(table: MutableMapping[str, Any], before: dict[str, Any], after: dict[str, Any], where: str) -> None:
    for key in before.keys() - after.keys():
        del table[key]
    for key, value in after.items():
        place = f"{where}.{key}" if where else key
        if key not in before:
            table[key] = _item(value, place)
        elif not same(before[key], value):
            _replace(table, key, before[key], value, place)


def _replace(table: MutableMapping[str, Any], key: str, before: Any, after: Any, where: str) -> None:
    found = table[key]
    if isinstance(before, dict) and isinstance(after, dict):
        _update(found, before, after, where)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            place = f"{where}[{number}]"
            if isinstance(old, dict) and isinstance(new, dict):
                _update(found[number], old, new, place)
            elif not same(old, new):
                found[number] = _item(new, place)
    else:
        table[key] = _alike(found, after) or _item(after, where)


def _alike(found: Any, after: Any) -> Any:
    """Return a text as what stands there: a date or a time, or in the quotes that it had; None where it cannot be."""
    if isinstance(found, String) and isinstance(after, str) and after.isprintable() and "'" not in after:
        return tomlkit.string(after, literal=found.as_string().startswith("'"))
    for kind in (datetime, date, time):
        if isinstance(found, kind) and isinstance(after, str):
            with suppress(ValueError):
                return tomlkit.item(kind.fromisoformat(after))
    return None


def _item(value: Any, where: str) -> Any:
    if _lacks(value):
        why = f"{where} is or holds null, which TOML has not"
        raise UnwritableError(why)
    return tomlkit.item(value)


def _lacks(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_lacks, value.values() if isinstance(value, dict) else value))
    return value is None
