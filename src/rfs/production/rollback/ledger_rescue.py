"""A damaged ledger: what can be read of it is saved into a new one, and the damaged file is kept.

Nothing else holds what is in it, so that a ledger that is gone cannot be made again. Each record is sealed: what is
saved is what was written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any

import apsw
import msgspec

from rfs.production.rollback.errors import IntegrityError, RollbackError
from rfs.production.rollback.ledger import LEDGER_FORMAT, SCHEMA
from rfs.production.rollback.store import Store

_SIDES = ("-wal", "-shm")
# No record takes less of the file: a bound for their numbers where the file cannot tell the last one.
_LEAST_BYTES = 40
_READ = "SELECT seq, log, name, body FROM entries"
_Row = tuple[int, str, str, bytes]


class Rescued(msgspec.Struct, frozen=True):
    """What became of a damaged ledger: how many records were saved, and where the damaged file is."""

    records: int
    kept: str


def rescue(store: Store) -> Rescued | None:
    """Make the ledger anew when it is damaged; None when it is whole, or not there. Nobody may be writing to it.

    Raises:
        RollbackError: there is no space, or the store cannot be written; the ledger is as it was.
    """
    path = os.path.join(store.path, "ledger.db")
    if not os.path.exists(path) or _is_whole(path):
        return None
    fresh = os.path.join(store.path, "tmp", "ledger.db")
    kept = os.path.join(store.path, "damaged", f"ledger-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}")
    try:
        for name in (fresh, *(fresh + side for side in (*_SIDES, "-journal"))):
            with suppress(FileNotFoundError):
                os.unlink(name)
        os.makedirs(os.path.dirname(fresh), mode=0o700, exist_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        count = _save(store, path, fresh)
        os.makedirs(kept, mode=0o700)
        for side in ("", *_SIDES):
            with suppress(FileNotFoundError):
                shutil.copy2(path + side, os.path.join(kept, "ledger.db" + side))
        # The log of the damaged one must not be taken for that of the new one.
        for side in _SIDES:
            with suppress(FileNotFoundError):
                os.unlink(path + side)
        os.rename(fresh, path)
        _sync(store.path)
    except (OSError, apsw.Error) as error:
        raise RollbackError("store.unwritable", path=path, why=str(error)) from error
    return Rescued(count, kept)


def _is_whole(path: str) -> bool:
    try:
        with closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as db:
            return db.execute("PRAGMA integrity_check(1)").fetchall() == [("ok",)]
    except (apsw.CorruptError, apsw.NotADBError):
        return False


def _save(store: Store, path: str, fresh: str) -> int:
    with closing(apsw.Connection(fresh, flags=apsw.SQLITE_OPEN_READWRITE)) as made:
        made.pragma("synchronous", "full")
        with made:
            made.execute(SCHEMA)
            for row in _readable(path):
                try:
                    store.unseal(row[3])
                except (IntegrityError, TypeError, ValueError):  # pages that make no sense give values of any kind
                    continue
                made.execute("INSERT OR IGNORE INTO entries (seq, log, name, body) VALUES (?, ?, ?, ?)", row)
            made.pragma("user_version", LEDGER_FORMAT)
        count: Any = made.execute("SELECT count(*) FROM entries").get
    return int(count)


def _readable(path: str) -> Iterator[_Row]:
    """Yield the records that can be read, in order: in one go, and one by one where pages make no sense."""
    try:
        db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error:
        return
    with closing(db):
        last = _last(db, path)
        at = 0
        while at <= last:
            try:
                for row in db.execute(f"{_READ} WHERE seq > ? ORDER BY seq", (at,)):
                    at = row[0]
                    yield row
                return
            except apsw.Error:
                at += 1
                with suppress(apsw.Error):
                    yield from db.execute(f"{_READ} WHERE seq = ?", (at,))


def _last(db: apsw.Connection, path: str) -> int:
    for query in ("SELECT max(seq) FROM entries", "SELECT max(seq) FROM entries INDEXED BY entries_log"):
        with suppress(apsw.Error, TypeError):
            found: Any = db.execute(query).get
            return int(found)
    return os.path.getsize(path) // _LEAST_BYTES


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
