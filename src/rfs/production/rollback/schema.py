"""The JSON Schema of rfs.toml, made from the structs that read it, for editors that complete and check.

`python -m rfs.production.rollback.schema` writes it anew; a test fails when it is not as new.
"""

from __future__ import annotations

import json
import os
import re
from importlib import import_module
from inspect import cleandoc
from typing import Any

import msgspec

import rfs
from rfs.production.rollback.approvals import ApprovalsTable
from rfs.production.rollback.around import Hook
from rfs.production.rollback.conditional import ConditionTable
from rfs.production.rollback.driver import Driver
from rfs.production.rollback.duration import Duration
from rfs.production.rollback.edits import TrackTable
from rfs.production.rollback.external import ExternalTable
from rfs.production.rollback.freezing import FreezeTable
from rfs.production.rollback.health import Check
from rfs.production.rollback.instances import InstancesTable
from rfs.production.rollback.listening import MetricsTable
from rfs.production.rollback.notifications import NotifyTable
from rfs.production.rollback.plan import Policy
from rfs.production.rollback.retention import Retention
from rfs.production.rollback.scheduled import ScheduleTable
from rfs.production.rollback.settings import DURATIONS, NAME_PATTERN, AppTable, ComponentHead, StoreTable
from rfs.production.rollback.sources import SPECS
from rfs.production.rollback.wiring import BUILT_IN

PATH = os.path.join(os.path.dirname(os.path.abspath(rfs.__file__)), "schema", "rfs.schema.json")


def json_schema() -> dict[str, Any]:
    """Return the schema. Kinds of drivers that others wrote are allowed, with any keys."""
    head = _table(ComponentHead)
    component = {
        **head,
        "additionalProperties": True,
        "allOf": [_for_kind(kind, head) for kind in sorted(BUILT_IN)],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rfs.toml",
        "type": "object",
        "additionalProperties": False,
        "required": ["app"],
        "properties": {
            "app": _table(AppTable),
            "components": {
                "type": "object",
                "propertyNames": {"pattern": NAME_PATTERN},
                "additionalProperties": component,
            },
            "store": _table(StoreTable),
            "health": {"type": "array", "items": _table(Check)},
            "hooks": {"type": "array", "items": _table(Hook)},
            "schedules": {"type": "array", "items": _table(ScheduleTable)},
            "conditions": {"type": "array", "items": _condition()},
            "notify": {"type": "array", "items": _table(NotifyTable)},
            "approvals": _table(ApprovalsTable),
            "metrics": _table(MetricsTable),
            "freeze": {"type": "array", "items": _table(FreezeTable)},
            "external": {"type": "array", "items": _table(ExternalTable)},
            "policy": _table(Policy),
            "retention": _table(Retention),
            "track": _table(TrackTable),
            "instances": _table(InstancesTable),
        },
    }


def _condition() -> dict[str, Any]:
    """Return the schema of a condition: its own keys, and those of exactly one source."""
    own = _table(ConditionTable)
    sources = [_table(spec) for spec in SPECS.values()]
    return {
        **own,
        "oneOf": [
            {
                "properties": {**dict.fromkeys(own["properties"], True), **source["properties"]},
                "required": source["required"],
                "additionalProperties": False,
            }
            for source in sources
        ],
        # What one source alone knows the others refuse; here all are known.
        "additionalProperties": True,
    }


def _for_kind(kind: str, head: dict[str, Any]) -> dict[str, Any]:
    module, name = BUILT_IN[kind]
    driver: type[Driver] = getattr(import_module(f"rfs.production.rollback.drivers.{module}"), name)
    options = _table(driver.options)
    then = {**options, "properties": {**head["properties"], **options["properties"]}}
    return {"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": then}


def _table(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the schema of a struct, with its attributes' lines of the docstring as descriptions."""
    _, components = msgspec.json.schema_components([struct])
    schema: dict[str, Any] = _inlined(components[struct.__name__], components)
    schema.pop("title", None)
    schema["description"] = (struct.__doc__ or "").strip().partition("\n")[0]
    # What reads durations takes them as text as well, which the field's own type does not say.
    (duration,), _ = msgspec.json.schema_components([Duration])
    lines = _described(cleandoc(struct.__doc__ or ""))  # Python 3.13 takes the indentation off, older ones do not
    for name, field in schema["properties"].items():
        if name in DURATIONS.get(struct, ()):
            del field["type"]
            field.update(duration)
        if name in lines:
            field["description"] = lines[name]
    return schema


def _inlined(schema: Any, components: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(each, components) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(components[schema["$ref"].rpartition("/")[2]], components)
    inlined = {key: _inlined(value, components) for key, value in schema.items()}
    if isinstance(said := inlined.get("description"), str):
        inlined["description"] = cleandoc(said)  # as Python 3.13 has it already
    return inlined


def _described(docstring: str) -> dict[str, str]:
    """Return the text of each name under "Attributes:"."""
    found: dict[str, str] = {}
    _, _, section = docstring.partition("Attributes:\n")
    for names, text in re.findall(r"^ {4}([a-z_, ]+): (.+(?:\n {5,}.+)*)", section, re.M):
        for name in names.split(", "):
            found[name] = " ".join(text.split())
    return found


def write() -> None:
    """Write the schema into the package."""
    with open(PATH, "w", encoding="utf-8") as file:
        file.write(text())


def text() -> str:
    """Return the schema as it is shipped."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write()
