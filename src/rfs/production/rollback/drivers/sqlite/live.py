"""The live database as the driver sees it: its state, and the private copies made of it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import apsw
import msgspec

from rfs.production.rollback.drivers import displaced
from rfs.production.rollback.drivers.meta import shown
from rfs.production.rollback.drivers.sqlite import apart, holders, room
from rfs.production.rollback.drivers.sqlite.direct import Patience
from rfs.production.rollback.drivers.sqlite.pages import Facts, header_page_size, normalised, uses_wal, write_all
from rfs.production.rollback.errors import IntegrityError, LockedError, RollbackError
from rfs.production.rollback.model import Component, new_id

_TEMPORARY = "tmp-"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
UNUSABLE = ("path.missing", "path.kind", "sqlite.not_a_database", "sqlite.damaged")


def touch(
    c: Component, path: str, operation: str, patience: Patience, *, writes: str = "", **given: str | bool
) -> None:
    """Run one of `direct`'s operations on the live database, in this process or apart from it.

    Args:
        operation: its name.
        writes: the folder that it writes to, when that is not the database's own.
        given: its further arguments.

    Raises:
        LockedError: the database stayed locked.
        RollbackError: SQLite refused, in words that a user can act on.
    """
    with explained(c, path, patience, writes=writes):
        apart.run(operation, path, patience, given)


@contextmanager
def explained(c: Component, path: str, patience: Patience, *, writes: str = "") -> Iterator[None]:
    """Turn SQLite's errors about the live database into those that a user can act on.

    Args:
        writes: the folder that is written to, when it is not the database's own.
    """
    try:
        yield
    except (apsw.BusyError, apsw.LockedError):
        who = sorted({*holders.readers(path), *holders.openers(path)})
        by = f"; {holders.shown(who)} {'have' if len(who) > 1 else 'has'} it open" if who else ""
        raise LockedError("sqlite.locked", path=path, seconds=f"{patience.seconds:.3g}", who=by) from None
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


def standing(c: Component, path: str) -> os.stat_result | None:
    """Return the lstat of whatever stands in the database's place, or None when there is nothing.

    Raises:
        RollbackError: it cannot be looked at.
    """
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RollbackError("path.unreadable", component=c.name, path=path, why=error.strerror) from None


def status(c: Component, path: str) -> os.stat_result | None:
    """Return the lstat of the database's file, or None when there is none.

    Raises:
        RollbackError: something that is no regular file stands there; it is never followed.
    """
    found = standing(c, path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        kind = displaced.kind_of(found)
        if stat.S_ISLNK(found.st_mode):
            kind += f" to {shown(os.readlink(path))}"
        raise RollbackError("path.kind", component=c.name, path=path, found=kind, wanted="a database file")
    return found


def live_size(path: str) -> int:
    """Return how many bytes the database and its log take: no copy of it is larger."""
    size = 0
    for name in (path, path + "-wal"):
        with suppress(OSError):
            size += os.lstat(name).st_size
    return size


@contextmanager
def private_file(c: Component, stem: str) -> Iterator[tuple[str, int]]:
    """Make an empty file in the component's work folder that only this user can read.

    It goes when the block ends; one left by a process that was killed goes the next time. Who may
    only read the store gets it in the system's folder for temporary files.

    Yields:
        Its path and a descriptor; the descriptor holds the lock that says it is in use.

    Raises:
        RollbackError: there is no space or the disk fails, also when that shows within the block.
    """
    try:
        with _folder(c) as folder, room.lent(c):
            path = os.path.join(folder, f"{_TEMPORARY}{stem}-{new_id()}.db")
            fd = _locked(path)
            try:
                yield path, fd
            finally:
                for name in (path, path + "-journal"):
                    with suppress(FileNotFoundError):
                        os.unlink(name)
                os.close(fd)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise RollbackError("store.no_space", path=c.work) from error
        raise RollbackError("store.unwritable", path=error.filename or c.work, why=error.strerror) from error


@contextmanager
def _folder(c: Component) -> Iterator[str]:
    with suppress(OSError):
        os.makedirs(c.work, mode=0o700, exist_ok=True)
    if os.access(c.work, os.W_OK):
        _sweep(c.work)
        yield c.work
        return
    import tempfile  # seldom needed, and start-up is a goal

    with tempfile.TemporaryDirectory(prefix="rfs-") as folder:
        yield folder


def _locked(path: str) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        # Another process (`rfs status` during a rollback, say) swept it away before it was locked.
        os.close(fd)


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
def observed(
    c: Component, path: str, patience: Patience, *, strict: bool = False, exact: bool = False
) -> Iterator[tuple[str, int, Facts]]:
    """Copy the live database, under its readers and writers, into a private file.

    Args:
        strict: refuse what is missing or no usable database, instead of copying it as it is.
        exact: copy it byte by byte, also when it is usable.

    Yields:
        The copy's path (a database of its own, with a rollback journal), a descriptor, and its facts.

    Raises:
        LockedError: it stayed locked.
        RollbackError: it cannot be read.
    """
    with private_file(c, "copy") as (copy, fd):
        facts = None if exact else _observe_usable(c, path, copy, fd, patience, strict=strict)
        yield copy, fd, facts or observe_bytes(c, path, copy, fd, patience)


def _observe_usable(c: Component, path: str, copy: str, fd: int, patience: Patience, *, strict: bool) -> Facts | None:
    try:
        return _observe_database(c, path, copy, fd, patience)
    except RollbackError as error:
        if strict or error.key not in UNUSABLE:
            raise
    return None


@contextmanager
def opened_as_database(c: Component, path: str, facts: Facts, patience: Patience) -> Iterator[tuple[str, Facts]]:
    """Yield a private copy of what is "raw" as a database, if SQLite can read it, with facts; else what was given."""
    if not facts.exact:
        yield path, facts
        return
    with private_file(c, "read") as (copy, fd):
        try:
            found = _observe_database(c, path, copy, fd, patience)
        except RollbackError as error:
            if error.key not in UNUSABLE:
                raise
            yield path, facts
            return
        yield copy, msgspec.structs.replace(found, mode=facts.mode, uid=facts.uid, gid=facts.gid)


def lacks_bytes(path: str, facts: Facts, before: os.stat_result | None) -> bool:
    """Tell whether a copy made through SQLite is not as long as the file, which has no log and was not written to.

    Args:
        before: its lstat before it was copied.
    """
    try:
        found = os.lstat(path)
        log = os.lstat(path + "-wal").st_size if os.path.lexists(path + "-wal") else 0
    except OSError:
        return False
    still = before is not None and (before.st_size, before.st_mtime_ns) == (found.st_size, found.st_mtime_ns)
    return still and not log and found.st_size != facts.length


def _observe_database(c: Component, path: str, copy: str, fd: int, patience: Patience) -> Facts:
    before = status(c, path)
    if before is None:
        raise RollbackError("path.missing", component=c.name, path=path)
    touch(c, path, "copy_database", patience, writes=c.work, copy=copy)
    header = os.pread(fd, 100, 0)
    # Opened as it is, the copy of a database with a write-ahead log would want one too.
    write_all(fd, normalised(header), 0)
    _require_schema(c, path, copy, patience)
    mode, uid, gid = ownership(before)
    size = os.fstat(fd).st_size
    return Facts(page_size=header_page_size(header), length=size, wal=uses_wal(header), mode=mode, uid=uid, gid=gid)


def _require_schema(c: Component, path: str, copy: str, patience: Patience) -> None:
    """Refuse a database of which not even the schema can be read: nothing could be put back through SQLite either."""
    connection = apsw.Connection(copy, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        with explained(c, path, patience):
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    finally:
        connection.close()


def observe_bytes(c: Component, path: str, copy: str, fd: int, patience: Patience) -> Facts:
    """Copy what stands there as it is into a private file, with what a log holds if SQLite can read it; return facts.

    Raises:
        RollbackError: it cannot be read.
    """
    os.ftruncate(fd, 0)
    found = standing(c, path)
    if found is None:
        return Facts(state="absent")
    if not stat.S_ISREG(found.st_mode):
        # It cannot be captured but as which one it is; a restore moves it aside, and back.
        write_all(fd, displaced.identity(found), 0)
        return Facts(state="other", length=len(displaced.identity(found)))
    try:
        if not _copied_with_log(c, path, copy, patience):
            os.ftruncate(fd, 0)
            touch(c, path, "copy_file", patience, writes=c.work, copy=copy)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        raise RollbackError("path.unreadable", component=c.name, path=path, why=error.strerror) from None
    mode, uid, gid = ownership(found)
    return Facts(state="raw", length=os.fstat(fd).st_size, mode=mode, uid=uid, gid=gid)


def _copied_with_log(c: Component, path: str, copy: str, patience: Patience) -> bool:
    """Copy a broken database with what its log holds; tell whether there is one, and SQLite can read it."""
    try:
        if not os.lstat(path + "-wal").st_size:
            return False
        touch(c, path, "copy_database", patience, writes=c.work, copy=copy)
    except FileNotFoundError:
        return False
    except RollbackError as error:
        if error.key not in ("sqlite.not_a_database", "sqlite.damaged"):
            raise
        return False
    return True


def ownership(found: os.stat_result) -> tuple[int, int, int]:
    """Return (mode, uid, gid), the part of a stat that belongs to the state."""
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def soundness(copy: str, *, thorough: bool) -> str:
    """Return what SQLite's own check finds wrong in a private copy, or "".

    Args:
        thorough: compare each index with its table, too.
    """
    connection = apsw.Connection(copy, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return unsound(connection, thorough=thorough)
    finally:
        connection.close()


def unsound(connection: apsw.Connection, *, thorough: bool) -> str:
    """Return what SQLite's own check finds wrong through a connection that only reads, or ""; see `soundness`."""
    try:
        found = connection.execute(f"PRAGMA {'integrity' if thorough else 'quick'}_check(1)").get
    except apsw.Error as error:
        return f"it cannot be read through ({type(error).__name__})"
    return "" if found == "ok" else " ".join(str(found).split())
