"""The catalog: which checkpoints and operations there are, and the journal of the open one.

What a method wrote when it returns survives power loss. Everything but the journal of an
open operation can be rebuilt from the packs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from rfs.production.rollback.database import Database
from rfs.production.rollback.deferred_table import DEFERRED, WAITING_INDEX, DeferredTable
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.model import FORMAT, Capture, CheckpointType, DeploymentCheckpoint, utc_now
from rfs.production.rollback.operation import Entry, Mark, Operation, Trace
from rfs.production.rollback.outbox_table import OUTBOX, OUTBOX_TABLES, OutboxTable
from rfs.production.rollback.owing import OWED, owe, owe_checkpoint, owe_deployment, owe_operation, pay
from rfs.production.rollback.plan import Step
from rfs.production.rollback.transaction import transaction

if TYPE_CHECKING:
    import apsw

    from rfs.production.rollback.guarded import Deployment

R = TypeVar("R", DeploymentCheckpoint, Operation)

# What the journal of a rollback of a dozen components and of its way back takes.
JOURNAL_SPACE = 4 << 20
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
CREATE INDEX IF NOT EXISTS open_operations ON operations (seq) WHERE status IN ('running', 'held');
CREATE INDEX IF NOT EXISTS ordinary_checkpoints ON checkpoints (seq) WHERE type != 'safety';
"""
DEPLOYMENTS = """
CREATE {temporary} TABLE IF NOT EXISTS deployments (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, phase TEXT NOT NULL, record BLOB NOT NULL);
"""
OPEN_DEPLOYMENT = "phase IN ('prepared', 'changing', 'baking', 'reverting')"
INDEX = f"CREATE INDEX IF NOT EXISTS open_deployments ON deployments (seq) WHERE {OPEN_DEPLOYMENT};"
# The last of them: a catalog that has not got it is brought up to date.
LAST_INDEX = "SELECT 1 FROM sqlite_schema WHERE name = 'checkpoints_told'"
FREEZES = "freezes"
"""The small fact under which the declared freezes are kept."""
PAGE = 50
MOST = 1 << 62


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """What of a checkpoint decides whether it stays: without captures, of which very many need not be in memory."""

    checkpoint_id: str
    created_at: datetime
    type: CheckpointType
    tags: tuple[str, ...] = ()
    pinned: bool = False
    operation_id: str | None = None
    revision: int = 0


_BRIEFS, _TRACES = msgspec.json.Decoder(Brief), msgspec.json.Decoder(Trace)


