"""A database as migrations see it: rows, scripts, transactions; on PostgreSQL and SQLite alike."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import ConflictError, LockedError, RollbackError
from rfs.production.rollback.model import Component
from rfs.production.rollback.transaction import transaction

if TYPE_CHECKING:
    import apsw
    from psycopg import Connection

_LOCK_SECONDS = 10


class ScriptError(Exception):
    """A statement was refused by the database; the text is the database's."""


class Session(ABC):
    """One connection.

    Attributes:
        mark: what stands for a value in a query.
        apart: words that begin a statement which can run in no transaction.
    """

    mark: str
    apart: frozenset[str]

    @abstractmethod
    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what a query finds."""

    @abstractmethod
    def run(self, script: str) -> None:
        """Run statements.

        Raises:
            ScriptError: one was refused.
        """

    @abstractmethod
    def transaction(self) -> AbstractContextManager[object]:
        """Commit what the block does, or none of it."""

    @abstractmethod
    def columns(self, table: str) -> frozenset[str]:
        """Return the columns of a table; none when there is no such table."""

    @abstractmethod
    def objects(self) -> list[str]:
        """Return the names of tables and views, and of their columns as table.column."""

    def check(self) -> object:
        """Return what is broken across tables, to be compared before and after."""
        return None


@contextmanager
def opened(c: Component) -> Iterator[Session]:
    """Yield a connection to a component's live database.

    Raises:
        RollbackError: it cannot be reached.
    """
    if c.kind == "postgresql":
        from rfs.production.rollback.drivers.postgresql.connect import connected

        with connected(c) as connection:
            connection.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
            yield _Postgresql(connection)
        return
    from rfs.production.rollback.drivers.sqlite.driver import SqliteOptions

    options = msgspec.convert(dict(c.options), SqliteOptions)
    path = os.path.abspath(os.path.join(c.home, options.path))
    seconds = parse_duration(options.busy_timeout)
    if not os.path.isfile(path) or os.path.islink(path):
        raise RollbackError("path.missing", component=c.name, path=path)
    import apsw

    with closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        db.set_busy_timeout(int(seconds * 1000))
        try:
            yield _Sqlite(db)
        except (apsw.BusyError, apsw.LockedError) as error:
            raise LockedError("sqlite.locked", path=path, seconds=f"{seconds:g}", who="") from error
        except apsw.NotADBError as error:
            raise RollbackError("sqlite.not_a_database", path=path) from error


class _Postgresql(Session):
    mark = "%s"
    apart = frozenset({"VACUUM", "CONCURRENTLY", "CREATE DATABASE", "DROP DATABASE", "ALTER SYSTEM"})

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(query.encode(), values or None).fetchall()

    def run(self, script: str) -> None:
        import psycopg

        from rfs.production.rollback.drivers.postgresql.connect import first_line

        try:
            self._connection.execute(script.encode())
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            raise LockedError("database.locked", why=first_line(error)) from error
        except psycopg.OperationalError:
            raise  # the server went, and no script is to blame
        except psycopg.Error as error:
            raise ScriptError(first_line(error)) from error

    def transaction(self) -> AbstractContextManager[object]:
        return self._connection.transaction()

    def columns(self, table: str) -> frozenset[str]:
        found = self.rows(
            "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass(%s)"
            " AND attnum > 0 AND NOT attisdropped",
            table,
        )
        return frozenset(name for (name,) in found)

    def objects(self) -> list[str]:
        found = self.rows(
            "SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname, a.attname"
            " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_'"
            " AND n.nspname <> 'information_schema' AND c.relpersistence <> 't'"
        )
        return _named(found)


class _Sqlite(Session):
    mark = "?"
    apart = frozenset({"VACUUM", "ATTACH", "DETACH"})

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return list(self._db.execute(query, values))

    def run(self, script: str) -> None:
        import apsw

        try:
            for _ in self._db.execute(script):
                pass  # a query's rows are nobody's
        except (apsw.BusyError, apsw.LockedError):
            raise
        except apsw.Error as error:
            raise ScriptError(str(error).removeprefix("SQLError: ").rstrip(".")) from error

    def transaction(self) -> AbstractContextManager[object]:
        return transaction(self._db)

    def columns(self, table: str) -> frozenset[str]:
        return frozenset(name for (name,) in self.rows("SELECT name FROM pragma_table_info(?)", table))

    def objects(self) -> list[str]:
        return _named(
            self.rows(
                "SELECT m.name, p.name FROM sqlite_schema m JOIN pragma_table_info(m.name) p"
                " WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            )
        )

    def check(self) -> object:
        """See Session: rows whose foreign key leads nowhere. SQLite does not look while a table is made anew."""
        return sorted(self.rows('SELECT "table", count(*) FROM pragma_foreign_key_check GROUP BY 1'))


def _named(found: list[tuple[Any, ...]]) -> list[str]:
    return sorted({name for table, column in found for name in (table, f"{table}.{column}")})


def require_same(before: object, after: object, what: str) -> None:
    """Make sure that a script broke nothing across tables.

    Raises:
        ConflictError: it did.
    """
    if after != before:
        raise ConflictError("migrate.broken_keys", what=what)
