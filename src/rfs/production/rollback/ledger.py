"""The ledger: small sealed records with names, in logs; versions of configuration and tracked changes.

A file of its own beside the catalog. What `write` wrote when it returns survives power loss, all of it or
none. Bodies are sealed with the store's key: configuration holds secrets. Names are not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apsw

from rfs.production.rollback.database import Database
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.store import Store
from rfs.production.rollback.transaction import transaction

LEDGER_FORMAT = 1
OWED = "operations:owed"
"""The log of the operations that the audit log still has to be told of, by their names; its records are empty."""
_OPERATIONS = "operations"
_PAGE = 200
_MOST = 1 << 62
SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY, log TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL,
    UNIQUE (log, name));
CREATE INDEX IF NOT EXISTS entries_log ON entries (log, seq);
"""


class Put(NamedTuple):
    """Add a record to a log, or replace the one of its name, which keeps its place."""

    log: str
    name: str
    body: bytes


class Drop(NamedTuple):
    """Remove a record from a log, if it is there."""

    log: str
    name: str


class Entry(NamedTuple):
    """A record of a log."""

    name: str
    body: bytes


class Ledger:
    """Args: store: whose folder it lies in, and whose key seals it; made when missing."""

    def __init__(self, store: Store) -> None:
        self.path = os.path.join(store.path, "ledger.db")
        self._store = store
        self._file = Database(self.path, store.reserve.give_up, self._prepare, damaged="ledger.damaged")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, db: apsw.Connection) -> None:
        version = db.pragma("user_version")
        if version > LEDGER_FORMAT:
            raise RollbackError("store.format", path=self.path, found=version, known=LEDGER_FORMAT)
        if version < LEDGER_FORMAT:
            with transaction(db):
                db.execute(SCHEMA)
                db.pragma("user_version", LEDGER_FORMAT)

    def write(self, *changes: Put | Drop) -> None:
        """Make all changes in one transaction; they are durable when this returns.

        Raises:
            RollbackError: store.no_space, store.unwritable or catalog.damaged; nothing was changed.
        """
        rows = [(each, self._store.seal(each.body) if isinstance(each, Put) else b"") for each in changes]

        def written(db: apsw.Connection) -> None:
            for change, body in rows:
                if isinstance(change, Drop):
                    db.execute("DELETE FROM entries WHERE log = ? AND name = ?", (change.log, change.name))
                else:
                    db.execute(
                        "INSERT INTO entries (log, name, body) VALUES (?, ?, ?)"
                        " ON CONFLICT (log, name) DO UPDATE SET body = excluded.body",
                        (change.log, change.name, body),
                    )
                    if change.log == _OPERATIONS:
                        owed = "INSERT OR IGNORE INTO entries (log, name, body) VALUES (?, ?, x'')"
                        db.execute(owed, (OWED, change.name))

        # What is undone, or put back after a failure, must be written down also on a full disk.
        self._file.change(written, lambda: True)

    def paid(self, names: Iterable[str]) -> None:
        """The audit log has been told of these operations.

        Raises:
            RollbackError: as `write`.
        """
        rows = [(OWED, name) for name in names]

        def forgotten(db: apsw.Connection) -> None:
            db.executemany("DELETE FROM entries WHERE log = ? AND name = ?", rows)

        self._file.change(forgotten, lambda: False)

    def find(self, log: str, name: str) -> bytes | None:
        """Return the record of a name, or None.

        Raises:
            IntegrityError: it is damaged.
        """
        rows = self._file.rows("SELECT body FROM entries WHERE log = ? AND name = ?", (log, name))
        return self._store.unseal(rows[0][0]) if rows else None

    def entries(self, log: str) -> Iterator[Entry]:
        """Yield the records of a log, newest first; what is not asked for is not read.

        Raises:
            IntegrityError: one is damaged.
        """
        below = _MOST
        query = "SELECT seq, name, body FROM entries WHERE log = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
        while rows := self._file.rows(query, (log, below, _PAGE)):
            for _, name, body in rows:
                yield Entry(name, self._store.unseal(body))
            below = rows[-1][0]

    def names(self, log: str, prefix: str, limit: int = -1) -> list[str]:
        """Return the names in a log that begin with `prefix`, newest first, without reading the records.

        Args:
            limit: at most so many; all when it is negative.
        """
        query = "SELECT name FROM entries WHERE log = ? AND name >= ? AND name < ? || '~' ORDER BY seq DESC LIMIT ?"
        return [str(name) for (name,) in self._file.rows(query, (log, prefix, prefix, limit))]

    def count(self, log: str) -> int:
        """Return how many records a log has."""
        return int(self._file.rows("SELECT count(*) FROM entries WHERE log = ?", (log,))[0][0])