class Catalog(DeferredTable, OutboxTable):
    """Args: path: the database file; made when missing. give_way: see Database.

    Raises:
        RollbackError: it can neither be written nor looked at, is damaged, or of a newer release.
    """

    def __init__(self, path: str, give_way: Callable[[], bool] = lambda: False) -> None:
        self.path = path
        self._file = Database(path, give_way, self._prepare)

    def close(self) -> None:
        self._file.close()

    @property
    def unwritable(self) -> RollbackError | None:
        """Why it can only be looked at; None when it may be written."""
        return self._file.unwritable

    def _prepare(self, db: apsw.Connection) -> None:
        version = db.pragma("user_version")
        if version > FORMAT:
            raise RollbackError("store.format", path=self.path, found=version, known=FORMAT)
        if version == FORMAT and db.execute(LAST_INDEX).get is not None:
            return
        if version == FORMAT and db.readonly("main"):
            # That of an older release, to be looked at: it has not got all of them.
            db.pragma("temp_store", 2)
            outbox = OUTBOX_TABLES.replace("CREATE TABLE", "CREATE {temporary} TABLE")
            for name, table in (("deployments", DEPLOYMENTS), ("deferred", DEFERRED), ("events", outbox)):
                if db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,)).get is None:
                    db.execute(table.format(temporary="TEMPORARY"))
            return
        with transaction(db):
            db.execute(SCHEMA + (DEPLOYMENTS + DEFERRED).format(temporary="") + INDEX + WAITING_INDEX + OUTBOX)
            db.pragma("user_version", FORMAT)

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        return self._file.rows(query, values)

    def _change(self, act: Callable[[apsw.Connection], None], *, frees: bool = False) -> None:
        """Commit a change. An open operation must be carried on, and space freed, also on a full disk.

        Raises:
            RollbackError: store.no_space, store.unwritable or catalog.damaged; nothing was changed.
        """
        self._file.change(act, lambda: frees or self.open_operation() is not None)

    # — checkpoints —

    def put_checkpoint(self, checkpoint: DeploymentCheckpoint) -> None:
        """Add a checkpoint, or replace the record of the one with its id. From then on it exists."""

        def put(db: apsw.Connection) -> None:
            owe_checkpoint(db, checkpoint)
            _put_checkpoint(db, checkpoint)

        self._change(put)

    def forget(self, ids: Sequence[str]) -> None:
        """Remove checkpoints. Their blobs go with the next prune of the store."""
        rows = [(each,) for each in ids]

        def forgotten(db: apsw.Connection) -> None:
            db.executemany("DELETE FROM checkpoints WHERE id = ?", rows)
            owe(db, *(f"checkpoint {each} removed" for each in ids))

        self._change(forgotten, frees=True)

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

    def briefs(self) -> Iterator[Brief]:
        """Yield what decides whether they stay of all checkpoints, newest first."""
        for record in self._paged("SELECT seq, record FROM checkpoints WHERE seq < ? ORDER BY seq DESC LIMIT ?"):
            yield _BRIEFS.decode(record)

    def ordinary(self) -> Iterator[DeploymentCheckpoint]:
        """Yield the checkpoints that are not SAFETY ones, newest first; what is not asked for is not read."""
        query = "SELECT seq, record FROM checkpoints WHERE type != 'safety' AND seq < ? ORDER BY seq DESC LIMIT ?"
        for record in self._paged(query):
            yield msgspec.json.decode(record, type=DeploymentCheckpoint)

    def checkpoint_ids(self, prefix: str) -> list[str]:
        """Return the ids of the checkpoints that begin with `prefix`, newest first, without reading their records."""
        return self._ids("checkpoints", prefix, -1)

    def count_safety(self) -> int:
        """Return how many SAFETY checkpoints there are."""
        query = "SELECT count(*) - (SELECT count(*) FROM checkpoints WHERE type != 'safety') FROM checkpoints"
        return int(self._rows(query)[0][0])

    def _paged(self, query: str) -> Iterator[bytes]:
        """Yield the records of a query for (seq, record) that takes (seq below which, how many)."""
        below = MOST
        while rows := self._rows(query, (below, PAGE)):
            yield from (record for _, record in rows)
            below = rows[-1][0]

    def _ids(self, table: str, prefix: str, limit: int) -> list[str]:
        # Without a condition, where there is nothing to look for, they are read in their order and not sorted.
        where = "WHERE id >= ?2 AND id < ?2 || '~'" if prefix else ""
        query = f"SELECT id FROM {table} {where} ORDER BY seq DESC LIMIT ?1"  # noqa: S608 — one of two names
        return [str(each) for (each,) in self._rows(query, (limit, prefix) if prefix else (limit,))]

    def refill(
        self,
        checkpoints: Iterable[DeploymentCheckpoint],
        operations: Iterable[Operation],
        deployments: Iterable[Deployment] = (),
    ) -> None:
        """Take over records that were found in the packs; those with a known id replace what is here.

        A record that was missing comes to its place by time: what is newest must not be what was found last.
        """
        merged = _merge(self.checkpoints(), {c.checkpoint_id: c for c in checkpoints})
        history = _merge(self.operations(), {o.operation_id: o for o in operations})
        # Of those that are not over only the catalog knows how far they are.
        trials = {d.guard_id: d for d in (*deployments, *self.deployments())}

        def refilled(db: apsw.Connection) -> None:
            told = db.execute("SELECT coalesce(max(n), 0) FROM events").get
            db.execute("DELETE FROM checkpoints")
            db.execute("DELETE FROM operations")
            for checkpoint in merged:
                _put_checkpoint(db, checkpoint)
            for operation in history:
                _put_operation(db, operation)
            for deployment in sorted(trials.values(), key=lambda each: each.created_at):
                _put_deployment(db, deployment)
            db.execute("DELETE FROM events WHERE n > ?", (told,))  # nothing of it has just happened

        self._change(refilled)

    def latest(self, *, safety: bool) -> DeploymentCheckpoint | None:
        """Return the newest checkpoint; with `safety`, also one taken by a rollback."""
        only = "" if safety else "WHERE type != 'safety'"
        rows = self._rows(f"SELECT record FROM checkpoints {only} ORDER BY seq DESC LIMIT 1")  # noqa: S608 — of two
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

    def begin(self, operation: Operation) -> None:
        """Write down an operation that begins, with the room set aside that its journal will need.

        Raises:
            RollbackError: store.no_space or store.unwritable; it has not begun.
        """
        self._file.set_aside(JOURNAL_SPACE)
        self.put_operation(operation)

    def put_operation(self, operation: Operation, mark: Entry | None = None) -> None:
        """Write an operation's record and, in the same transaction, a journal entry."""

        def put(db: apsw.Connection) -> None:
            owe_operation(db, operation)
            _put_operation(db, operation)
            if mark is not None:
                _insert(db, mark)

        self._change(put)

    def mark(self, entry: Entry) -> None:
        """Write a journal entry; it is durable when this returns."""
        self._change(lambda db: _insert(db, entry))

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
        return list(self.history())

    def history(self) -> Iterator[Operation]:
        """Yield the operations, newest first; what is not asked for is not read."""
        for record in self._paged("SELECT seq, record FROM operations WHERE seq < ? ORDER BY seq DESC LIMIT ?"):
            yield msgspec.json.decode(record, type=Operation)

    def traces(self) -> Iterator[Trace]:
        """Yield what decides what they need of all operations, newest first."""
        for record in self._paged("SELECT seq, record FROM operations WHERE seq < ? ORDER BY seq DESC LIMIT ?"):
            yield _TRACES.decode(record)

    def count_operations(self) -> int:
        """Return how many operations there are."""
        return int(self._rows("SELECT count(*) FROM operations")[0][0])

    def latest_operation(self) -> Operation | None:
        """Return the operation that began last, or None."""
        rows = self._rows("SELECT record FROM operations ORDER BY seq DESC LIMIT 1")
        return msgspec.json.decode(rows[0][0], type=Operation) if rows else None

    def operation_ids(self, prefix: str = "", limit: int = -1) -> list[str]:
        """Return the ids of the operations that begin with `prefix`, newest first, without reading their records.

        Args:
            limit: at most so many; all when it is negative.
        """
        return self._ids("operations", prefix, limit)

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

    # — guarded deployments —

    def put_deployment(self, deployment: Deployment) -> None:
        """Add a guarded deployment, or replace the record of the one with its id."""

        def put(db: apsw.Connection) -> None:
            owe_deployment(db, deployment)
            _put_deployment(db, deployment)

        self._change(put)

    def change_deployment(self, guard_id: str, edit: Callable[[Deployment], Deployment]) -> Deployment:
        """Change the record of a guarded deployment, which other processes change as well; return it as it is now.

        Raises:
            NotFoundError: there is none with this id.
        """
        changed: list[Deployment] = []

        def edited(db: apsw.Connection) -> None:
            record = db.execute("SELECT record FROM deployments WHERE id = ?", (guard_id,)).get
            if record is None:
                raise NotFoundError("guard.none")
            changed[:] = [edit(_deployment(record))]
            owe_deployment(db, changed[0])
            _put_deployment(db, changed[0])

        # What is on trial must be decided also on a full disk.
        self._change(edited, frees=True)
        return changed[0]

    def deployments(self) -> Iterator[Deployment]:
        """Yield the guarded deployments, newest first; what is not asked for is not read."""
        for record in self._paged("SELECT seq, record FROM deployments WHERE seq < ? ORDER BY seq DESC LIMIT ?"):
            yield _deployment(record)

    def deployment(self, guard_id: str) -> Deployment:
        """Return the guarded deployment with exactly this id.

        Raises:
            NotFoundError: there is none.
        """
        rows = self._rows("SELECT record FROM deployments WHERE id = ?", (guard_id,))
        if not rows:
            raise NotFoundError("guard.none")
        return _deployment(rows[0][0])

    def open_deployment(self) -> Deployment | None:
        """Return the guarded deployment that is neither kept nor taken back; there is at most one."""
        rows = self._rows(f"SELECT record FROM deployments WHERE {OPEN_DEPLOYMENT} LIMIT 1")  # noqa: S608 — a constant
        return _deployment(rows[0][0]) if rows else None

    # — small facts —

    def note(self, key: str, value: str | None, owing: Sequence[str] = ()) -> None:
        """Remember a small fact, or forget it with None; and owe the audit log entries about that, see owing."""

        def written(db: apsw.Connection) -> None:
            owe(db, *owing)
            db.execute("DELETE FROM meta WHERE key = ?", (key,))
            if value is not None:
                db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))

        self._change(written)

    def noted(self, key: str) -> str | None:
        """Return a fact that `note` remembered, or None."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def owe(self, *keys: str) -> None:
        """Owe the audit log entries about what is to be done right after this; see owing."""
        self._change(lambda db: owe(db, *keys))

    def owed(self) -> list[tuple[str, str]]:
        """Return the keys of what the audit log still has to be told, and when that was, oldest first."""
        rows = self._rows("SELECT key, value FROM meta WHERE key >= 'owed ' AND key < 'owed!' ORDER BY value")
        return [(str(key).removeprefix(OWED), str(when)) for key, when in rows]

    def paid(self, keys: Sequence[str], audited: str) -> None:
        """Owe these no longer, as the log reaches so far."""
        self._change(lambda db: pay(db, keys, audited))

    def empty(self) -> bool:
        """Tell whether it knows of nothing: a new store, or a lost catalog."""
        return self._rows("SELECT EXISTS (SELECT 1 FROM checkpoints), EXISTS (SELECT 1 FROM operations)") == [(0, 0)]


def _put_checkpoint(db: apsw.Connection, checkpoint: DeploymentCheckpoint) -> None:
    db.execute(
        "INSERT INTO checkpoints (id, created_at, type, record) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET record = excluded.record, type = excluded.type",
        (
            checkpoint.checkpoint_id,
            checkpoint.created_at.isoformat(),
            checkpoint.type,
            msgspec.json.encode(checkpoint),
        ),
    )


def _put_operation(db: apsw.Connection, operation: Operation) -> None:
    db.execute(
        "INSERT INTO operations (id, status, record) VALUES (?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET record = excluded.record, status = excluded.status",
        (operation.operation_id, operation.status, msgspec.json.encode(operation)),
    )


def _deployment(record: bytes) -> Deployment:
    from rfs.production.rollback.guarded import Deployment  # most often there is none, and start-up is a goal

    return msgspec.json.decode(record, type=Deployment)


def _put_deployment(db: apsw.Connection, deployment: Deployment) -> None:
    db.execute(
        "INSERT INTO deployments (id, phase, record) VALUES (?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET record = excluded.record, phase = excluded.phase",
        (deployment.guard_id, deployment.phase, msgspec.json.encode(deployment)),
    )


def _insert(db: apsw.Connection, entry: Entry) -> None:
    db.execute(
        "INSERT INTO journal (operation, step, mark, at, note) VALUES (?, ?, ?, ?, ?)",
        (entry.operation, entry.step, entry.mark, entry.at.isoformat(), entry.note),
    )


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


class Statements:
    """The journal of a migration: a statement that no transaction holds must not be run twice."""

    def __init__(self, catalog: Catalog, operation: Operation, step: Step) -> None:
        self._catalog, self._operation, self._step = catalog, operation, step

    def begun(self) -> list[str]:
        return self._noted(Mark.BEGUN)

    def ended(self) -> list[str]:
        return self._noted(Mark.ENDED)

    def begin(self, statement: str) -> None:
        self._catalog.mark(entry(self._operation, self._step.id, Mark.BEGUN, statement))

    def end(self, statement: str) -> None:
        self._catalog.mark(entry(self._operation, self._step.id, Mark.ENDED, statement))

    def _noted(self, mark: Mark) -> list[str]:
        journal = self._catalog.journal(self._operation.operation_id)
        return [each.note for each in journal if each.mark is mark and each.step == self._step.id]
