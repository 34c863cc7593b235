"""What conditions measured, and what was told of them: a small SQLite file of its own in the store.

It is no part of what a rollback stands on: it is bounded, written without waiting for the disk, and begun anew when
it is damaged. A power cut costs the last samples, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.conditions import Sample
from rfs.production.rollback.database import Database
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import utc_now

if TYPE_CHECKING:
    import apsw

FILE = "conditions.db"
KEPT = 2880
"""Samples of each condition: a day at the usual interval."""
_EVENTS_KEPT = 500
# Of a condition that rfs.toml does not know any more.
_FORGOTTEN = timedelta(days=7)
_PRUNED_EVERY = 100
_LONGEST = 500
_FORMAT = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
    n INTEGER PRIMARY KEY, name TEXT NOT NULL, at INTEGER NOT NULL, value REAL, weight INTEGER NOT NULL,
    error TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS samples_of ON samples (name, at);
CREATE TABLE IF NOT EXISTS events (
    n INTEGER PRIMARY KEY, name TEXT NOT NULL, at INTEGER NOT NULL, what TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, since INTEGER NOT NULL, until INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS told (name TEXT PRIMARY KEY, gist TEXT NOT NULL);
"""


class Event(msgspec.Struct, frozen=True):
    """Something that came of a condition.

    Attributes:
        at: UTC.
        what: "alert", "rollback", "checkpoint" or "recovered".
        text: a sentence.
    """

    name: str
    at: datetime
    what: str
    text: str


class Samples:
    """May be used from several threads.

    Args:
        folder: of the store.

    Raises:
        RollbackError: the file cannot be used.
    """

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, FILE)
        self._lock = Lock()
        self._added = 0
        try:
            self._db = self._opened()
        except RollbackError as error:
            if error.key != "catalog.damaged":
                raise
            self._begin_anew()

    def _opened(self) -> Database:
        return Database(self.path, lambda: False, _prepare)

    def _begin_anew(self) -> None:
        for end in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(self.path + end)
        self._db = self._opened()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # — samples —

    def add(self, name: str, sample: Sample) -> None:
        """Keep a sample. Those of a later time were taken before the clock was set back, and go.

        Raises:
            RollbackError: it cannot be written.
        """
        at = _number(sample.at)
        row = (name, at, sample.measured, sample.weight, sample.error[:_LONGEST])

        def added(db: apsw.Connection) -> None:
            db.execute("DELETE FROM samples WHERE name = ? AND at >= ?", (name, at))
            db.execute("INSERT INTO samples (name, at, value, weight, error) VALUES (?, ?, ?, ?, ?)", row)
            self._added += 1
            if self._added % _PRUNED_EVERY == 1:
                _prune(db)

        self._change(added)

    def of(self, name: str, *, limit: int = KEPT) -> list[Sample]:
        """Return the newest samples of a condition, oldest first."""
        query = "SELECT at, value, weight, error FROM samples WHERE name = ? ORDER BY at DESC LIMIT ?"
        rows = self._rows(query, (name, limit))
        return [_sample(row) for row in reversed(rows)]

    def between(self, name: str, since: datetime, until: datetime) -> list[Sample]:
        """Return the samples of a condition from `since` to before `until`, oldest first; UTC."""
        query = "SELECT at, value, weight, error FROM samples WHERE name = ? AND at >= ? AND at < ? ORDER BY at"
        return [_sample(row) for row in self._rows(query, (name, _number(since), _number(until)))]

    def keep(self, name: str, since: datetime, until: datetime) -> None:
        """Let what was measured then stay, however old it becomes: what came after it is compared with it."""
        row = (name, _number(since), _number(until))
        if self._rows("SELECT 1 FROM kept WHERE name = ? AND since = ? AND until = ?", row):
            return
        self._change(lambda db: db.execute("REPLACE INTO kept VALUES (?, ?, ?)", row))

    # — what came of them —

    def tell(self, event: Event) -> None:
        """Remember what came of a condition."""
        row = (event.name, _number(event.at), event.what, event.text)

        def told(db: apsw.Connection) -> None:
            db.execute("INSERT INTO events (name, at, what, text) VALUES (?, ?, ?, ?)", row)
            db.execute("DELETE FROM events WHERE n <= (SELECT max(n) FROM events) - ?", (_EVENTS_KEPT,))

        self._change(told)

    def events(self, name: str | None = None, *, limit: int = 20) -> list[Event]:
        """Return what came of conditions, or of one, newest first."""
        where = "WHERE name = ?2" if name is not None else ""
        query = f"SELECT name, at, what, text FROM events {where} ORDER BY n DESC LIMIT ?1"  # noqa: S608 — one of two
        rows = self._rows(query, (limit, name) if name is not None else (limit,))
        return [Event(name, _time(at), what, text) for name, at, what, text in rows]

    def complaint(self, name: str) -> str:
        """Return the gist of what is being complained about of a condition, or ""."""
        rows = self._rows("SELECT gist FROM told WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else ""

    def complain(self, name: str, gist: str) -> None:
        """Remember that; "" when all is well again."""

        def complained(db: apsw.Connection) -> None:
            db.execute("DELETE FROM told WHERE name = ?", (name,))
            if gist:
                db.execute("INSERT INTO told VALUES (?, ?)", (name, gist))

        self._change(complained)

    # — how —

    def _rows(self, query: str, values: tuple[object, ...]) -> list[Any]:
        with self._lock:
            return self._db.rows(query, values)

    def _change(self, act: Callable[[apsw.Connection], object]) -> None:
        def acted(db: apsw.Connection) -> None:
            act(db)

        with self._lock:
            try:
                self._db.change(acted, lambda: False)
            except RollbackError as error:
                if error.key != "catalog.damaged":
                    raise
                self._db.close()
                self._begin_anew()
                self._db.change(acted, lambda: False)


def _prepare(db: apsw.Connection) -> None:
    if db.readonly("main"):
        return
    db.execute("PRAGMA synchronous=NORMAL")
    if db.pragma("user_version") != _FORMAT:
        db.execute(_SCHEMA)
        db.pragma("user_version", _FORMAT)


def _prune(db: apsw.Connection) -> None:
    """Remove what is too old, but for what is kept to be compared with."""
    for (name,) in db.execute("SELECT DISTINCT name FROM samples").fetchall():
        oldest = db.execute(
            "SELECT at FROM samples WHERE name = ? ORDER BY at DESC LIMIT 1 OFFSET ?", (name, KEPT - 1)
        ).get
        if oldest is not None:
            db.execute(
                "DELETE FROM samples WHERE name = ?1 AND at < ?2 AND NOT EXISTS"
                " (SELECT 1 FROM kept WHERE kept.name = ?1 AND at >= since AND at < until)",
                (name, oldest),
            )
    forgotten = _number(utc_now() - _FORGOTTEN)
    db.execute(
        "DELETE FROM samples WHERE name IN (SELECT name FROM samples GROUP BY name HAVING max(at) < ?)", (forgotten,)
    )
    db.execute("DELETE FROM kept WHERE name NOT IN (SELECT name FROM samples)")


def _number(at: datetime) -> int:
    """Return microseconds since 1970: exact, and in order."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _time(number: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=number)


def _sample(row: tuple[int, float | None, int, str]) -> Sample:
    at, value, weight, error = row
    return Sample(at=_time(at), value=value, weight=weight, error=error)
