"""PgBouncer in front of a database: its clients wait while the names change, instead of being sent away."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rfs.production.rollback.driver import Finding, Pulse
from rfs.production.rollback.drivers.postgresql.connect import console, options_of, place_of
from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import ConflictError, RollbackError
from rfs.production.rollback.model import Component

if TYPE_CHECKING:
    from psycopg import Connection

_POLL_SECONDS = 0.05


@contextmanager
def paused(c: Component, pulse: Pulse) -> Iterator[None]:
    """Hold the clients of the pools that lead to the live database; nothing happens where no console is configured.

    Raises:
        ConflictError: a client does not let go of its connection within `wait`; the pools go on.
    """
    if options_of(c).pgbouncer is None:
        yield
        return
    try:
        for pool in _pools(c):
            _pause(c, pool, pulse)
        yield
    finally:
        resume(c)


def resume(c: Component) -> None:
    """Let the clients go on, also those that a run which was killed has left waiting."""
    if options_of(c).pgbouncer is None:
        return
    for pool in _pools(c):
        with suppress(RollbackError), console(c) as connection:  # one that is not paused says so
            connection.execute(_words("RESUME", pool))


def examine(c: Component) -> Iterator[Finding]:
    """Yield what is wrong with the console, if one is configured."""
    if options_of(c).pgbouncer is None:
        return
    try:
        pools = _pools(c)
    except RollbackError as error:
        yield Finding("error", str(error), error.hint)
        return
    if not pools:
        text = f"PgBouncer has no pool that leads to {place_of(c).database}."
        yield Finding("warning", text, "Correct pgbouncer in rfs.toml, or leave it out.")


def _pools(c: Component) -> list[str]:
    with console(c) as connection:
        cursor = connection.execute("SHOW DATABASES")
        columns = [column.name for column in cursor.description or ()]
        rows = [dict(zip(columns, row, strict=True)) for row in cursor]
    return [str(row["name"]) for row in rows if row["database"] == place_of(c).database]


def _pause(c: Component, pool: str, pulse: Pulse) -> None:
    """PAUSE returns when every client is between two transactions, and so has to be waited for with a limit."""
    options = options_of(c)
    with console(c) as connection:
        connection.pgconn.send_query(_words("PAUSE", pool))
        deadline = time.monotonic() + min(parse_duration(options.wait), max(0.0, pulse.remaining()))
        while not _answered(connection):
            pulse.tick()
            if time.monotonic() >= deadline:
                if options.on_open_transactions == "terminate":
                    return  # it is paused as soon as those are ended
                raise ConflictError("postgresql.not_paused", component=c.name, pool=pool, wait=options.wait)
        result = connection.pgconn.get_result()
        if result is not None and result.error_message:
            why = result.error_message.decode(errors="replace").strip()
            raise RollbackError("postgresql.failed", component=c.name, database=pool, why=why)


def _answered(connection: Connection[Any]) -> bool:
    select.select([connection.fileno()], [], [], _POLL_SECONDS)
    connection.pgconn.consume_input()
    return not connection.pgconn.is_busy()


def _words(command: str, pool: str) -> bytes:
    quoted = pool.replace('"', '""')
    return f'{command} "{quoted}"'.encode()
