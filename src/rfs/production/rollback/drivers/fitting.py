"""A configuration against a JSON Schema. What does not fit is told by its place, never by its value."""

from __future__ import annotations

import json
from typing import Any

from rfs.production.rollback.errors import RollbackError, UsageError

_SHOWN = 5


def require_fits(values: Any, path: str, component: str) -> None:
    """Make sure that JSON-like values fit a schema.

    Args:
        path: of the schema, a JSON file. What it refers to must be in it: nothing is fetched.
        component: whose configuration it is, for the error.

    Raises:
        RollbackError: config.unfit; config.no_validator, the extra `jsonschema` is not installed.
        UsageError: config.schema, the schema cannot be read, or is none.
    """
    try:
        import jsonschema.exceptions
        import jsonschema.validators
        import referencing
        import referencing.exceptions
    except ImportError as error:
        raise RollbackError("config.no_validator", component=component) from error
    try:
        with open(path, "rb") as file:
            schema = json.loads(file.read())
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
        found = list(kind(schema, registry=referencing.Registry()).iter_errors(values))
    except OSError as error:
        raise UsageError("config.schema", component=component, path=path, why=error.strerror) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError("config.schema", component=component, path=path, why="it is no JSON Schema") from error
    except (jsonschema.exceptions.SchemaError, referencing.exceptions.Unresolvable) as error:
        why = "it is no JSON Schema, or refers to one that is not in it"
        raise UsageError("config.schema", component=component, path=path, why=why) from error
    if found:
        places = sorted({f"{each.json_path} ({each.validator})" for each in found})
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        raise RollbackError("config.unfit", component=component, where=", ".join(places[:_SHOWN]) + more)
