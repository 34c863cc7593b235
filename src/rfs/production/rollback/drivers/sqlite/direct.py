"""What opens a live database: always through SQLite, in this process or in one apart (see `apart`).

Each operation takes the database's path, and a `Patience` for other programs' locks. Errors
are those of apsw and of the operating system.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

import apsw

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.drivers.sqlite.pages import write_all

SIDES = ("-wal", "-shm", "-journal")
PAGES_PER_STEP = 4096
COPIED_AT_ONCE = 64 << 20
LONGEST_NAP = 0.005


class Patience:
    """A busy handler: waits for other programs' locks until time is up, and reports to a pulse meanwhile.

    Attributes:
        seconds: how long it waits for each lock.
    """

    def __init__(self, seconds: float, pulse: Pulse | None = None) -> None:
        self.seconds = max(seconds, 0.0)
        self._deadline = 0.0
        self.pulse = pulse

    def __call__(self, attempts: int) -> bool:
        if self.pulse is not None:
            self.pulse.tick()
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
        if self.pulse is not None:
            self.pulse.tick()


def copy_database(path: str, patience: Patience, *, copy: str) -> None:
    """Copy the database as of one moment, under its readers and writers, into an empty file."""
    if _copied_by_the_kernel(path, copy, patience):
        return
    with closing(_connect_to_read(path, patience)) as source, closing(_connect(copy, None)) as target:
        target.pragma("journal_mode", "off")
        target.pragma("synchronous", "off")
        with target.backup("main", source, "main") as backup:
            # One step: in steps, each commit of a writer would start the copy over.
            backup.step(-1)


@contextmanager
def _held_open(path: str) -> Iterator[int | None]:
    """Yield a descriptor of the file, or None. Closing it drops SQLite's locks: it has to outlive the connection."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield None  # SQLite says what is wrong with it
        return
    try:
        yield file
    finally:
        os.close(file)


class Frozen(NamedTuple):
    """A database's own file, into which nobody can write.

    Attributes:
        file: a descriptor of it.
        length: of the database, bytes.
        reader: a connection in the read transaction that keeps writers out of the file.
    """

    file: int
    length: int
    reader: apsw.Connection


@contextmanager
def frozen(path: str, patience: Patience) -> Iterator[Frozen | None]:
    """Yield the file itself where nobody can write into it for as long as we read, else None.

    While a reader has its lock, a database with a rollback journal is written to by nobody. Nor is one with a
    write-ahead log that was empty when the reader began: what is committed since goes into the log, and stays there.

    Only where this process may open the database, see `apart`.
    """
    with _held_open(path) as file, closing(_connect_to_read(path, patience)) as reader:
        length = None if file is None else _frozen_length(path, file, reader)
        yield None if file is None or length is None else Frozen(file, length, reader)


def _frozen_length(path: str, file: int, reader: apsw.Connection) -> int | None:
    """Begin the transaction; return the database's length, or None where the file is not all of it."""
    try:
        reader.execute("BEGIN")
        reader.pragma("schema_version")  # a transaction begins with the first look, and ends with the connection
        # SQLite reads the schema before it says how many pages there are.
        length: int = reader.pragma("page_count") * reader.pragma("page_size")
    except apsw.CorruptError:
        return None  # page by page it may still be copied
    with suppress(FileNotFoundError):
        if os.lstat(path + "-wal").st_size:
            return None
    found = os.fstat(file)
    # Another file may have come in its place before it was opened the second time.
    return length if os.path.samestat(found, os.lstat(path)) and 0 < length <= found.st_size else None


def _copied_by_the_kernel(path: str, copy: str, patience: Patience) -> bool:
    """Copy the file itself where nobody can write into it for as long as we read; tell whether that was so."""
    with frozen(path, patience) as found:
        return found is not None and _copied(found.file, copy, found.length, patience)


def _copied(file: int, copy: str, length: int, patience: Patience) -> bool:
    target = os.open(copy, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        done = 0
        while done < length:
            written = os.copy_file_range(file, target, min(length - done, COPIED_AT_ONCE), done, done)
            if not written:
                break
            done += written
            patience.tick()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        done = 0  # not between these two file systems, or not with this one
    finally:
        if done < length:
            os.ftruncate(target, 0)
        os.close(target)
    return done == length


def copy_file(path: str, patience: Patience, *, copy: str) -> None:
    """Copy what is no database, byte by byte, into an empty file."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        target = os.open(copy, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            offset = 0
            while chunk := os.pread(source, 1 << 20, offset):
                write_all(target, chunk, offset)
                offset += len(chunk)
                patience.tick()
        finally:
            os.close(target)
    finally:
        os.close(source)


def write_back(path: str, patience: Patience, *, staged: str) -> None:
    """Make the database's content that of a staged one, in one transaction of SQLite's.

    Connections that others hold open stay correct; after a crash the next one to open the
    database rolls it back. A database with a write-ahead log cannot take another page size,
    so it leaves that journal mode first.
    """
    with (
        closing(_connect(staged, None, apsw.SQLITE_OPEN_READONLY)) as source,
        closing(_connect(path, patience)) as target,
    ):
        # EXTRA: after a power loss the folder must not show the journal again.
        target.pragma("synchronous", "extra")
        if target.pragma("page_size") != source.pragma("page_size"):
            _switch_journal(target, "delete", patience)
        with target.backup("main", source, "main") as backup:
            while not backup.step(PAGES_PER_STEP):
                patience.tick()


def set_journal(path: str, patience: Patience, *, wal: bool) -> None:
    """Put the database into write-ahead mode or out of it, and empty the log if nobody reads from it.

    SQLite changes this only for a connection that is the only one.
    """
    with closing(_connect(path, patience)) as connection:
        connection.pragma("synchronous", "extra")
        _switch_journal(connection, "wal" if wal else "delete", patience)
        if wal:
            # The log holds the whole database after a restore. A reader may still need it: no waiting.
            connection.set_busy_handler(None)
            with suppress(apsw.BusyError, apsw.LockedError):
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def look(path: str, patience: Patience) -> None:
    """Read the first page, to see whether the database can be read at all."""
    with closing(_connect_to_read(path, patience)) as connection:
        connection.pragma("schema_version")


def make_durable(path: str, patience: Patience) -> None:
    """Make the file's owner, group and mode survive a power loss: SQLite's own syncs owe only the content."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _connect(path: str, patience: Patience | None, flags: int = apsw.SQLITE_OPEN_READWRITE) -> apsw.Connection:
    folder, name = os.path.split(path)
    # The folder may be reached through links; the file itself may not have become one since it was looked at.
    connection = apsw.Connection(os.path.join(os.path.realpath(folder), name), flags=flags | apsw.SQLITE_OPEN_NOFOLLOW)
    connection.set_busy_handler(patience)
    # Nothing that the schema names is run.
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    return connection


def _connect_to_read(path: str, patience: Patience) -> apsw.Connection:
    # Reading may need to write: another program's crash is rolled back by the next reader.
    # Where this user may not write, SQLite can often still read.
    writable = os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK)
    connection = _connect(path, patience, apsw.SQLITE_OPEN_READWRITE if writable else apsw.SQLITE_OPEN_READONLY)
    with suppress(FileNotFoundError):
        if os.lstat(path + "-wal").st_size:
            # What a log holds stays in it: a capture changes nothing, not even where a row is kept.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def _switch_journal(connection: apsw.Connection, mode: str, patience: Patience) -> None:
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
