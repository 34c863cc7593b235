"""The catalog's table of scheduled and armed rollbacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.errors import NotFoundError
from rfs.production.rollback.owing import owe_deferred

if TYPE_CHECKING:
    import apsw

    from rfs.production.rollback.deferred import Deferred

DEFERRED = """
CREATE {temporary} TABLE IF NOT EXISTS deferred (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, record BLOB NOT NULL);
"""
_WAITS = "status IN ('scheduled', 'armed')"
WAITING_INDEX = f"CREATE INDEX IF NOT EXISTS waiting_deferred ON deferred (seq) WHERE {_WAITS};"
# Those that are over and became no operation are for people to look at; so many stay.
_KEPT = 500


class DeferredTable(ABC):
    """Mixed into Catalog."""

    @abstractmethod
    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]: ...

    @abstractmethod
    def _change(self, act: Callable[[apsw.Connection], None], *, frees: bool = False) -> None: ...

    def put_deferred(self, deferred: Deferred) -> None:
        """Add a scheduled or an armed rollback; the oldest that are over go."""

        def put(db: apsw.Connection) -> None:
            owe_deferred(db, deferred)
            _put(db, deferred)
            db.execute(
                f"DELETE FROM deferred WHERE NOT {_WAITS} AND seq <= (SELECT max(seq) FROM deferred) - ?",  # noqa: S608 — a constant
                (_KEPT,),
            )

        self._change(put)

    def change_deferred(self, rollback_id: str, edit: Callable[[Deferred], Deferred]) -> Deferred:
        """Change the record of one; return it as it is now.

        Raises:
            NotFoundError: there is none with this id.
        """
        changed: list[Deferred] = []

        def edited(db: apsw.Connection) -> None:
            record = db.execute("SELECT record FROM deferred WHERE id = ?", (rollback_id,)).get
            if record is None:
                raise NotFoundError("deferred.none", selector=rollback_id)
            changed[:] = [edit(_decoded(record))]
            owe_deferred(db, changed[0])
            _put(db, changed[0])

        # What waits must be given up, and what fired be told from what waits, also on a full disk.
        self._change(edited, frees=True)
        return changed[0]

    def waiting_deferred(self) -> list[Deferred]:
        """Return those that wait, oldest first."""
        query = f"SELECT record FROM deferred WHERE {_WAITS} ORDER BY seq"  # noqa: S608 — a constant
        return [_decoded(record) for (record,) in self._rows(query)]

    def deferred(self) -> Iterator[Deferred]:
        """Yield all of them, newest first."""
        for (record,) in self._rows("SELECT record FROM deferred ORDER BY seq DESC"):
            yield _decoded(record)


def _decoded(record: bytes) -> Deferred:
    from rfs.production.rollback.deferred import Deferred  # most often there is none, and start-up is a goal

    return msgspec.json.decode(record, type=Deferred)


def _put(db: apsw.Connection, deferred: Deferred) -> None:
    db.execute(
        "INSERT INTO deferred (id, status, record) VALUES (?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET record = excluded.record, status = excluded.status",
        (deferred.rollback_id, deferred.status, msgspec.json.encode(deferred)),
    )
