"""Reaching the server: what rfs.toml says, connections, and the errors of either told to a person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import RollbackError, TimedOutError, UsageError
from rfs.production.rollback.migrating import MigrationsTable
from rfs.production.rollback.model import Component
from rfs.production.rollback.pg_dump import OLDEST_SERVER
from rfs.production.rollback.secret import resolve_secret

if TYPE_CHECKING:
    from psycopg import Connection

CONNECT_SECONDS = 10
# Renaming waits for a lock that only another rename or DROP of the same database holds.
LOCK_SECONDS = 5
# What object–relational mappers put into the scheme; libpq does not know it.
_DIALECT = re.compile(r"^postgres(?:ql)?\+\w+://")
_MAINTENANCE = ("postgres", "template1")


class PostgresqlOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a postgresql component.

    Attributes:
        url: how to connect to the database, as a URL or as libpq's words; or env:NAME, file:PATH, cmd:PROGRAM.
        admin_url: a database of the same server to stand in while the other is renamed, written likewise; by
            default `postgres`, else `template1`, reached as `url` says.
        pgbouncer: the console of the PgBouncer through which the application connects, written likewise; its clients
            then wait for the outage to end.
        bin: the folder of pg_dump; by default it is looked for.
        wait: how long a rollback waits for open transactions of other sessions to end.
        on_open_transactions: what to do when they have not: refuse the rollback, or end them.
        migrations: what migrates it: alembic.ini, manage.py, or a folder of SQL; or a table, see MigrationsTable.
    """

    url: str
    admin_url: str | None = None
    pgbouncer: str | None = None
    bin: str | None = None
    wait: Duration = "10s"
    on_open_transactions: Literal["refuse", "terminate"] = "refuse"
    migrations: str | MigrationsTable | None = None

    def __post_init__(self) -> None:
        parse_duration(self.wait)


def options_of(c: Component) -> PostgresqlOptions:
    return msgspec.convert(dict(c.options), PostgresqlOptions)


class Place(msgspec.Struct, frozen=True):
    """Where a component's database is.

    Attributes:
        words: libpq's words for reaching it, the password among them: never to be shown.
        database: its name.
        shown: the same for anybody's eyes.
    """

    words: dict[str, Any]
    database: str
    shown: str


def place_of(c: Component) -> Place:
    """Return where the live database is.

    Raises:
        UsageError: the url is unusable, or psycopg is not installed.
    """
    return _place(c, options_of(c).url, "url")


def _place(c: Component, url: str, key: str) -> Place:
    conninfo = _psycopg(c).conninfo
    text = _DIALECT.sub("postgresql://", resolve_secret(url, c.home))
    try:
        words = conninfo.conninfo_to_dict(text)
    except _psycopg(c).Error:
        # libpq's own sentence repeats what it could not read, and with it the password.
        raise UsageError("postgresql.url", component=c.name, key=key, why="it is no URL and no list of words") from None
    database = words.get("dbname") or words.get("user")
    if not database:
        raise UsageError("postgresql.url", component=c.name, key=key, why="it names no database")
    at = words.get("host") or words.get("hostaddr") or "the local socket"
    port = f":{words['port']}" if "port" in words else ""
    return Place({**words, "dbname": database}, str(database), f"{database} at {at}{port}")


def _psycopg(c: Component) -> Any:
    try:
        import psycopg  # 60 ms, and most commands reach no database
    except ImportError as error:
        raise UsageError("postgresql.psycopg", component=c.name, why=str(error).splitlines()[0]) from error
    return psycopg


@contextmanager
def explained(c: Component, database: str) -> Iterator[None]:
    """Turn the errors of the server and of the way to it into such that tell what to do."""
    psycopg = _psycopg(c)
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise TimedOutError("postgresql.slow", component=c.name, database=database, why=first_line(error)) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise RollbackError(
            "postgresql.privilege", component=c.name, database=database, why=first_line(error)
        ) from error
    except psycopg.Error as error:
        raise RollbackError("postgresql.failed", component=c.name, database=database, why=first_line(error)) from error


def first_line(error: BaseException) -> str:
    """Return the server's sentence, without its position and context, which may quote data."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def connected(c: Component, database: str | None = None) -> Iterator[Connection[Any]]:
    """Yield a connection to a database of the server, by default the live one; each statement commits by itself.

    Raises:
        RollbackError: it cannot be reached, or refuses; errors of statements inside are explained likewise.
        UsageError: the server is too old.
    """
    place = place_of(c)
    name = database or place.database
    connection = _connect(c, place, name)
    try:
        with explained(c, name):
            yield connection
    finally:
        connection.close()


@contextmanager
def administering(c: Component) -> Iterator[Connection[Any]]:
    """Yield a connection beside the live database, from which that can be renamed."""
    url = options_of(c).admin_url
    places = [_place(c, url, "admin_url")] if url else []
    if not places:
        live = place_of(c)
        places = [msgspec.structs.replace(live, database=name) for name in _MAINTENANCE if name != live.database]
    connection = _first(c, places)
    try:
        with explained(c, connection.info.dbname):
            connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
            yield connection
    finally:
        connection.close()


@contextmanager
def console(c: Component) -> Iterator[Connection[Any]]:
    """Yield a connection to PgBouncer's console, which knows its own commands only.

    Raises:
        RollbackError: it cannot be reached, or refuses.
    """
    place = _place(c, options_of(c).pgbouncer or "", "pgbouncer")
    connection = _connect(c, place, place.database, of_server=False)
    try:
        with explained(c, place.database):
            yield connection
    finally:
        connection.close()


def _first(c: Component, places: list[Place]) -> Connection[Any]:
    """Connect to the first of some places that lets us in; the error is that of the last."""
    for place in places[:-1]:
        with suppress(RollbackError):
            return _connect(c, place, place.database)
    return _connect(c, places[-1], places[-1].database)


def row_of(connection: Connection[Any], words: str, *values: Any) -> tuple[Any, ...]:
    """Return the row of a query that always has one."""
    row: tuple[Any, ...] | None = connection.execute(words, values).fetchone()
    if row is None:
        raise LookupError(words)
    return row


def _connect(c: Component, place: Place, database: str, *, of_server: bool = True) -> Connection[Any]:
    psycopg = _psycopg(c)
    words = {"connect_timeout": CONNECT_SECONDS, "application_name": "rfs", **place.words, "dbname": database}
    try:
        # Their notices are for whoever looks at a terminal; a rule of the role's for time-outs is not for us.
        connection: Connection[Any] = psycopg.connect(**words, autocommit=True, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise RollbackError(
            "postgresql.unreachable", component=c.name, where=place.shown, why=_reason(error)
        ) from error
    version = connection.info.server_version // 10000
    if of_server and version < OLDEST_SERVER:
        connection.close()
        raise UsageError("postgresql.old_server", component=c.name, version=version, oldest=OLDEST_SERVER)
    return connection


def _reason(error: BaseException) -> str:
    """Return why a connection failed: libpq tells it once for each address that it tried, the server's word last."""
    line = first_line(error)
    return line.rpartition("failed: ")[2] or line


def limit(connection: Connection[Any], pulse: Pulse) -> None:
    """Let the server give up on each statement when this step's time is over."""
    pulse.tick()
    milliseconds = max(1, int(min(pulse.remaining(), 2_000_000) * 1000))
    connection.execute(f"SET statement_timeout = {milliseconds}")
