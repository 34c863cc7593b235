"""What would go wrong with a database, looked for before it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rfs.production.rollback.driver import Finding
from rfs.production.rollback.drivers.postgresql import bouncer, rights
from rfs.production.rollback.drivers.postgresql.connect import administering, connected, place_of, row_of
from rfs.production.rollback.drivers.postgresql.programs import pg_dump
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

if TYPE_CHECKING:
    from psycopg import Connection

_OWNS = "SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()"
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
        yield from bouncer.examine(c)
    except RollbackError as error:
        yield Finding("error", str(error), error.hint)


def _program(c: Component, connection: Connection[Any]) -> Iterator[Finding]:
    try:
        pg_dump(c, connection.info.server_version // 10000)
    except RollbackError as error:
        yield Finding("error", str(error), error.hint)


def _rights(c: Component, connection: Connection[Any]) -> Iterator[Finding]:
    name = place_of(c).database
    role = rights.role_of(connection)
    (owns,) = row_of(connection, _OWNS)
    if not role.creates:
        yield Finding(
            "warning",
            f"The role {role.name} may not create databases: {name} is restored in place, in an outage that grows.",
            f'Run `ALTER ROLE "{role.name}" CREATEDB` as a superuser: then it is a change of names.',
        )
    if not owns:
        yield Finding(
            "error",
            f"The role {role.name} does not own the database {name} and cannot restore it.",
            f'Run `ALTER DATABASE "{name}" OWNER TO "{role.name}"` as a superuser, or let url name its owner.',
        )
    if role.superuser:
        return
    if foreign := rights.foreign(connection):
        text = f"In {name} some objects belong to other roles and cannot be restored by {role.name}"
        yield Finding(
            "error",
            f"{text}: {rights.some(foreign)}.",
            f'Run `REASSIGN OWNED BY … TO "{role.name}"`, or let url name a superuser.',
        )
    if role.creates and (roles := rights.of_settings(connection)):
        text = f"{role.name} may not restore what these roles have set for themselves in {name}: {rights.some(roles)}."
        yield Finding("error", text, f'Give "{role.name}" CREATEROLE, and ADMIN on them; or ALTER ROLE … RESET ALL.')
    extensions = rights.untrusted(connection)
    if extensions and role.creates:
        text = f"In {name} are extensions that only a superuser may create: {rights.some(extensions)}."
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
    return rights.some([str(row[0]) for row in connection.execute(query)])
