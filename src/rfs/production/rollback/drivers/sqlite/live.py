"""Every touch of a live database, and the private copies made of it.

The live file is only ever opened by SQLite. A descriptor of our own would, when closed, drop
the POSIX locks that another connection of this process holds on it. Sizes and times come
from lstat, which takes no descriptor.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import apsw

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.drivers.sqlite.pages import Facts, header_page_size, normalised, uses_wal, write_all
from rfs.production.rollback.errors import IntegrityError, LockedError, RollbackError
from rfs.production.rollback.model import Component, new_id

SIDES = ("-wal", "-shm", "-journal")
_TEMPORARY = "tmp-"
PAGES_PER_STEP = 4096
LONGEST_NAP = 0.005
_READ_WRITE = apsw.SQLITE_OPEN_READWRITE


class Patience:
    """A busy handler: waits for other programs' locks until time is up, and reports to a pulse meanwhile."""

    def __init__(self, seconds: float, pulse: Pulse | None = None) -> None:
        self.seconds = max(seconds, 0.0)
        self._deadline = 0.0
        self._pulse = pulse

    def __call__(self, attempts: int) -> bool:
        if self._pulse is not None:
            self._pulse.tick()
        now = time.monotonic()
        if attempts == 0:
            # Counted from the first refusal of each lock: reading and writing between them is no waiting.
            self._deadline = now + self.seconds
        if now >= self._deadline:
            return False
        # Short naps: a database that is always busy is free for moments only.
        time.sleep(min(0.0002 * (attempts + 1), LONGEST_NAP))
        return True

    def tick(self) -> None:
        if self._pulse is not None:
            self._pulse.tick()


@contextmanager
def explained(c: Component, path: str, patience: Patience, *, writes: str = "") -> Iterator[None]:
    """Turn SQLite's errors about the live database into those that a user can act on.

    Args:
        writes: the folder that is written to, when it is not the database's own.
    """
    try:
        yield
    except (apsw.BusyError, apsw.LockedError):
        raise LockedError("sqlite.locked", path=path, seconds=f"{patience.seconds:.3g}") from None
    except apsw.NotADBError:
        raise RollbackError("sqlite.not_a_database", path=path) from None
    except apsw.CorruptError as error:
        raise IntegrityError("sqlite.damaged", path=path, why=error) from None
    except apsw.CantOpenError as error:
        if not os.path.lexists(path):
            raise RollbackError("path.missing", component=c.name, path=path) from None
        raise RollbackError("path.unreadable", component=c.name, path=path, why=error) from None
    except (apsw.ReadOnlyError, apsw.PermissionsError) as error:
        raise RollbackError("path.unwritable", component=c.name, path=path, why=error) from None
    except apsw.FullError:
        raise RollbackError("store.no_space", path=writes or os.path.dirname(path)) from None
    except apsw.IOError as error:
        raise RollbackError("path.unreadable", component=c.name, path=path, why=error) from None


