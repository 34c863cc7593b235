"""Reading a configuration as JSON-like values, and writing such values into the text that is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from importlib import import_module
from math import isfinite
from typing import Any

from rfs.production.rollback.drivers.formats import NAMES, UnparsableError
from rfs.production.rollback.drivers.parsing import tree

_BOM = b"\xef\xbb\xbf"
_TEXT_ONLY = ("ini", "dotenv")
# Where each format's `edit(text, before, after)` is; loaded when a file of it is written.
_EDITORS = {"toml": "toml", "yaml": "yaml", "json": "json", "ini": "ini", "dotenv": "dotenv"}


class UnwritableError(Exception):
    """The values cannot be written in that format; the text says which and why, and holds no value."""


def read(data: bytes, kind: str) -> dict[str, Any]:
    """Return a configuration file as JSON-like values; dates and times become texts (ISO 8601).

    Args:
        kind: "toml", "yaml", "json", "ini" or "dotenv".

    Raises:
        UnparsableError: it is not of that format, no table of keys, or holds what JSON has not.
    """
    found = tree(data, kind)
    if found is None or found == []:  # YAML without a document
        return {}
    if not isinstance(found, dict):
        raise UnparsableError("it is no table of keys")
    try:
        values: dict[str, Any] = _plain(found)
    except RecursionError:
        raise UnparsableError("it is nested too deeply") from None
    return values


def write(data: bytes, values: Mapping[str, Any], kind: str) -> bytes:
    """Return a configuration file that says `values`, and is otherwise as it was.

    Args:
        data: the file now; empty for a new one.
        values: JSON-like. Formats that know texts only (INI, dotenv) are given numbers and truth values as texts.
            A text that stands for a date where the file has one stays a date.
        kind: as for `read`.

    Raises:
        UnparsableError: `data` cannot be read; nothing can be kept of it.
        UnwritableError: the format has no way to say one of the values, or not in this file.
    """
    wanted = _as_texts(values, kind) if kind in _TEXT_ONLY else dict(values)
    before = read(data, kind) if data.strip() else {}
    if same(before, wanted) and (kind != "json" or data.strip()):
        return data
    bom, text = (_BOM, data[len(_BOM) :].decode()) if data.startswith(_BOM) else (b"", data.decode())
    crlf = "\r\n" in text and text.count("\r\n") == text.count("\n")
    edit: Callable[[str, dict[str, Any], dict[str, Any]], str] = import_module(
        f"rfs.production.rollback.drivers.writing.{_EDITORS[kind]}"
    ).edit
    made = edit(text.replace("\r\n", "\n") if crlf else text, before, wanted)
    encoded = bom + (made.replace("\n", "\r\n") if crlf else made).encode("utf-8", "surrogatepass")
    _require_said(encoded, wanted, kind)
    return encoded


def _require_said(encoded: bytes, wanted: dict[str, Any], kind: str) -> None:
    try:
        said = read(encoded, kind)
    except UnparsableError:
        said = {}
        if not wanted:
            why = f"the {NAMES[kind]} file could not be read any more"
            raise UnwritableError(why) from None
    if not same(said, wanted):
        why = f"{first_difference(said, wanted)} cannot be said in this {NAMES[kind]} file"
        raise UnwritableError(why)


def same(a: object, b: object) -> bool:
    """Tell whether two JSON-like values are the same; 1, 1.0 and true are three."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def as_said(value: Any, kind: str) -> Any:
    """Return a value as a file of that format says it back: a text, where there is nothing else.

    Raises:
        UnwritableError: the format has no way to say it.
    """
    if kind not in _TEXT_ONLY or value is None:
        return value
    return (
        {key: as_said(each, kind) for key, each in value.items()}
        if isinstance(value, Mapping)
        else _as_text(value, "it", kind)
    )


def first_difference(a: object, b: object, where: str = "") -> str:
    """Return the dotted place of the first thing in which two values that are not the same differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in (*b, *(key for key in a if key not in b)):
            if key not in a or key not in b or not same(a[key], b[key]):
                return first_difference(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
    return where or "it"


def _plain(value: object) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise UnparsableError("it holds a number that is none")
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {str(key): _plain(each) for key, each in value.items()}
    raise UnparsableError("it holds a key or a value that JSON has not")


def _as_texts(values: Mapping[str, Any], kind: str) -> dict[str, Any]:
    if kind == "dotenv":
        return {key: _as_text(value, key, kind) for key, value in values.items()}
    found: dict[str, Any] = {}
    for section, options in values.items():
        if not isinstance(options, Mapping):
            why = f"{section} is no section, and INI files have nothing else"
            raise UnwritableError(why)
        found[section] = {key: _as_text(value, f"{section}.{key}", kind) for key, value in options.items()}
    return found


def _as_text(value: object, where: str, kind: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    why = f"{where} is no text, and {NAMES[kind]} files have nothing else"
    raise UnwritableError(why)
