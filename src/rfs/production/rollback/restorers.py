"""What a tracked change can be taken back in: a configuration, a file, a row of a SQLite database, a function.

Each looks before it writes: what is there must be what the change left there, or already be what was there before
it (a crash came between the effect and its record), unless it is forced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

import apsw
import msgspec

from rfs.production.rollback.drivers.writing import UnwritableError, as_said, same, write
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.model import Component
from rfs.production.rollback.transaction import transaction
from rfs.production.rollback.versions import FilePlace
from rfs.production.rollback.wiring import inside

BUSY_MILLISECONDS = 10_000


class TrackedChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change. `key`, `old` and `new` are JSON-like, or hold bytes."""

    change_id: str
    component: str
    change_type: str
    key: Any
    old: Any
    new: Any
    at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return what the log tells of it."""
        return {
            "change_id": self.change_id,
            "component": self.component,
            "change_type": self.change_type,
            "key": self.key,
            "old_value": self.old,
            "new_value": self.new,
            "timestamp": self.at,
        }


class DifferentError(Exception):
    """What is there is neither what the change left nor what was there before it; the text says where."""


class Restorer(Protocol):
    """Takes changes of one component back."""

    def check(self, change: TrackedChange) -> None:
        """Refuse what could not be taken back.

        Raises:
            UsageError: change.value.
        """

    def look(self, change: TrackedChange) -> None:
        """Make sure that `change.new` is there, or `change.old` already.

        Raises:
            DifferentError: neither is.
            RollbackError: it cannot be read.
        """

    def restore(self, change: TrackedChange, *, force: bool) -> None:
        """Bring `change.old` back; harmless when repeated. Raises as `look` does; with `force` no DifferentError."""


class ConfigRestorer:
    """A configuration file: one dotted key, or all of it. None stands for a key that is not there."""

    def __init__(self, name: str, place: FilePlace) -> None:
        self._name = name
        self._place = place

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        if key is not None and not (isinstance(key, str) and all(key.split("."))):
            raise _refused(self._name, "its key is no dotted name", 'Give a key such as "server.port", or none.')
        if key is None and not (isinstance(old, dict) and isinstance(new, dict)):
            raise _refused(self._name, "without a key its values are whole configurations", "Give two dictionaries.")
        if _holds_bytes(old) or _holds_bytes(new):
            raise _refused(self._name, "a configuration has no bytes", "Give JSON-like values.")

    def look(self, change: TrackedChange) -> None:
        """See Restorer."""
        self._values(change)

    def _values(self, change: TrackedChange) -> dict[str, Any]:
        key, old, new = change.key, change.old, change.new
        values = self._place.values()
        there = values if key is None else _at(values, key.split("."))
        try:
            wanted = [as_said(each, self._place.format) for each in (new, old)]
        except UnwritableError as error:
            raise UsageError("config.unsaid", path=self._place.path, why=error) from None
        if not any(same(there, each) for each in wanted):
            raise DifferentError(key or self._place.path)
        return values

    def restore(self, change: TrackedChange, *, force: bool) -> None:
        """See Restorer. A reload that fails puts the file back."""
        key, old = change.key, change.old
        values = self._place.values() if force else self._values(change)
        wanted = old if key is None else _with(values, key.split("."), old)
        before = self._place.get()[1]
        try:
            content = write(before or b"", wanted, self._place.format)
        except UnwritableError as error:
            raise UsageError("config.unsaid", path=self._place.path, why=error) from None
        self._place.check(content)
        try:
            self._place.put(content)
            self._place.reload()
        except RollbackError:
            self._place.put(before)
            raise


class FileRestorer:
    """Files, by path: their content, or None where there is none. Mode and owner stay.

    Args:
        home: relative paths are relative to it.
        kept: folder of the store, in which nothing may be written.
    """

    def __init__(self, name: str, home: str, kept: str) -> None:
        self._name = name
        self._home = home
        self._kept = kept

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        if not isinstance(key, str) or not key or "\0" in key:
            raise _refused(self._name, "its key is no path", "Give the file's path as key.")
        if inside(os.path.realpath(self._path(key)), os.path.realpath(self._kept)):
            raise _refused(self._name, "it lies in the store of rfs", "Track files of the application only.")
        for value in (old, new):
            if value is not None and not isinstance(value, str | bytes):
                raise _refused(self._name, "a file holds bytes or text", "Give bytes, str, or None for no file.")

    def look(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        there = self._place(key).content()
        if there not in (_bytes(new), _bytes(old)):
            raise DifferentError(self._path(key))

    def restore(self, change: TrackedChange, *, force: bool) -> None:
        """See Restorer."""
        key, old = change.key, change.old
        if not force:
            self.look(change)
        self._place(key).put(_bytes(old))

    def _path(self, key: str) -> str:
        return os.path.abspath(os.path.join(self._home, key))

    def _place(self, key: str) -> FilePlace:
        c = Component(name=self._name, kind="files", options={"path": key}, home=self._home, work=self._kept)
        return FilePlace(c, None)


class SqliteRestorer:
    """Rows of a SQLite database: their columns by name, or None where there is no row.

    Args:
        path: of the database, where the key does not name one; None where there is no usual one.
        home: relative paths are relative to it.
    """

    def __init__(self, name: str, path: str | None, home: str) -> None:
        self._name = name
        self._path = path
        self._home = home

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        hint = 'Give key={"table": NAME, "pk": {COLUMN: VALUE}}; "path" names another SQLite file.'
        known = isinstance(key, dict) and {"table", "pk"} <= key.keys() <= {"table", "pk", "path"}
        if not known or not isinstance(key["table"], str) or key["pk"] in (None, {}):
            raise _refused(self._name, "its key names no row", hint)
        if self._path is None and not isinstance(key.get("path"), str):
            raise _refused(self._name, "it is not known which database is meant", hint)
        rows = [value for value in (old, new) if value is not None]
        if not rows or not all(isinstance(row, dict) and row and not any(map(_nested, row.values())) for row in rows):
            why = "a row is a dictionary of columns with plain values"
            raise _refused(self._name, why, "Give dictionaries; None stands for no row, on one side at most.")

    def look(self, change: TrackedChange) -> None:
        """See Restorer."""
        key = change.key
        with _Database(self._file(key)) as db:
            self._require(db, _Row(db, change.key), change)

    def restore(self, change: TrackedChange, *, force: bool) -> None:
        """See Restorer. Looking and writing are one transaction."""
        key, old = change.key, change.old
        with _Database(self._file(key)) as db, transaction(db.connection):
            row = _Row(db, key)
            if not force:
                self._require(db, row, change)
            if old is None:
                db.run(f"DELETE FROM {row.table} WHERE {row.where}", row.values)
            elif row.is_there({}):
                sets = ", ".join(f"{_quoted(column)} = ?" for column in old)
                db.run(f"UPDATE {row.table} SET {sets} WHERE {row.where}", (*old.values(), *row.values))
            else:
                whole = {**row.pk, **old}
                columns, marks = ", ".join(map(_quoted, whole)), ", ".join("?" * len(whole))
                db.run(f"INSERT INTO {row.table} ({columns}) VALUES ({marks})", tuple(whole.values()))

    def _require(self, db: _Database, row: _Row, change: TrackedChange) -> None:
        old, new = change.old, change.new
        for value in (new, old):
            if row.is_there(value) if value is not None else not row.is_there({}):
                return
        what = f"The row {row.shown} of {row.table}"
        raise DifferentError(what)

    def _file(self, key: Any) -> str:
        return os.path.join(self._home, key.get("path") or self._path or "")


class _Database:
    """A connection whose errors are expected ones."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> _Database:
        try:
            self.connection = apsw.Connection(self.path, flags=apsw.SQLITE_OPEN_READWRITE)
        except apsw.Error as error:
            raise self._error(error) from error
        self.connection.set_busy_timeout(BUSY_MILLISECONDS)
        self.connection.pragma("foreign_keys", True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.connection.close()
        if isinstance(error, apsw.Error):
            raise self._error(error) from error

    def run(self, statement: str, values: Iterable[Any] = ()) -> list[Any]:
        return self.connection.execute(statement, tuple(values)).fetchall()

    def _error(self, error: apsw.Error) -> RollbackError:
        return RollbackError("sqlite.rows", path=self.path, why=str(error))


class _Row:
    """Where a row is: `where` with `values` finds it."""

    def __init__(self, db: _Database, key: Any) -> None:
        self._db = db
        self.table = _quoted(key["table"])
        pk = key["pk"]
        if not isinstance(pk, Mapping):
            found = db.run("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (key["table"],))
            if len(found) != 1:
                raise RollbackError("sqlite.rows", path=db.path, why=f"{self.table} has not one primary key column")
            pk = {found[0][0]: pk}
        self.pk: dict[str, Any] = dict(pk)
        self.where = " AND ".join(f"{_quoted(column)} IS ?" for column in self.pk)
        self.values = tuple(self.pk.values())
        self.shown = ", ".join(f"{column} = {value!r:.40}" for column, value in self.pk.items())
        count = db.run(f"SELECT count(*) FROM {self.table} WHERE {self.where}", self.values)[0][0]
        if count > 1:  # what is taken back of one row must not be written over others
            raise RollbackError("sqlite.rows", path=db.path, why=f"the key names {count} rows of {self.table}")

    def is_there(self, columns: Mapping[str, Any]) -> bool:
        """Tell whether the row is there, with these values; SQLite compares them, as it has stored them."""
        more = "".join(f" AND {_quoted(column)} IS ?" for column in columns)
        found = self._db.run(
            f"SELECT count(*) FROM {self.table} WHERE {self.where}{more}", (*self.values, *columns.values())
        )
        return bool(found[0][0])


class FunctionRestorer:
    """A function of the application.

    Args:
        restore: called with the change as a dictionary.
        get: called with the key; returns what is there now. Without it nothing can be compared.
    """

    def __init__(self, name: str, restore: Callable[[TrackedChange], None], get: Callable[[Any], Any] | None) -> None:
        self._name = name
        self._restore = restore
        self._get = get

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""

    def look(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        if self._get is not None:
            there = self._get(key)
            if not same(there, new) and not same(there, old):
                what = f"The value of {self._name}"
                raise DifferentError(what)

    def restore(self, change: TrackedChange, *, force: bool) -> None:
        """See Restorer."""
        if not force:
            self.look(change)
        self._restore(change)


def _refused(name: str, why: str, hint: str) -> UsageError:
    return UsageError("change.value", component=name, why=why, hint=hint)


def _at(values: Any, path: list[str]) -> Any:
    for word in path:
        values = values.get(word) if isinstance(values, dict) else None
    return values


def _with(values: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return `values` with another value at a path; None takes it out."""
    word, *rest = path
    inner = values.get(word)
    if rest:
        value = _with(inner if isinstance(inner, dict) else {}, rest, value)
    return {**values, word: value} if value is not None else {k: v for k, v in values.items() if k != word}


def _bytes(value: Any) -> bytes | None:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_bytes, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bytes)


def _nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
