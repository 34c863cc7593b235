"""The catalog's SQLite file: written where that can be, and looked at where it cannot.

WAL and synchronous=FULL: what `change` wrote when it returns survives power loss. A file that
may only be read, or that lies on a full disk, is opened for looking: SQLite's log wants
another file beside it even from a reader, so that takes its own ways.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import apsw

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.transaction import NO_SPACE, is_full, transaction

BUSY_MILLISECONDS = 30_000
_CANNOT_WRITE = frozenset({"store.no_space", "store.unwritable"})
_READ = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI

Change = Callable[[apsw.Connection], None]


class Database:
    """One SQLite file.

    Args:
        path: made when missing.
        give_way: asked for room when a change that matters finds none; tells whether it made some.
        prepare: called with each connection before it is used; one that may not write must not be written to.
        damaged: the key of the error for a file that makes no sense.

    Raises:
        RollbackError: it can neither be written nor looked at; `damaged`.
    """

    def __init__(
        self, path: str, give_way: Callable[[], bool], prepare: Change, *, damaged: str = "catalog.damaged"
    ) -> None:
        self._damaged = damaged
        self.path = path
        self._give_way = give_way
        self._prepare = prepare
        self._seen: object = None
        self._why: RollbackError | None = None
        self._open()

    def close(self) -> None:
        self._db.close()

    @property
    def unwritable(self) -> RollbackError | None:
        """Why it was opened for looking alone; None when it may be written."""
        return self._why

    def rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        """Return what a query finds.

        Raises:
            RollbackError: store.unreadable, store.unwritable or catalog.damaged.
        """
        while True:
            with self._explained():
                found = self._db.execute(query, values).fetchall()
            if self._seen is None or self._seen == self._signature():
                return found
            # Looked at without locks, and somebody wrote meanwhile: what was read may be a mixture.
            self._db.close()
            self._open()

    def change(self, act: Change, vital: Callable[[], bool]) -> None:
        """Do what `act` does in one transaction, or none of it.

        Args:
            vital: whether room may be made for it by giving up what was set aside; asked when there is none.

        Raises:
            RollbackError: store.no_space, store.unwritable or catalog.damaged; nothing was changed.
        """
        try:
            self._change(act)
        except RollbackError as error:
            if error.key != "store.no_space" or not vital() or not self._give_way():
                raise
            self._change(act)

    def _change(self, act: Change) -> None:
        if self._why is not None:
            self._db.close()
            self._open()
            if self._why is not None:
                raise self._why
        with self._explained(), transaction(self._db):
            act(self._db)

    def set_aside(self, size: int) -> None:
        """Give the log `size` bytes of the disk, so that the next changes need none.

        They go back when the last connection closes.

        Raises:
            RollbackError: store.no_space, also with what `give_way` made.
        """
        # The next change then begins at the log's start.
        with self._explained():
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        try:
            self._lengthen_log(size)
        except RollbackError:
            if not self._give_way():
                raise
            self._lengthen_log(size)

    def _lengthen_log(self, size: int) -> None:
        # Zeros after the log's end: SQLite takes no notice of them, and has no locks on this file to lose.
        try:
            log = os.open(f"{self.path}-wal", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.posix_fallocate(log, 0, size)
            finally:
                os.close(log)
        except OSError as error:
            # A file system that cannot set space aside is none that is full.
            if error.errno in NO_SPACE:
                raise RollbackError("store.no_space", path=self.path) from error

    # — opening —

    def _open(self) -> None:
        """Open it for writing, else for looking."""
        self._seen = self._why = None
        try:
            self._make()
            self._db = self._connect(self.path, apsw.SQLITE_OPEN_READWRITE, self._for_writing)
        except RollbackError as error:
            if error.key not in _CANNOT_WRITE:
                raise
            self._open_for_looking(error)
            self._why = error

    def _make(self) -> None:
        """Make the file when it is missing: private from the first, as SQLite makes those beside it."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            if error.errno in NO_SPACE:
                raise RollbackError("store.no_space", path=self.path) from error
            raise RollbackError("store.unwritable", path=self.path, why=error.strerror) from error

    def _for_writing(self, db: apsw.Connection) -> None:
        if db.readonly("main"):
            raise apsw.ReadOnlyError
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        self._prepare(db)

    def _open_for_looking(self, error: RollbackError) -> None:
        before = self._signature()
        if before[0] is None:
            raise error
        name = self.path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        if before[1] is None:
            # Without a log the file is all there is; `rows` watches that none appears.
            uri = f"file:{name}?mode=ro&immutable=1"
        elif os.access(f"{self.path}-shm", os.R_OK):
            uri = f"file:{name}?mode=ro&readonly_shm=1"
        elif os.access(self.path, os.R_OK):
            raise RollbackError("catalog.unsettled", path=self.path) from error
        else:
            raise RollbackError("store.unreadable", path=self.path, why=self._reason(error)) from error
        self._db = self._connect(uri, _READ, self._prepare)
        self._seen = before if before[1] is None else None

    def _connect(self, name: str, flags: int, begin: Change) -> apsw.Connection:
        with self._explained():
            db = apsw.Connection(name, flags=flags)
        try:
            with self._explained(db):
                db.set_busy_timeout(BUSY_MILLISECONDS)
                begin(db)
        except BaseException:  # left open it would keep the next way of opening from working
            db.close()
            raise
        return db

    def _signature(self) -> tuple[tuple[int, int, int] | None, tuple[int, int, int] | None]:
        return _identity(self.path), _identity(f"{self.path}-wal")

    def _reason(self, error: Exception) -> str:
        """Return why the file cannot be used, in the system's words, where SQLite does not tell."""
        folder = os.path.dirname(self.path) or "."
        with suppress(OSError):
            if os.statvfs(folder).f_flag & os.ST_RDONLY:
                return os.strerror(errno.EROFS)
        if os.path.exists(self.path) and os.access(self.path, os.R_OK | os.W_OK) and os.access(folder, os.W_OK):
            return str(error)
        return os.strerror(errno.EACCES)

    @contextmanager
    def _explained(self, db: apsw.Connection | None = None) -> Iterator[None]:
        """Turn SQLite's errors about the file and the disk into those that a user can act on."""
        try:
            yield
        except apsw.Error as error:
            if is_full(error, db or getattr(self, "_db", None)):
                raise RollbackError("store.no_space", path=self.path) from error
            if isinstance(error, (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError)):
                raise RollbackError("store.unwritable", path=self.path, why=self._reason(error)) from error
            if isinstance(error, (apsw.IOError, apsw.BusyError)):
                raise RollbackError("store.unwritable", path=self.path, why=str(error)) from error
            if isinstance(error, (apsw.NotADBError, apsw.CorruptError)):
                raise RollbackError(self._damaged, path=self.path) from error
            raise


def _identity(path: str) -> tuple[int, int, int] | None:
    """Return what changes when a file is written, or None when it is not there or empty."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found.st_size else None
