"""Which blob lies where: a SQLite file that can be made again from the packs at any time.

Because it can, it is written without waiting for the disk (WAL, synchronous NORMAL:
consistent after power loss, though perhaps without the last packs), and whoever opens it
compares its list of packs with the folder.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.store.files import PRIVATE_FILE, writing
from rfs.production.rollback.store.packs import Contents, Entry
from rfs.production.rollback.store.seal import Type
from rfs.production.rollback.transaction import is_full, transaction

if TYPE_CHECKING:
    import apsw

FORMAT = 2
_BUSY_MILLISECONDS = 30_000
# Above this, ids in memory would cost more than the questions.
_MOST_CACHED = 2_000_000
_ASKED_BEFORE_CACHING = 1_000
# So many are read in the time of one question.
_IDS_LIKE_A_QUESTION = 8
_ASKED_AT_ONCE = 500
_LONG_WAL = 1 << 20
MEMORY = ":memory:"
_ID = itemgetter(0)
_SCHEMA = """
DROP TABLE IF EXISTS blobs;
DROP TABLE IF EXISTS packs;
CREATE TABLE packs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, size INT NOT NULL, stamp INT NOT NULL
);
CREATE TABLE blobs (
    id BLOB NOT NULL, pack INT NOT NULL, type INT NOT NULL, offset INT NOT NULL, length INT NOT NULL,
    size INT NOT NULL, start INT NOT NULL, bad INT NOT NULL DEFAULT 0, PRIMARY KEY (id, pack)
) WITHOUT ROWID;
CREATE INDEX records ON blobs (pack) WHERE type = 2;
CREATE INDEX bad ON blobs (pack) WHERE bad = 1;
PRAGMA user_version = 2;
"""
_COPY = "SELECT packs.name, id, type, offset, length, blobs.size, start, bad FROM blobs JOIN packs ON number = pack "
_FIND = "SELECT pack, type, offset, length, size, start, bad FROM blobs WHERE id = ?"
# The last one counts, and that is the sound one.
_PLACES = "SELECT id, pack, type, offset, length, size, start FROM blobs WHERE id IN ({}) ORDER BY bad DESC"
_SEVERAL = "WHERE id IN (SELECT id FROM blobs GROUP BY id HAVING count(*) > 1) "


class Copy(NamedTuple):
    """One place where a blob lies. `bad` when reading it failed before."""

    pack: str
    entry: Entry
    bad: bool


class Compared(NamedTuple):
    """How the packs in the folder differ from the index's list of them.

    Attributes:
        added: packs that the index did not know; it does now.
        gone: packs that are not in the folder; the index has dropped them.
        resized: packs that are shorter or longer than when they were sealed.
        unreadable: packs that the index does not know and that cannot be read, with the reason.
    """

    added: list[Contents]
    gone: list[str]
    resized: list[str]
    unreadable: dict[str, str]


class IndexDamagedError(Exception):
    """The file is not a sound index: it must be made again. Never leaves the store."""


def _translated(error: apsw.Error, path: str, db: apsw.Connection | None) -> Exception:
    import apsw

    if isinstance(error, (apsw.CorruptError, apsw.NotADBError, apsw.SQLError)):
        # SQLError: a table or column is missing, so the file is of somebody else.
        return IndexDamagedError()
    if is_full(error, db):
        return RollbackError("store.no_space", path=path)
    if isinstance(error, (apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.BusyError)):
        return RollbackError("store.unwritable", path=path, why=str(error))
    return error


class Index:
    """The index of one store. Not thread-safe, and not to be used in a forked child.

    Args:
        path: of the SQLite file, made when missing; or MEMORY.

    Attributes:
        known: ids that `has` is true for, once so many were asked for that they are held in memory.

    Raises:
        IndexDamagedError: `remove` it and open it again.
        RollbackError: it cannot be written (SQLite writes beside a file that is only read).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._db: apsw.Connection
        self.known: set[bytes] | None = None
        self._names: dict[int, str] = {}
        self._asked, self._enough = 0, _ASKED_BEFORE_CACHING
        with self._explained():
            self._connect()
            version = self._value("PRAGMA user_version")
            if self._db.readonly("main"):
                # The file was opened for writing, so it is its header that says so.
                raise IndexDamagedError
            if version != FORMAT:
                self._make()
        self._version = self._data_version()

    def _connect(self) -> None:
        import apsw

        if self.path != MEMORY:
            # SQLite gives its -wal and -shm files the mode of the database.
            with writing(self.path):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE))
        self._error = apsw.Error
        self._db = apsw.Connection(self.path)
        # Kept, because making one costs as much as the question.
        self._finding = self._db.cursor()
        self._db.set_busy_timeout(_BUSY_MILLISECONDS)
        # Emptying the WAL at every close would wait for the disk three times, for nothing.
        self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 256")
        self._db.execute(f"PRAGMA journal_size_limit = {_LONG_WAL}")

    def _make(self) -> None:
        with self._change():
            # Asked again under the lock: another process may have made it meanwhile.
            if self._value("PRAGMA user_version") != FORMAT:
                self._db.execute(_SCHEMA)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import apsw

        try:
            yield
        except apsw.Error as error:
            raise _translated(error, self.path, getattr(self, "_db", None)) from error

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._explained(), transaction(self._db):
            yield

    def _value(self, question: str, *values: object) -> Any:
        return self._db.execute(question, values).get

    def _rows(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        with self._explained():
            return list(self._db.execute(question, values))

    def _copies(self, condition: str, *values: object) -> list[Copy]:
        return [
            Copy(name, Entry(blob, kind, offset, length, size, start), bool(bad))
            for name, blob, kind, offset, length, size, start, bad in self._rows(_COPY + condition, *values)
        ]

    def _data_version(self) -> int:
        with self._explained():
            return int(self._value("PRAGMA data_version"))

    def close(self) -> None:
        """Close the file."""
        with suppress(FileNotFoundError, self._error):
            # Left as it is while it is short: see `_connect`.
            if self.path != MEMORY and os.stat(f"{self.path}-wal").st_size > _LONG_WAL:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    @staticmethod
    def remove(path: str) -> None:
        """Remove a damaged index and what SQLite keeps beside it."""
        for name in (path, f"{path}-wal", f"{path}-shm", f"{path}-journal"):
            with suppress(FileNotFoundError):
                os.unlink(name)

    # — asking —

    def has(self, blob: bytes) -> bool:
        """Tell whether there is a copy that is not known to be bad."""
        if self.known is not None:
            return blob in self.known
        self._asked += 1
        try:
            if self._asked == self._enough and self._hold(self._asked):
                return self.has(blob)
            return self._value("SELECT 1 FROM blobs WHERE id = ? AND bad = 0", blob) is not None
        except self._error as error:
            raise _translated(error, self.path, self._db) from error

    def _hold(self, questions: int) -> bool:
        """Hold all ids in memory if that costs no more than so many questions; tell whether they are held."""
        count = self._value("SELECT count(*) FROM blobs")
        self._enough = max(_ASKED_BEFORE_CACHING, count // _IDS_LIKE_A_QUESTION)
        if questions < self._enough or count > _MOST_CACHED:
            return False
        # All at once, as a list; of a single row it would be the value itself.
        ids = self._db.execute("SELECT id FROM blobs WHERE bad = 0 UNION ALL VALUES (x'') UNION ALL VALUES (x'')").get
        self.known = set(ids)
        return True

    def absent(self, blobs: Collection[bytes]) -> set[bytes]:
        """Return those of which there is no copy that is not known to be bad."""
        with self._explained():
            held = self.known is not None or (len(blobs) >= _ASKED_BEFORE_CACHING and self._hold(len(blobs)))
        if not held or self.known is None:
            return {blob for blob in blobs if not self.has(blob)}
        return set(blobs).difference(self.known)

    def forget(self) -> None:
        """Drop the ids held in memory; the next questions go to the file."""
        self.known = None
        self._asked, self._enough = 0, _ASKED_BEFORE_CACHING

    def refresh(self) -> None:
        """Drop the ids held in memory if another process changed the file since."""
        version = self._data_version()
        if version != self._version:
            self._version = version
            self.forget()

    def places(self, blobs: Collection[bytes]) -> dict[bytes, tuple[str, Entry]]:
        """Return, for those that are here, where a copy lies, if possible one that is not known to be bad."""
        found: dict[bytes, tuple[str, Entry]] = {}
        wanted = list(blobs)
        for start in range(0, len(wanted), _ASKED_AT_ONCE):
            some = wanted[start : start + _ASKED_AT_ONCE]
            question = _PLACES.format(",".join("?" * len(some)))
            for blob, pack, *place in self._rows(question, *some):
                found[blob] = (self._names.get(pack) or self._name(pack), Entry(blob, *place))
        return found

    def find(self, blob: bytes) -> list[Copy]:
        """Return all copies of a blob."""
        # Restores ask this once for each file: neither a join nor a context manager here.
        try:
            names = self._names
            rows: list[tuple[Any, ...]] = self._finding.execute(_FIND, (blob,)).fetchall()
            return [
                Copy(names.get(pack) or self._name(pack), Entry(blob, kind, offset, length, size, start), bool(bad))
                for pack, kind, offset, length, size, start, bad in rows
            ]
        except self._error as error:
            raise _translated(error, self.path, self._db) from error

    def _name(self, number: int) -> str:
        name = self._names[number] = self._value("SELECT name FROM packs WHERE number = ?", number)
        return str(name)

    def packs(self) -> dict[str, int]:
        """Return the name and size in bytes of each pack."""
        return dict(self._rows("SELECT name, size FROM packs"))

    def last_stamp(self) -> int:
        """Return the highest stamp of a record, 0 when there is none."""
        return int(self._rows("SELECT coalesce(max(stamp), 0) FROM packs")[0][0])

    def of_pack(self, name: str) -> list[Copy]:
        """Return the blobs of a pack in the order in which they lie there."""
        return self._copies("WHERE packs.name = ? ORDER BY offset, start", name)

    def records(self) -> list[Copy]:
        """Return the records, in no order."""
        return self._copies(f"WHERE type = {Type.RECORD:d}")

    def bad(self) -> set[tuple[bytes, str]]:
        """Return (blob, pack) of each copy that is known to be bad."""
        return {(copy.entry.blob, copy.pack) for copy in self._copies("WHERE bad = 1")}

    def totals(self) -> dict[str, tuple[int, int]]:
        """Return, by pack, the number of blobs and the sum of the lengths of the sealed bytes that each lies in."""
        question = "SELECT name, count(*), sum(length) FROM blobs JOIN packs ON number = pack GROUP BY pack"
        return {name: (count, length) for name, count, length in self._rows(question)}

    def duplicates(self) -> dict[bytes, list[Copy]]:
        """Return, by id, all copies of the blobs that lie in more than one pack, the best first."""
        found: dict[bytes, list[Copy]] = {}
        for copy in self._copies(_SEVERAL + "ORDER BY bad, pack DESC"):
            found.setdefault(copy.entry.blob, []).append(copy)
        return found

    # — changing —

    def add(self, contents: Contents) -> None:
        """Add a sealed pack; one that is there already is left as it is."""
        with self._change():
            self._insert(contents)
        if self.known is not None:
            self.known.update(contents.ids())

    def drop(self, names: Iterable[str]) -> None:
        """Drop packs and all that lies in them."""
        with self._change():
            numbers = [self._value("SELECT number FROM packs WHERE name = ?", name) for name in names]
            wanted = [number for number in numbers if number is not None]
            marks = ",".join("?" * len(wanted))
            self._db.execute(f"DELETE FROM blobs WHERE pack IN ({marks})", wanted)  # noqa: S608 — question marks only
            self._db.execute(f"DELETE FROM packs WHERE number IN ({marks})", wanted)  # noqa: S608 — question marks only
        self.forget()

    def mark(self, copies: Iterable[tuple[bytes, str]], *, bad: bool) -> None:
        """Note of copies (blob, pack) that reading them failed, or worked again."""
        with self._change():
            self._mark(copies, bad)
        self.forget()

    def replace(self, packs: Iterable[Contents], keep: Iterable[str]) -> None:
        """Make the index anew: `packs`, and of what it held already only the packs named by `keep`."""
        bad = self.bad()
        wanted = set(keep)
        kept = [
            (name, size, stamp, [copy.entry for copy in self.of_pack(name)])
            for name, size, stamp in self._rows("SELECT name, size, stamp FROM packs")
            if name in wanted
        ]
        with self._change():
            self._db.execute("DELETE FROM blobs")
            self._db.execute("DELETE FROM packs")
            for contents in packs:
                self._insert(contents)
            for name, size, stamp, entries in kept:
                self._insert_rows(name, size, stamp, entries)
            self._mark(bad, bad=True)
        self.forget()

    def _insert(self, contents: Contents) -> None:
        self._insert_rows(contents.name, contents.size, contents.stamp, contents.rows())

    def _insert_rows(
        self, name: str, size: int, stamp: int, entries: Iterable[tuple[bytes, int, int, int, int, int]]
    ) -> None:
        if self._value("SELECT 1 FROM packs WHERE name = ?", name) is not None:
            return
        self._db.execute("INSERT INTO packs (name, size, stamp) VALUES (?, ?, ?)", (name, size, stamp))
        number = self._db.last_insert_rowid()
        # In the order of the key: a tree that grows at random places is twice as slow.
        insert = (
            "INSERT OR IGNORE INTO blobs (id, pack, type, offset, length, size, start) VALUES (?, {}, ?, ?, ?, ?, ?)"
        )
        self._db.executemany(insert.format(number), sorted(entries, key=_ID))

    def _mark(self, copies: Iterable[tuple[bytes, str]], bad: bool) -> None:
        self._db.executemany(
            "UPDATE blobs SET bad = ? WHERE id = ? AND pack = (SELECT number FROM packs WHERE name = ?)",
            [(int(bad), blob, name) for blob, name in copies],
        )
