"""The JSON Schema that ships says what the structs say."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from rfs.production.rollback.detect import detect
from rfs.production.rollback.draft import render
from rfs.production.rollback.drivers.service.options import ServiceOptions
from rfs.production.rollback.health import Check
from rfs.production.rollback.schema import PATH, json_schema, text
from rfs.production.rollback.settings import Document
from rfs.production.rollback.wiring import BUILT_IN


def test_the_shipped_schema_is_as_new() -> None:
    shipped = Path(PATH).read_text(encoding="utf-8")
    assert shipped == text(), "run: python -m rfs.production.rollback.schema"


def fields(struct: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def test_every_key_of_every_table_is_in_it() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == fields(Document)
    assert set(schema["properties"]["health"]["items"]["properties"]) == fields(Check)
    kinds = {
        rule["if"]["properties"]["kind"]["const"]: set(rule["then"]["properties"])
        for rule in schema["properties"]["components"]["additionalProperties"]["allOf"]
    }
    assert set(kinds) == set(BUILT_IN)
    assert kinds["service"] == fields(ServiceOptions) | {"kind", "depends_on"}


def test_durations_may_be_text_and_keys_have_descriptions() -> None:
    policy = json_schema()["properties"]["policy"]["properties"]
    assert {"type": "string"} in policy["max_rollback_time"]["anyOf"]
    assert policy["max_rollback_time"]["default"] == 300.0
    assert "reserve" in policy["recovery_time"]["description"]
    assert "$ref" not in text()


def undescribed(value: Any, schema: dict[str, Any], where: str) -> list[str]:
    """The keys of a document that the schema has no place for."""
    if isinstance(value, list):
        return [each for item in value for each in undescribed(item, schema.get("items", {}), where)]
    if not isinstance(value, dict):
        return []
    found = []
    for rule in schema.get("allOf", ()):
        if rule["if"]["properties"]["kind"]["const"] == value.get("kind"):
            schema = rule["then"]
    for key, item in value.items():
        known = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
        if isinstance(known, dict):
            found += undescribed(item, known, f"{where}.{key}")
        else:
            found.append(f"{where}.{key}")
    return found


def test_what_init_writes_is_covered_by_it(tmp_path: Path) -> None:
    for path in (".env", "config/settings.toml", "supervisord.conf"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("", encoding="utf-8")
    (tmp_path / "supervisord.conf").write_text("[supervisord]\n[unix_http_server]\n[program:a]\n", encoding="utf-8")
    rendered = render(detect(str(tmp_path), system=str(tmp_path / "none")))
    assert rendered.startswith(f"#:schema file://{PATH}\n")
    assert undescribed(tomllib.loads(rendered), json_schema(), "") == []
    assert undescribed({"app": {"nmae": 1}}, json_schema(), "") == [".app.nmae"]