def status(c: Component, path: str) -> os.stat_result | None:
    """Return the lstat of the database's file, or None when there is none.

    Raises:
        RollbackError: something that is no regular file stands there; it is never followed or removed.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RollbackError("path.unreadable", component=c.name, path=path, why=error.strerror) from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no regular file"
        raise RollbackError("path.kind", component=c.name, path=path, found=kind, wanted="a database file")
    return found


def connect(path: str, patience: Patience, *, flags: int = _READ_WRITE) -> apsw.Connection:
    """Open the live database; with a busy handler, without running anything that its schema names."""
    folder, name = os.path.split(path)
    # The folder may be reached through links; the file itself may not have become one since it was looked at.
    connection = apsw.Connection(os.path.join(os.path.realpath(folder), name), flags=flags | apsw.SQLITE_OPEN_NOFOLLOW)
    connection.set_busy_handler(patience)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    return connection


def _connect_to_read(path: str, patience: Patience) -> apsw.Connection:
    # Reading may need to write: another program's crash is rolled back by the next reader.
    # Where this user may not write, SQLite can often still read.
    if os.access(path, os.W_OK) and os.access(os.path.dirname(path) or "/", os.W_OK):
        connection = connect(path, patience)
    else:
        connection = connect(path, patience, flags=apsw.SQLITE_OPEN_READONLY)
    if _size(path + "-wal"):
        # What a log holds stays in it: a capture changes nothing, not even where a row is kept.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


@contextmanager
def private_file(c: Component, stem: str) -> Iterator[tuple[str, int]]:
    """Make an empty file in the component's work folder that only this user can read.

    It goes when the block ends; one left by a process that was killed goes the next time.

    Yields:
        Its path and a descriptor; the descriptor holds the lock that says it is in use.

    Raises:
        RollbackError: there is no space, also when that shows within the block.
    """
    path = os.path.join(c.work, f"{_TEMPORARY}{stem}-{new_id()}.db")
    try:
        os.makedirs(c.work, mode=0o700, exist_ok=True)
        _sweep(c.work)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield path, fd
        finally:
            for name in (path, path + "-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(name)
            os.close(fd)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RollbackError("store.no_space", path=c.work) from error
        raise


def _sweep(folder: str) -> None:
    for name in os.listdir(folder):
        if not name.startswith(_TEMPORARY):
            continue
        path = os.path.join(folder, name)
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(fd)


@contextmanager
def observed(c: Component, path: str, patience: Patience, *, strict: bool = False) -> Iterator[tuple[str, int, Facts]]:
    """Copy the live database, under its readers and writers, into a private file.

    Args:
        strict: refuse what is missing or no usable database, instead of copying it as it is.

    Yields:
        The copy's path (a database of its own, with a rollback journal), a descriptor, and its facts.

    Raises:
        LockedError: it stayed locked.
        RollbackError: it cannot be read.
    """
    with private_file(c, "copy") as (copy, fd):
        try:
            facts = _observe_database(c, path, copy, fd, patience)
        except RollbackError as error:
            if strict or error.key not in ("path.missing", "sqlite.not_a_database", "sqlite.damaged"):
                raise
            os.ftruncate(fd, 0)
            facts = _observe_broken(c, path, fd)
        yield copy, fd, facts


def _observe_database(c: Component, path: str, copy: str, fd: int, patience: Patience) -> Facts:
    before = status(c, path)
    if before is None:
        raise RollbackError("path.missing", component=c.name, path=path)
    with explained(c, path, patience, writes=c.work):
        _copy(path, copy, patience)
    header = os.pread(fd, 100, 0)
    # Opened as it is, the copy of a database with a write-ahead log would want one too.
    write_all(fd, normalised(header), 0)
    mode, uid, gid = ownership(before)
    size = os.fstat(fd).st_size
    return Facts(page_size=header_page_size(header), length=size, wal=uses_wal(header), mode=mode, uid=uid, gid=gid)


def _observe_broken(c: Component, path: str, fd: int) -> Facts:
    try:
        raw = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return Facts(state="absent")
    except OSError as error:
        raise RollbackError("path.unreadable", component=c.name, path=path, why=error.strerror) from None
    try:
        offset = 0
        while chunk := os.pread(raw, 1 << 20, offset):
            write_all(fd, chunk, offset)
            offset += len(chunk)
        mode, uid, gid = ownership(os.fstat(raw))
        return Facts(state="raw", length=offset, mode=mode, uid=uid, gid=gid)
    finally:
        os.close(raw)


def ownership(found: os.stat_result) -> tuple[int, int, int]:
    """Return (mode, uid, gid), the part of a stat that belongs to the state."""
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def _copy(path: str, copy: str, patience: Patience) -> None:
    source = _connect_to_read(path, patience)
    try:
        target = apsw.Connection(copy, flags=_READ_WRITE)
        try:
            target.pragma("journal_mode", "off")
            target.pragma("synchronous", "off")
            with target.backup("main", source, "main") as backup:
                # One step: in steps, each commit of a writer would start the copy over.
                backup.step(-1)
        finally:
            target.close()
    finally:
        source.close()


def write_back(c: Component, staged: str, path: str, facts: Facts, patience: Patience) -> None:
    """Make the live database's content that of a staged one, in one transaction of SQLite's.

    Connections that others hold open stay correct; after a crash the next one to open the
    database rolls it back. A database with a write-ahead log cannot take another page size,
    so it leaves that journal mode first.

    Args:
        facts: of the live database as it is now, or of an empty one.

    Raises:
        LockedError: another program kept it locked.
    """
    with explained(c, path, patience):
        source = apsw.Connection(staged, flags=apsw.SQLITE_OPEN_READONLY)
        target = connect(path, patience)
        try:
            # EXTRA: after a power loss the folder must not show the journal again.
            target.pragma("synchronous", "extra")
            if facts.wal and facts.page_size != _page_size(source):
                switch_journal(target, "delete", patience)
            with target.backup("main", source, "main") as backup:
                while not backup.step(PAGES_PER_STEP):
                    patience.tick()
        finally:
            target.close()
            source.close()


def _page_size(connection: apsw.Connection) -> int:
    return int(connection.pragma("page_size"))


def set_journal(c: Component, path: str, *, wal: bool, patience: Patience) -> None:
    """Put the database into write-ahead mode or out of it, and empty the log if nobody reads from it.

    Raises:
        LockedError: another connection stayed open; SQLite changes this only for the only one.
    """
    with explained(c, path, patience):
        connection = connect(path, patience)
        try:
            connection.pragma("synchronous", "extra")
            switch_journal(connection, "wal" if wal else "delete", patience)
            if wal:
                # The log holds the whole database after a restore. A reader may still need it: no waiting.
                connection.set_busy_handler(None)
                with suppress(apsw.BusyError, apsw.LockedError):
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            connection.close()


def switch_journal(connection: apsw.Connection, mode: str, patience: Patience) -> None:
    """Set the journal mode; SQLite does not call its busy handler for that, so wait here."""
    attempts = 0
    while True:
        try:
            if mode == "delete" and connection.pragma("journal_mode") != "wal":
                return
            if connection.pragma("journal_mode", mode) == mode:
                return
        except (apsw.BusyError, apsw.LockedError):
            pass
        if not patience(attempts):
            raise apsw.BusyError
        attempts += 1


def soundness(copy: str, *, thorough: bool) -> str:
    """Return what SQLite's own check finds wrong in a private copy, or "".

    Args:
        thorough: compare each index with its table, too.
    """
    connection = apsw.Connection(copy, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found = connection.execute(f"PRAGMA {'integrity' if thorough else 'quick'}_check(1)").get
    except apsw.Error as error:
        return f"it cannot be read through ({type(error).__name__})"
    finally:
        connection.close()
    return "" if found == "ok" else " ".join(str(found).split())


def look(path: str, patience: Patience) -> None:
    """Read the first page of the live database, to see whether it can be read at all."""
    connection = _connect_to_read(path, patience)
    try:
        connection.pragma("schema_version")
    finally:
        connection.close()
