"""Rows of databases as a tracked change can be taken back in: of a SQLite file, or of a PostgreSQL component."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import apsw

from rfs.production.rollback.drivers.writing import same
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.merging import Clash, Resolution
from rfs.production.rollback.model import Component
from rfs.production.rollback.restorers import Intent, refused, require_merged
from rfs.production.rollback.tracked import TrackedChange
from rfs.production.rollback.transaction import transaction

if TYPE_CHECKING:
    from psycopg import Connection

WAIT_MILLISECONDS = 10_000


class Rows(Protocol):
    """A connection, and how its database says things. Its errors are expected ones.

    Attributes:
        mark: stands for a value in a statement.
    """

    mark: str

    def run(self, statement: str, values: Iterable[Any] = ()) -> list[Any]:
        """Run a statement and return its rows."""

    def first(self, query: str, values: Iterable[Any]) -> dict[str, Any] | None:
        """Return the first row of a query by column, or None."""

    def transaction(self) -> AbstractContextManager[Any]:
        """Make what is done in it one transaction."""

    def lock(self, table: str, where: str, values: Iterable[Any]) -> None:
        """Let nobody else change these rows until the transaction ends."""

    def primary_key(self, table: str) -> list[str]:
        """Return the columns of a table's primary key."""

    def table(self, name: str) -> str:
        """Return the name of a table as it stands in a statement."""

    def quoted(self, column: str) -> str:
        """Return the name of a column as it stands in a statement."""

    def failed(self, why: str) -> RollbackError:
        """Return the error that says that a row cannot be used."""


class RowRestorer:
    """Rows of a database: their columns by name, or None where there is no row.

    Args:
        open_: connects to the database that a key means.
        usual: whether there is one that is meant where a key names none; `named`: whether a key may name one.
    """

    def __init__(
        self,
        name: str,
        open_: Callable[[Any], AbstractContextManager[Rows]],
        *,
        usual: bool = True,
        named: bool = False,
    ) -> None:
        self.name = name
        self._open = open_
        self._usual = usual
        self._named = named

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        hint = 'Give key={"table": NAME, "pk": {COLUMN: VALUE}}'
        hint += '; "path" names another SQLite file.' if self._named else "."
        words = {"table", "pk", "path"} if self._named else {"table", "pk"}
        known = isinstance(key, dict) and {"table", "pk"} <= key.keys() <= words
        if not known or not isinstance(key["table"], str) or key["pk"] in (None, {}):
            raise refused(self.name, "its key names no row", hint)
        if not self._usual and not isinstance(key.get("path"), str):
            raise refused(self.name, "it is not known which database is meant", hint)
        rows = [value for value in (old, new) if value is not None]
        if not rows or not all(isinstance(row, dict) and row and not any(map(_nested, row.values())) for row in rows):
            why = "a row is a dictionary of columns with plain values"
            raise refused(self.name, why, "Give dictionaries; None stands for no row, on one side at most.")

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        with self._open(change.key) as db:
            self._require(_Row(db, change.key), change, how)

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer. Looking and writing are one transaction; columns that the change left alone stay."""
        key, old = change.key, change.old
        with self._open(key) as db, db.transaction():
            row = _Row(db, key)
            db.lock(row.table, row.where, row.values)
            if not self._require(row, change, how):
                return
            if old is None:
                db.run(f"DELETE FROM {row.table} WHERE {row.where}", row.values)
            elif row.is_there({}):
                changed = old if how is Resolution.WHOLE else _changed(old, change.new or {})
                if changed:
                    sets = ", ".join(f"{db.quoted(column)} = {db.mark}" for column in changed)
                    db.run(f"UPDATE {row.table} SET {sets} WHERE {row.where}", (*changed.values(), *row.values))
            else:
                whole = {**row.pk, **old}
                columns, marks = ", ".join(map(db.quoted, whole)), ", ".join([db.mark] * len(whole))
                db.run(f"INSERT INTO {row.table} ({columns}) VALUES ({marks})", tuple(whole.values()))

    def _require(self, row: _Row, change: TrackedChange, how: Resolution) -> bool:
        """Tell whether the row is to be written: not, when it was changed since and stays."""
        old, new = change.old, change.new
        sides = ((new, old), (old, new))
        if how is Resolution.WHOLE or any(row.stands(value, other) for value, other in sides):
            return True
        what = f"The row {row.shown} of {row.table}"
        require_merged(what, [Clash(what, new, old, row.read())], how)
        return how is Resolution.THEIRS


class _Row:
    """Where a row is: `where` with `values` finds it."""

    def __init__(self, db: Rows, key: Any) -> None:
        self._db = db
        self.table = db.table(key["table"])
        pk = key["pk"]
        if not isinstance(pk, Mapping):
            found = db.primary_key(key["table"])
            if len(found) != 1:
                why = f"{self.table} has not one primary key column"
                raise db.failed(why)
            pk = {found[0]: pk}
        self.pk: dict[str, Any] = dict(pk)
        self.where, self.values = self._conditions(self.pk)
        self.shown = ", ".join(f"{column} = {value!r:.40}" for column, value in self.pk.items())
        count = db.run(f"SELECT count(*) FROM {self.table} WHERE {self.where}", self.values)[0][0]
        if count > 1:  # what is taken back of one row must not be written over others
            why = f"the key names {count} rows of {self.table}"
            raise db.failed(why)

    def stands(self, value: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
        """Tell whether the row is as on one side of a change, in the columns in which the other side differs."""
        if value is None:
            return not self.is_there({})
        return self.is_there(value if other is None else _changed(value, other))

    def _conditions(self, columns: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
        db = self._db
        words = [f"{db.quoted(n)} IS NULL" if v is None else f"{db.quoted(n)} = {db.mark}" for n, v in columns.items()]
        return " AND ".join(words), tuple(value for value in columns.values() if value is not None)

    def read(self) -> dict[str, Any] | None:
        """Return the row, or None when it is not there."""
        return self._db.first(f"SELECT * FROM {self.table} WHERE {self.where}", self.values)

    def is_there(self, columns: Mapping[str, Any]) -> bool:
        """Tell whether the row is there, with these values; the database compares them, as it has stored them."""
        more, values = self._conditions({**self.pk, **columns})
        both = f"{self.where} AND {more}"
        found = self._db.run(f"SELECT count(*) FROM {self.table} WHERE {both}", (*self.values, *values))
        return bool(found[0][0])


def _changed(value: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that another state of it has not, or not so."""
    return {name: each for name, each in value.items() if name not in other or not same(each, other[name])}


