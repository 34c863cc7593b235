"""What a tracked change can be taken back in: a configuration, a file, a row of a SQLite database, a function.

Each looks before it writes: what is there must be what the change left there, or already be what was there before
it (a crash came between the effect and its record). Other keys, lines and columns may have changed since, and stay.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import apsw

from rfs.production.rollback.drivers.writing import UnwritableError, as_said, same, write
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.merging import MISSING, Clash, Resolution, merge_content, merge_values
from rfs.production.rollback.model import Component
from rfs.production.rollback.tracked import TrackedChange
from rfs.production.rollback.transaction import transaction
from rfs.production.rollback.versions import FilePlace
from rfs.production.rollback.wiring import inside

BUSY_MILLISECONDS = 10_000


class DifferentError(Exception):
    """What is there is neither what the change left nor what was there before it; the text says where.

    Attributes:
        clashes: the places, each with what the change left, what was there before it, and what is there now.
    """

    def __init__(self, what: str, clashes: Sequence[Clash] = ()) -> None:
        super().__init__(what)
        self.clashes = tuple(clashes)


class Restorer(Protocol):
    """Takes changes of one component back.

    Attributes:
        name: of the component, as rfs.toml has it where it is one of those.
    """

    name: str

    def check(self, change: TrackedChange) -> None:
        """Refuse what could not be taken back.

        Raises:
            UsageError: change.value.
        """

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """Make sure that it can be taken back: nothing that it changed was changed since, or `how` says what then.

        Raises:
            DifferentError: something was.
            RollbackError: it cannot be read.
        """

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """Bring `change.old` back, and keep what else was changed since; harmless when repeated. Raises as `look`."""


class Intent(Protocol):
    """What is about to be written, for whoever dies between an effect and its record."""

    def is_done(self, content: bytes) -> bool:
        """Tell whether this is what a run that died was about to write."""

    def write_down(self, content: bytes) -> None:
        """Write down, durably, that this is about to be written."""


def require_merged(what: str, clashes: Sequence[Clash], how: Resolution) -> None:
    """Refuse to go on with conflicts that nobody decided about.

    Raises:
        DifferentError: there are some.
    """
    if clashes and how is Resolution.REFUSE:
        raise DifferentError(what, clashes)


class ConfigRestorer:
    """A configuration file: one dotted key, or all of it. None stands for a key that is not there."""

    def __init__(self, place: FilePlace) -> None:
        self.name = place.component
        self._place = place

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        if key is not None and not (isinstance(key, str) and all(key.split("."))):
            raise _refused(self.name, "its key is no dotted name", 'Give a key such as "server.port", or none.')
        if key is None and not (isinstance(old, dict) and isinstance(new, dict)):
            raise _refused(self.name, "without a key its values are whole configurations", "Give two dictionaries.")
        if _holds_bytes(old) or _holds_bytes(new):
            raise _refused(self.name, "a configuration has no bytes", "Give JSON-like values.")

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        self._merged(change, how)

    def _merged(self, change: TrackedChange, how: Resolution) -> dict[str, Any]:
        values = self._place.values()
        path = [] if change.key is None else change.key.split(".")
        there = _at(values, path)
        try:
            base, want = (as_said(each, self._place.format) for each in (change.new, change.old))
        except UnwritableError as error:
            raise UsageError("config.unsaid", path=self._place.path, why=error) from None
        base, want, there = (MISSING if each is None else each for each in (base, want, there))
        merged, clashes = merge_values(base, want, there, how, change.key or "")
        require_merged(change.key or self._place.path, clashes, how)
        merged = None if merged is MISSING else merged
        return (merged or {}) if not path else _with(values, path, merged)

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer. A reload that fails puts the file back."""
        wanted = self._merged(change, how)
        before = self._place.get()[1]
        try:
            content = write(before or b"", wanted, self._place.format)
        except UnwritableError as error:
            raise UsageError("config.unsaid", path=self._place.path, why=error) from None
        put_and_reload(self._place, before, content)


def put_and_reload(place: FilePlace, before: bytes | None, content: bytes | None) -> None:
    """Put a content into force, and when the reload fails, what was there before.

    Raises:
        RollbackError: it was refused, or the reload failed; the file is as it was.
    """
    if content is not None:
        place.check(content)
    try:
        place.put(content)
        place.reload()
    except RollbackError:
        place.put(before)
        raise


