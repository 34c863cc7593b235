"""Room for a second copy of a database, looked for before it is made.

A server whose disk runs full stops for everybody. Where its data lies is seen only on the same machine,
by whoever may read the file beside its socket; elsewhere nothing can be told.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rfs.production.rollback.drivers.postgresql.connect import row_of
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

if TYPE_CHECKING:
    from psycopg import Connection

# The log of what is written takes as much again until the next checkpoint of the server.
_COPIES = 2
_LEAST_BYTES = 64 << 20


def require(connection: Connection[Any], c: Component, live: str, captured: int) -> None:
    """Refuse when the server's disk has no room for a copy as large as the live database.

    Args:
        captured: bytes of the rows that are wanted.

    Raises:
        RollbackError: there is too little; nothing was made.
    """
    folder = _data_folder(connection, live)
    if folder is None:
        return
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    words = "SELECT coalesce(max(pg_database_size(oid)), 0)::bigint FROM pg_database WHERE datname = %s"
    needed = _COPIES * max(row_of(connection, words, live)[0], captured) + _LEAST_BYTES
    if free < needed:
        sizes = {"free": f"{free / 1e6:,.0f}", "needed": f"{needed / 1e6:,.0f}"}
        raise RollbackError("postgresql.no_room", component=c.name, database=live, folder=folder, **sizes)


def _data_folder(connection: Connection[Any], live: str) -> str | None:
    """Return where the server keeps a database's data, if it is on this machine and that can be known."""
    host = connection.info.host
    if not host.startswith("/"):
        return None
    with suppress(OSError, IndexError), open(f"{host}/.s.PGSQL.{connection.info.port}.lock", encoding="utf-8") as lock:
        folder = lock.read().splitlines()[1]
        words = "SELECT coalesce(max(pg_tablespace_location(dattablespace)), '') FROM pg_database WHERE datname = %s"
        (tablespace,) = row_of(connection, words, live)
        folder = os.path.join(folder, tablespace).rstrip("/")
        os.statvfs(folder)
        return folder
    return None
