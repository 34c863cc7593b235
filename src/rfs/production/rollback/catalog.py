"""The catalog: which checkpoints and operations there are, and the journal of the open one.

SQLite with WAL and synchronous=FULL: what a method wrote when it returns survives power
loss. Everything but the journal of an open operation can be rebuilt from the packs.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import apsw
import msgspec

from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.model import FORMAT, Capture, CheckpointType, DeploymentCheckpoint, utc_now
from rfs.production.rollback.operation import Entry, Mark, Operation
from rfs.production.rollback.transaction import transaction

R = TypeVar("R", DeploymentCheckpoint, Operation)

BUSY_MILLISECONDS = 30_000
ALWAYS_LOOKED_AT = 4
LOOKED_BACK = 100

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS checkpoints (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL,
    type TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS operations (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS journal (
    n INTEGER PRIMARY KEY, operation TEXT NOT NULL, step TEXT NOT NULL, mark TEXT NOT NULL,
    at TEXT NOT NULL, note TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS journal_operation ON journal (operation, n);
"""


class Catalog:
    """Args: path: the database file; made when missing. Raises RollbackError when it cannot be used."""

    def __init__(self, path: str) -> None:
        self.path = path
        with self._explained():
            self._db = apsw.Connection(path)
            self._db.set_busy_timeout(BUSY_MILLISECONDS)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._migrate()

    def close(self) -> None:
        self._db.close()

    def _migrate(self) -> None:
        version = self._db.pragma("user_version")
        if version > FORMAT:
            raise RollbackError("store.format", path=self.path, found=version, known=FORMAT)
        if version < FORMAT:
            with self._transaction():
                self._db.execute(SCHEMA)
                self._db.pragma("user_version", FORMAT)
            os.chmod(self.path, 0o600)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors about the file and the disk into those that a user can act on."""
        try:
            yield
        except apsw.FullError as error:
            raise RollbackError("store.no_space", path=self.path) from error
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError, apsw.IOError, apsw.BusyError) as error:
            raise RollbackError("store.unwritable", path=self.path, why=str(error)) from error
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise RollbackError("catalog.damaged", path=self.path) from error

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._explained():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained(), transaction(self._db):
            yield

    # — checkpoints —

    def put_checkpoint(self, checkpoint: DeploymentCheckpoint) -> None:
        """Add a checkpoint, or replace the record of the one with its id. From then on it exists."""
        with self._transaction():
            self._put_checkpoint(checkpoint)

    def _put_checkpoint(self, checkpoint: DeploymentCheckpoint) -> None:
        record = msgspec.json.encode(checkpoint)
        self._db.execute(
            "INSERT INTO checkpoints (id, created_at, type, record) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET record = excluded.record, type = excluded.type",
            (checkpoint.checkpoint_id, checkpoint.created_at.isoformat(), checkpoint.type, record),
        )

    def forget(self, ids: Sequence[str]) -> None:
        """Remove checkpoints. Their blobs go with the next prune of the store."""
        with self._transaction():
            self._db.executemany("DELETE FROM checkpoints WHERE id = ?", [(each,) for each in ids])

    def checkpoint(self, checkpoint_id: str) -> DeploymentCheckpoint:
        """Return the checkpoint with exactly this id.

        Raises:
            NotFoundError: there is none.
        """
        rows = self._rows("SELECT record FROM checkpoints WHERE id = ?", (checkpoint_id,))
        if not rows:
            raise NotFoundError("checkpoint.none", selector=checkpoint_id)
        return msgspec.json.decode(rows[0][0], type=DeploymentCheckpoint)

    def checkpoints(self) -> list[DeploymentCheckpoint]:
        """Return all checkpoints, newest first, SAFETY ones included."""
        rows = self._rows("SELECT record FROM checkpoints ORDER BY seq DESC")
        return [msgspec.json.decode(record, type=DeploymentCheckpoint) for (record,) in rows]

    def refill(self, checkpoints: Iterable[DeploymentCheckpoint], operations: Iterable[Operation]) -> None:
        """Take over records that were found in the packs; those with a known id replace what is here.

        A record that was missing comes to its place by time: what is newest must not be what was found last.
        """
        merged = _merge(self.checkpoints(), {c.checkpoint_id: c for c in checkpoints})
        history = _merge(self.operations(), {o.operation_id: o for o in operations})
        with self._transaction():
            self._db.execute("DELETE FROM checkpoints")
            self._db.execute("DELETE FROM operations")
            for checkpoint in merged:
                self._put_checkpoint(checkpoint)
            for operation in history:
                self._put_operation(operation)

    def latest(self, *, safety: bool) -> DeploymentCheckpoint | None:
        """Return the newest checkpoint; with `safety`, also one taken by a rollback."""
        query = "SELECT record FROM checkpoints WHERE ? OR type != ? ORDER BY seq DESC LIMIT 1"
        rows = self._rows(query, (safety, CheckpointType.SAFETY))
        return msgspec.json.decode(rows[0][0], type=DeploymentCheckpoint) if rows else None

    def latest_captures(self, names: Collection[str] = ()) -> dict[str, Capture]:
        """Return the newest capture of each component: what an unchanged file can be taken from.

        Args:
            names: looked for further back, where the newest checkpoints are of other components alone.
        """
        found: dict[str, Capture] = {}
        rows = self._rows("SELECT record FROM checkpoints ORDER BY seq DESC LIMIT ?", (LOOKED_BACK,))
        for number, (record,) in enumerate(rows):
            if number >= ALWAYS_LOOKED_AT and found.keys() >= set(names):
                break
            checkpoint = msgspec.json.decode(record, type=DeploymentCheckpoint)
            for name, capture in checkpoint.captures.items():
                found.setdefault(name, capture)
        return found

    # — operations and their journal —

    def put_operation(self, operation: Operation, mark: Entry | None = None) -> None:
        """Write an operation's record and, in the same transaction, a journal entry."""
        with self._transaction():
            self._put_operation(operation)
            if mark is not None:
                self._insert(mark)

    def _put_operation(self, operation: Operation) -> None:
        self._db.execute(
            "INSERT INTO operations (id, status, record) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET record = excluded.record, status = excluded.status",
            (operation.operation_id, operation.status, msgspec.json.encode(operation)),
        )

    def mark(self, entry: Entry) -> None:
        """Write a journal entry; it is durable when this returns."""
        with self._transaction():
            self._insert(entry)

    def _insert(self, entry: Entry) -> None:
        self._db.execute(
            "INSERT INTO journal (operation, step, mark, at, note) VALUES (?, ?, ?, ?, ?)",
            (entry.operation, entry.step, entry.mark, entry.at.isoformat(), entry.note),
        )

    def journal(self, operation_id: str) -> list[Entry]:
        """Return the operation's entries in the order they were written."""
        rows = self._rows(
            "SELECT operation, step, mark, at, note FROM journal WHERE operation = ? ORDER BY n", (operation_id,)
        )
        return [
            Entry(operation, step, Mark(mark), datetime.fromisoformat(at), note)
            for operation, step, mark, at, note in rows
        ]

    def operations(self) -> list[Operation]:
        """Return all operations, newest first."""
        rows = self._rows("SELECT record FROM operations ORDER BY seq DESC")
        return [msgspec.json.decode(record, type=Operation) for (record,) in rows]

    def latest_operation(self) -> Operation | None:
        """Return the operation that began last, or None."""
        rows = self._rows("SELECT record FROM operations ORDER BY seq DESC LIMIT 1")
        return msgspec.json.decode(rows[0][0], type=Operation) if rows else None

    def operation_ids(self) -> list[str]:
        """Return the ids of all operations, newest first, without reading their records."""
        return [str(each) for (each,) in self._rows("SELECT id FROM operations ORDER BY seq DESC")]

    def operation(self, operation_id: str) -> Operation:
        """Return the operation with exactly this id.

        Raises:
            NotFoundError: there is none.
        """
        rows = self._rows("SELECT record FROM operations WHERE id = ?", (operation_id,))
        if not rows:
            raise NotFoundError("operation.none", selector=operation_id)
        return msgspec.json.decode(rows[0][0], type=Operation)

    def open_operation(self) -> Operation | None:
        """Return the operation that is running, was interrupted, or is held; there is at most one."""
        rows = self._rows("SELECT record FROM operations WHERE status IN ('running', 'held') ORDER BY seq LIMIT 1")
        return msgspec.json.decode(rows[0][0], type=Operation) if rows else None

    # — small facts —

    def note(self, key: str, value: str | None) -> None:
        """Remember a small fact, or forget it with None."""
        with self._transaction():
            self._db.execute("DELETE FROM meta WHERE key = ?", (key,))
            if value is not None:
                self._db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))

    def noted(self, key: str) -> str | None:
        """Return a fact that `note` remembered, or None."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def empty(self) -> bool:
        """Tell whether it knows of nothing: a new store, or a lost catalog."""
        return self._rows("SELECT EXISTS (SELECT 1 FROM checkpoints), EXISTS (SELECT 1 FROM operations)") == [(0, 0)]


def _merge(known: Sequence[R], found: Mapping[str, R]) -> list[R]:
    """Return the known records (newest first) with the found ones in their places, oldest first."""
    merged = {_id(each): each for each in reversed(known)}
    complete = found.keys() <= merged.keys()
    merged.update(found)
    # Where nothing was missing the order is left alone: the clock may have jumped.
    return list(merged.values()) if complete else sorted(merged.values(), key=lambda each: each.created_at)


def _id(record: DeploymentCheckpoint | Operation) -> str:
    return record.operation_id if isinstance(record, Operation) else record.checkpoint_id


def entry(operation: Operation, step: str, mark: Mark, note: str = "") -> Entry:
    """Return a journal entry of this moment."""
    return Entry(operation.operation_id, step, mark, utc_now(), note)
