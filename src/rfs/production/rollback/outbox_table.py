"""The catalog's outbox: what happened, and what of it is still to be told to whom.

What happened is written by triggers, in the transaction that makes it happen: a rollback that is in the log is also
to be told, and one that is not is not, whoever is killed between the two. Nothing has to remember to write it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.model import utc_now

if TYPE_CHECKING:
    import apsw

    from rfs.production.rollback.notifications import Happened

_KEPT = 1000
_DEAD_KEPT = 500
# By table and column: when a new value is told of, and as what.
_TOLD = {
    "operations": (
        "status",
        "NEW.status IN ('completed', 'reverted', 'held')",
        "CASE NEW.status WHEN 'held' THEN 'held' ELSE 'rollback' END",
    ),
    "deployments": ("phase", "NEW.phase IN ('kept', 'reverted', 'left')", "'deployment'"),
    "deferred": ("status", "NEW.status = 'cancelled'", "'refused'"),
    "checkpoints": ("type", "NEW.type != 'safety'", "'checkpoint'"),
}
OUTBOX_TABLES = """
CREATE TABLE IF NOT EXISTS events (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL DEFAULT (lower(hex(randomblob(8)))),
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f+00:00')), event TEXT NOT NULL,
    subject TEXT NOT NULL DEFAULT '', status TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS endpoints (
    name TEXT PRIMARY KEY, upto INTEGER NOT NULL, sent INTEGER NOT NULL DEFAULT 0, sent_at TEXT);
CREATE TABLE IF NOT EXISTS deliveries (
    n INTEGER PRIMARY KEY, endpoint TEXT NOT NULL, dead INTEGER NOT NULL DEFAULT 0, since TEXT NOT NULL,
    due TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '', body BLOB NOT NULL);
"""


def _trigger(table: str) -> str:
    column, when, event = _TOLD[table]
    act = (
        f"BEGIN INSERT INTO events (event, subject, status) VALUES ({event}, NEW.id, NEW.{column});"  # noqa: S608 — constants
        f" DELETE FROM events WHERE n <= (SELECT max(n) FROM events) - {_KEPT}; END;"
    )
    return (
        f"CREATE TRIGGER IF NOT EXISTS {table}_made AFTER INSERT ON {table} WHEN {when} {act}\n"
        f"CREATE TRIGGER IF NOT EXISTS {table}_told AFTER UPDATE OF {column} ON {table}"
        f" WHEN {when} AND OLD.{column} IS NOT NEW.{column} {act}\n"
    )


OUTBOX = OUTBOX_TABLES + "".join(map(_trigger, _TOLD))


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is to be told to one endpoint.

    Attributes:
        since, due: UTC: since when it is, and when it is tried next.
        error: why the last attempt failed.
        body: what is sent, JSON.
    """

    number: int
    endpoint: str
    dead: bool
    since: datetime
    due: datetime
    attempts: int
    error: str
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found


class OutboxTable(ABC):
    """Mixed into Catalog."""

    @abstractmethod
    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]: ...

    @abstractmethod
    def _change(self, act: Callable[[apsw.Connection], None], *, frees: bool = False) -> None: ...

    def tell(self, event: str, text: str, subject: str = "", status: str = "") -> None:
        """Write down something that happened and is in no other table."""
        query = "INSERT INTO events (event, text, subject, status) VALUES (?, ?, ?, ?)"
        self._change(lambda db: _run(db, query, (event, text, subject, status)))

    def meet(self, endpoints: Iterable[str]) -> None:
        """Make endpoints known: they are told of what happens from now on. What nobody is to be told any more goes."""
        names = set(endpoints)
        known = {name for (name,) in self._rows("SELECT name FROM endpoints")}
        if names == known:
            return

        def met(db: apsw.Connection) -> None:
            for name in names - known:
                _run(db, "INSERT INTO endpoints (name, upto) SELECT ?, coalesce(max(n), 0) FROM events", (name,))
            for name in known - names:
                _run(db, "DELETE FROM endpoints WHERE name = ?", (name,))
                _run(db, "DELETE FROM deliveries WHERE endpoint = ?", (name,))

        self._change(met, frees=True)

    def happened(self, endpoint: str) -> list[Happened]:
        """Return what happened that an endpoint was not asked about yet, oldest first."""
        from rfs.production.rollback.notifications import Happened

        query = (
            "SELECT n, id, at, event, subject, status, text FROM events"
            " WHERE n > (SELECT upto FROM endpoints WHERE name = ?) ORDER BY n"
        )
        return [
            Happened(number=n, event_id=i, at=datetime.fromisoformat(at), event=e, subject=s, status=st, text=t)
            for n, i, at, e, s, st, t in self._rows(query, (endpoint,))
        ]

    def post(self, endpoint: str, upto: int, bodies: Sequence[bytes], most: int) -> None:
        """Put messages into the outbox, for an endpoint that was asked about everything up to a number.

        Args:
            most: so many may wait; the oldest ones beyond that are dead letters.
        """
        now = utc_now().isoformat()

        def posted(db: apsw.Connection) -> None:
            _run(db, "UPDATE endpoints SET upto = max(upto, ?) WHERE name = ?", (upto, endpoint))
            add = "INSERT INTO deliveries (endpoint, since, due, body) VALUES (?, ?, ?, ?)"
            for body in bodies:
                _run(db, add, (endpoint, now, now, body))
            _run(
                db,
                "UPDATE deliveries SET dead = 1, error = 'too many were waiting' WHERE n IN (SELECT n FROM deliveries"
                " WHERE endpoint = ?1 AND NOT dead ORDER BY n DESC LIMIT -1 OFFSET ?2)",
                (endpoint, most),
            )

        self._change(posted, frees=True)

    def deliveries(self, endpoint: str | None = None) -> list[Delivery]:
        """Return what was not told yet, oldest first, dead letters included."""
        where, values = ("", ()) if endpoint is None else ("WHERE endpoint = ?", (endpoint,))
        query = f"SELECT n, endpoint, dead, since, due, attempts, error, body FROM deliveries {where} ORDER BY n"  # noqa: S608 — of two
        return [
            Delivery(
                number=n,
                endpoint=name,
                dead=bool(dead),
                since=datetime.fromisoformat(since),
                due=datetime.fromisoformat(due),
                attempts=attempts,
                error=error,
                body=body,
            )
            for n, name, dead, since, due, attempts, error, body in self._rows(query, values)
        ]

    def delivered(self, delivery: Delivery) -> None:
        """Write down that something was told."""

        def gone(db: apsw.Connection) -> None:
            _run(db, "DELETE FROM deliveries WHERE n = ?", (delivery.number,))
            at = utc_now().isoformat()
            _run(db, "UPDATE endpoints SET sent = sent + 1, sent_at = ? WHERE name = ?", (at, delivery.endpoint))

        self._change(gone, frees=True)

    def failed(self, delivery: Delivery, error: str, due: datetime, *, dead: bool) -> None:
        """Write down that an attempt failed, and when the next one is."""

        def again(db: apsw.Connection) -> None:
            _run(
                db,
                "UPDATE deliveries SET attempts = attempts + 1, error = ?, due = ?, dead = ? WHERE n = ?",
                (error, due.isoformat(), dead, delivery.number),
            )
            _run(
                db,
                "DELETE FROM deliveries WHERE n IN"
                " (SELECT n FROM deliveries WHERE dead ORDER BY n DESC LIMIT -1 OFFSET ?)",
                (_DEAD_KEPT,),
            )

        self._change(again, frees=True)

    def revive(self, numbers: Iterable[int]) -> None:
        """Let letters be tried again from now on, as if they were new."""
        now = utc_now().isoformat()
        rows = [(now, now, number) for number in numbers]

        def revived(db: apsw.Connection) -> None:
            db.executemany("UPDATE deliveries SET dead = 0, attempts = 0, since = ?, due = ? WHERE n = ?", rows)

        self._change(revived)

    def endpoints(self) -> dict[str, tuple[int, str | None]]:
        """Return how many messages each endpoint was sent, and when the last was."""
        return {name: (sent, at) for name, sent, at in self._rows("SELECT name, sent, sent_at FROM endpoints")}


def _run(db: apsw.Connection, statement: str, values: tuple[Any, ...]) -> None:
    db.execute(statement, values)