@contextmanager
def sqlite_file(path: str) -> Iterator[Rows]:
    """Connect to a SQLite file that is there.

    Raises:
        RollbackError: sqlite.rows; errors of statements inside are told likewise.
    """
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error as error:
        raise RollbackError("sqlite.rows", path=path, why=str(error)) from error
    try:
        connection.set_busy_timeout(WAIT_MILLISECONDS)
        connection.pragma("foreign_keys", True)
        yield _SqliteRows(connection, path)
    except apsw.Error as error:
        raise RollbackError("sqlite.rows", path=path, why=str(error)) from error
    finally:
        connection.close()


class _SqliteRows:
    mark = "?"

    def __init__(self, connection: apsw.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    def run(self, statement: str, values: Iterable[Any] = ()) -> list[Any]:
        return self._connection.execute(statement, tuple(values)).fetchall()

    def first(self, query: str, values: Iterable[Any]) -> dict[str, Any] | None:
        cursor = self._connection.execute(query, tuple(values))
        found = cursor.fetchone()
        return None if found is None else dict(zip((name for name, *_ in cursor.description), found, strict=True))

    def transaction(self) -> AbstractContextManager[Any]:
        return transaction(self._connection)

    def lock(self, table: str, where: str, values: Iterable[Any]) -> None:
        pass  # a transaction that is to write has the whole file

    def primary_key(self, table: str) -> list[str]:
        return [name for (name,) in self.run("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", [table])]

    def table(self, name: str) -> str:
        return self.quoted(name)

    def quoted(self, column: str) -> str:
        return _quoted(column)

    def failed(self, why: str) -> RollbackError:
        return RollbackError("sqlite.rows", path=self._path, why=why)


@contextmanager
def postgresql_database(c: Component) -> Iterator[Rows]:
    """Connect to the database of a postgresql component.

    Raises:
        RollbackError: it cannot be reached, or refuses a statement inside.
    """
    from rfs.production.rollback.drivers.postgresql.connect import connected  # with psycopg, which takes a while

    with connected(c) as connection:
        connection.execute(f"SET lock_timeout = {WAIT_MILLISECONDS}".encode())
        yield _PostgresqlRows(connection, c)


class _PostgresqlRows:
    mark = "%s"

    def __init__(self, connection: Connection[Any], c: Component) -> None:
        self._connection = connection
        self._c = c

    def run(self, statement: str, values: Iterable[Any] = ()) -> list[Any]:
        cursor = self._connection.execute(statement.encode(), tuple(values))
        return cursor.fetchall() if cursor.description is not None else []

    def first(self, query: str, values: Iterable[Any]) -> dict[str, Any] | None:
        cursor = self._connection.execute(query.encode(), tuple(values))
        found = cursor.fetchone()
        columns = [each.name for each in cursor.description or ()]
        return None if found is None else dict(zip(columns, found, strict=True))

    def transaction(self) -> AbstractContextManager[Any]:
        return self._connection.transaction()

    def lock(self, table: str, where: str, values: Iterable[Any]) -> None:
        self.run(f"SELECT 1 FROM {table} WHERE {where} FOR UPDATE", values)

    def primary_key(self, table: str) -> list[str]:
        query = "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)"
        # As a value, not as a part of the statement: its signs are not doubled.
        meant = ".".join(map(_quoted, table.split(".", 1)))
        return [name for (name,) in self.run(f"{query} WHERE indisprimary AND indrelid = %s::regclass", [meant])]

    def table(self, name: str) -> str:
        return ".".join(map(self.quoted, name.split(".", 1)))

    def quoted(self, column: str) -> str:
        return _quoted(column).replace("%", "%%")

    def failed(self, why: str) -> RollbackError:
        return RollbackError("postgresql.rows", component=self._c.name, why=why)


def sqlite_rows(name: str, path: str | None, home: str) -> RowRestorer:
    """Return what takes back rows of SQLite files.

    Args:
        path: of the one that is meant where a key names none; None where there is none.
        home: relative paths are relative to it.
    """

    def open_(key: Any) -> AbstractContextManager[Rows]:
        return sqlite_file(os.path.join(home, key.get("path") or path or ""))

    return RowRestorer(name, open_, usual=path is not None, named=True)


def postgresql_rows(c: Component) -> RowRestorer:
    """Return what takes back rows of a postgresql component; "SCHEMA.TABLE" names a table of another schema."""
    return RowRestorer(c.name, lambda key: postgresql_database(c))


def _nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
