"""The first rfs.toml of an application: what was detected, written down with comments."""

from __future__ import annotations

import os
from typing import Any

import msgspec

import rfs
from rfs.production.rollback.detect import Detected, Found, Suggestion
from rfs.production.rollback.retention import DEFAULT
from rfs.production.rollback.settings import default_key, place_id

WIDTH = 100

HEAD = """\
#:schema {schema}
# What belongs to this application, and how it is brought back. Written by `rfs init`; it is yours to change.
# `rfs doctor` checks it, docs/configuration.md explains every key.

[app]
name = {name}
"""

TAIL = """\
[store]
path = {path}
# Without this key no checkpoint can be read: keep a copy of it elsewhere.
key = {key}

[policy]
max_rollback_time = "5m"  # from the stop of the services; then it turns back …
recovery_time = "5m"      # … within a reserve of its own

[retention]
keep_last = {last}
keep_daily = {daily}
keep_weekly = {weekly}
"""


def render(found: Detected, *, store: str | None = None) -> str:
    """Return a commented rfs.toml that works as it is.

    Args:
        store: where the store goes; chosen by `store_path` when None.
    """
    blocks = [HEAD.format(schema=schema_url(), name=toml(found.name))]
    blocks += [_component(component) for component in found.components]
    blocks += [_suggestion(suggestion) for suggestion in found.suggestions]
    blocks.append(
        TAIL.format(
            path=toml(store or store_path(found)),
            key=toml(f"file:{_with_tilde(default_key(found.name, found.folder))}"),
            last=DEFAULT.keep_last,
            daily=DEFAULT.keep_daily,
            weekly=DEFAULT.keep_weekly,
        )
    )
    return "\n".join(blocks).rstrip() + "\n"


def store_path(found: Detected) -> str:
    """Return where the store of a new application goes: `/var/lib/rfs/NAME` for root, else beside rfs.toml."""
    if os.geteuid() != 0:
        return ".rfs"
    path = os.path.join("/var/lib/rfs", found.name)
    # Another application of that name may have it already.
    return f"{path}-{place_id(found.folder)}" if os.path.lexists(path) else path


def schema_url() -> str:
    """Return the address of the JSON Schema that came with this installation, for editors."""
    return "file://" + os.path.join(os.path.dirname(os.path.abspath(rfs.__file__)), "schema", "rfs.schema.json")


def _with_tilde(path: str) -> str:
    home = os.path.expanduser("~")
    return "~" + path.removeprefix(home) if path.startswith(home + "/") else path


def _component(component: Found) -> str:
    lines = [f"# {line}" for line in component.why.splitlines()]
    lines += [f"[components.{component.name}]", f"kind = {toml(component.kind)}"]
    lines += [f"{key} = {toml(value)}" for key, value in component.options.items()]
    if component.kind == "files" and "keep" in component.options:
        lines[-1] += "  # captured, but what was added is never removed"
    if component.kind == "config":
        lines.append('# reload = "http POST http://127.0.0.1:8000/-/reload"')
    return "\n".join(lines) + "\n"


def _suggestion(suggestion: Suggestion) -> str:
    prose = "".join(f"# {line}\n" for line in suggestion.why.splitlines())
    return prose + "".join(f"#   {line}\n" for line in suggestion.lines)


def toml(value: Any) -> str:
    """Return a string, a list of strings, a number or a truth value as TOML."""
    if isinstance(value, list):
        line = "[" + ", ".join(map(toml, value)) + "]"
        if len(line) <= WIDTH:
            return line
        return "[\n" + "".join(f"  {toml(each)},\n" for each in value) + "]"
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
