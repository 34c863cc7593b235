"""What would go wrong with a database, looked for before it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rfs.production.rollback.driver import Finding
from rfs.production.rollback.drivers.postgresql.connect import administering, connected, place_of, row_of
from rfs.production.rollback.drivers.postgresql.programs import pg_dump
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

if TYPE_CHECKING:
    from psycopg import Connection

_LISTED = 3
_ROLE = """
SELECT r.rolcreatedb OR r.rolsuper, r.rolsuper, pg_has_role(d.datdba, 'USAGE'), current_user::text
FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()
"""
_FOREIGN = """
SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' AND NOT pg_has_role(c.relowner, 'USAGE')
ORDER BY 1
"""
_EXTENSIONS = """
SELECT e.extname FROM pg_extension e JOIN pg_available_extension_versions v
ON v.name = e.extname AND v.version = e.extversion WHERE v.superuser AND NOT v.trusted
AND e.extname <> 'plpgsql' ORDER BY 1
"""
_SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() ORDER BY 1"
_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY 1"


def examine(c: Component) -> Iterator[Finding]:
    """Yield what stands in the way of a checkpoint or a rollback."""
    try:
        with connected(c) as connection:
            yield from _program(c, connection)
            yield from _rights(c, connection)
            yield from _obstacles(c, connection)
        with administering(c):
            pass
    except RollbackError as error:
        yield Finding("error", str(error), error.hint)


def _program(c: Component, connection: Connection[Any]) -> Iterator[Finding]:
    try:
        pg_dump(c, connection.info.server_version // 10000)
    except RollbackError as error:
        yield Finding("error", str(error), error.hint)


def _rights(c: Component, connection: Connection[Any]) -> Iterator[Finding]:
    name = place_of(c).database
    creates, superuser, owns, role = row_of(connection, _ROLE)
    if not creates:
        yield Finding(
            "error",
            f"The role {role} may not create databases, so that {name} cannot be restored.",
            f'Run `ALTER ROLE "{role}" CREATEDB` as a superuser.',
        )
    if not owns:
        yield Finding(
            "error",
            f"The role {role} does not own the database {name} and cannot rename it.",
            f'Run `ALTER DATABASE "{name}" OWNER TO "{role}"` as a superuser, or let url name its owner.',
        )
    if superuser:
        return
    foreign = _names(connection, _FOREIGN)
    if foreign:
        text = f"In {name} some objects belong to other roles and cannot be restored by {role}: {foreign}."
        yield Finding("error", text, f'Run `REASSIGN OWNED BY … TO "{role}"`, or let url name a superuser.')
    extensions = _names(connection, _EXTENSIONS)
    if extensions:
        text = f"In {name} are extensions that only a superuser may create: {extensions}."
        yield Finding("error", text, "Let url name a superuser: without one this database cannot be restored.")


def _obstacles(c: Component, connection: Connection[Any]) -> Iterator[Finding]:
    name = place_of(c).database
    slots = _names(connection, _SLOTS)
    if slots:
        text = f"{name} has logical replication slots, which would follow it when it is set aside: {slots}."
        yield Finding("warning", text, "Drop them before a rollback, which is refused until then.")
    prepared = _names(connection, _PREPARED)
    if prepared:
        text = f"{name} has prepared transactions: {prepared}."
        yield Finding("warning", text, "COMMIT PREPARED or ROLLBACK PREPARED them: a rollback is refused until then.")


def _names(connection: Connection[Any], query: str) -> str:
    found = [str(row[0]) for row in connection.execute(query)]
    return ", ".join(found[:_LISTED]) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