class FileRestorer:
    """Files, by path: their content, or None where there is none. Mode and owner stay.

    Args:
        home: relative paths are relative to it.
        kept: folder of the store, in which nothing may be written.
    """

    def __init__(self, name: str, home: str, kept: str) -> None:
        self.name = name
        self._home = home
        self._kept = kept

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        if not isinstance(key, str) or not key or "\0" in key:
            raise _refused(self.name, "its key is no path", "Give the file's path as key.")
        if inside(os.path.realpath(self._path(key)), os.path.realpath(self._kept)):
            raise _refused(self.name, "it lies in the store of rfs", "Track files of the application only.")
        for value in (old, new):
            if value is not None and not isinstance(value, str | bytes):
                raise _refused(self.name, "a file holds bytes or text", "Give bytes, str, or None for no file.")

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        there = self._place(change.key).content()
        if there is None or not intent.is_done(there):
            self._merged(change, how)

    def _merged(self, change: TrackedChange, how: Resolution) -> bytes | None:
        there = self._place(change.key).content()
        merged, clashes = merge_content(_bytes(change.new), _bytes(change.old), there, how)
        require_merged(self._path(change.key), clashes, how)
        return merged

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer. Lines of a text that others changed since stay."""
        place = self._place(change.key)
        there = place.content()
        if there is not None and intent.is_done(there):
            return
        merged = self._merged(change, how)
        if merged is not None and merged not in (_bytes(change.old), there):
            # Of a text in which the same lines stand again and again, it cannot be seen that it was merged already.
            intent.write_down(merged)
        place.put(merged)

    def _path(self, key: str) -> str:
        return os.path.abspath(os.path.join(self._home, key))

    def _place(self, key: str) -> FilePlace:
        c = Component(name=self.name, kind="files", options={"path": key}, home=self._home, work=self._kept)
        return FilePlace(c, None)


class SqliteRestorer:
    """Rows of a SQLite database: their columns by name, or None where there is no row.

    Args:
        path: of the database, where the key does not name one; None where there is no usual one.
        home: relative paths are relative to it.
    """

    def __init__(self, name: str, path: str | None, home: str) -> None:
        self.name = name
        self._path = path
        self._home = home

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        hint = 'Give key={"table": NAME, "pk": {COLUMN: VALUE}}; "path" names another SQLite file.'
        known = isinstance(key, dict) and {"table", "pk"} <= key.keys() <= {"table", "pk", "path"}
        if not known or not isinstance(key["table"], str) or key["pk"] in (None, {}):
            raise _refused(self.name, "its key names no row", hint)
        if self._path is None and not isinstance(key.get("path"), str):
            raise _refused(self.name, "it is not known which database is meant", hint)
        rows = [value for value in (old, new) if value is not None]
        if not rows or not all(isinstance(row, dict) and row and not any(map(_nested, row.values())) for row in rows):
            why = "a row is a dictionary of columns with plain values"
            raise _refused(self.name, why, "Give dictionaries; None stands for no row, on one side at most.")

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        with _Database(self._file(change.key)) as db:
            self._require(_Row(db, change.key), change, how)

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer. Looking and writing are one transaction; columns that the change left alone stay."""
        key, old = change.key, change.old
        with _Database(self._file(key)) as db, transaction(db.connection):
            row = _Row(db, key)
            if not self._require(row, change, how):
                return
            if old is None:
                db.run(f"DELETE FROM {row.table} WHERE {row.where}", row.values)
            elif row.is_there({}):
                changed = old if how is Resolution.WHOLE else _changed(old, change.new or {})
                if changed:
                    sets = ", ".join(f"{_quoted(column)} = ?" for column in changed)
                    db.run(f"UPDATE {row.table} SET {sets} WHERE {row.where}", (*changed.values(), *row.values))
            else:
                whole = {**row.pk, **old}
                columns, marks = ", ".join(map(_quoted, whole)), ", ".join("?" * len(whole))
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

    def stands(self, value: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
        """Tell whether the row is as on one side of a change, in the columns in which the other side differs."""
        if value is None:
            return not self.is_there({})
        return self.is_there(value if other is None else _changed(value, other))

    def read(self) -> dict[str, Any] | None:
        """Return the row, or None when it is not there."""
        cursor = self._db.connection.execute(f"SELECT * FROM {self.table} WHERE {self.where}", self.values)
        found = cursor.fetchone()
        return None if found is None else dict(zip((name for name, *_ in cursor.description), found, strict=True))

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
        self.name = name
        self._restore = restore
        self._get = get

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        self._stays(change, how)

    def _stays(self, change: TrackedChange, how: Resolution) -> bool:
        """Tell whether it was changed since and is to stay as it is."""
        if self._get is None or how is Resolution.WHOLE:
            return False
        there = self._get(change.key)
        if same(there, change.new) or same(there, change.old):
            return False
        what = f"The value of {self.name}"
        require_merged(what, [Clash(change.what, change.new, change.old, there)], how)
        return how is Resolution.OURS

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        if not self._stays(change, how):
            self._restore(change)


def _changed(value: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that another state of it has not, or not so."""
    return {name: each for name, each in value.items() if name not in other or not same(each, other[name])}


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
