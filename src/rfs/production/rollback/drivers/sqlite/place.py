"""Putting something in the place of the live file: a database through SQLite, anything else whole."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

import msgspec

from rfs.production.rollback.drivers.meta import TEMPORARY_PREFIX, may_own, refused
from rfs.production.rollback.drivers.sqlite.direct import SIDES, Patience
from rfs.production.rollback.drivers.sqlite.live import ownership, touch
from rfs.production.rollback.drivers.sqlite.pages import Facts, write_all
from rfs.production.rollback.errors import IntegrityError, RollbackError
from rfs.production.rollback.model import Component, new_id

_DISPLACED = "displaced"


def require_permission(path: str, live: Facts, wanted: Facts) -> None:
    """Refuse before anything changes what could only be half done.

    Raises:
        RollbackError: only root could give the file its owner, group or mode.
    """
    same = (live.uid, live.gid, live.mode) == (wanted.uid, wanted.gid, wanted.mode)
    kept_in_place = live.state == wanted.state == "database"
    if not wanted.is_file or (kept_in_place and same):
        return
    mine = not kept_in_place or live.uid == os.geteuid() or os.geteuid() == 0
    if not mine or not may_own(wanted.uid, wanted.gid):
        raise RollbackError("path.owner", path=path)


def put_database(c: Component, staged: str, path: str, live: Facts, patience: Patience) -> list[str]:
    """Make the staged database the content of the live one, which is made when it is missing.

    Returns:
        A sentence when the live one was too damaged to be written to, and was moved away.

    Raises:
        RollbackError: it stayed locked, or cannot be written.
    """
    moved: list[str] = []
    if live.state == "database":
        try:
            touch(c, path, "write_back", patience, staged=staged)
        except IntegrityError as error:
            if error.key != "sqlite.damaged":
                raise
            moved = move_aside(c, path, msgspec.structs.replace(live, state="raw"), patience)
        else:
            return moved
    # SQLite removes a log or journal that it finds beside an empty database: it is not its own.
    _create_empty(c, path)
    touch(c, path, "write_back", patience, staged=staged)
    return moved


def _create_empty(c: Component, path: str) -> None:
    """Make the file that SQLite fills; until it has its own mode nobody else can read it."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        sync_folder(os.path.dirname(path))
    except OSError as error:
        raise refused(error, path, c.name) from error


def put_raw(c: Component, path: str, staged: str, facts: Facts) -> None:
    """Put back a file that was no database when it was captured: whole, in one rename.

    Raises:
        RollbackError: it cannot be written.
    """
    temporary = _temporary(path)
    try:
        _copy(staged, temporary)
        set_ownership(temporary, facts)
        os.rename(temporary, path)
        sync_folder(os.path.dirname(path))
    except OSError as error:
        raise refused(error, path, c.name) from error


def _temporary(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, TEMPORARY_PREFIX + name)


def move_aside(c: Component, path: str, live: Facts, patience: Patience) -> list[str]:
    """Move what stands in the place of the wanted state into the work folder.

    Returns:
        A sentence that says where to; none when there was nothing.

    Raises:
        RollbackError: it stayed locked, or cannot be moved.
    """
    if live.state == "database":
        # Its log would stay behind, and be taken for that of the next file of this name.
        touch(c, path, "set_journal", patience, wal=False)
    with suppress(FileNotFoundError):
        os.unlink(_temporary(path))  # of a `put_raw` that was killed
    folder = os.path.join(c.work, _DISPLACED, new_id())
    # The file itself goes last: until then a crash leaves the same case, and this is run again.
    standing = [name for name in (*(path + side for side in SIDES), path) if os.path.lexists(name)]
    if not standing:
        return []
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in standing:
            _move(name, os.path.join(folder, os.path.basename(name)))
        sync_folder(folder)
        sync_folder(os.path.dirname(path))
    except OSError as error:
        raise refused(error, path, c.name) from error
    return [f"What stood at {path} was moved to {folder}."]


def _move(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(old, new)
        os.unlink(old)


def _copy(old: str, new: str) -> None:
    source = os.open(old, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        target = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            offset = 0
            while chunk := os.pread(source, 1 << 20, offset):
                write_all(target, chunk, offset)
                offset += len(chunk)
            os.fsync(target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def set_ownership(path: str, facts: Facts) -> bool:
    """Give a file the recorded owner, group and mode; return whether any was another."""
    # O_PATH: closing it drops no locks, and the file cannot be swapped for a link between look and change.
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode, uid, gid = ownership(os.fstat(fd))
        if (mode, uid, gid) == (facts.mode, facts.uid, facts.gid):
            return False
        through = f"/proc/self/fd/{fd}"
        if (uid, gid) != (facts.uid, facts.gid):
            os.chown(through, facts.uid, facts.gid)
        os.chmod(through, facts.mode)
    finally:
        os.close(fd)
    return True


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
