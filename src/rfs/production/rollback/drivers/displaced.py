"""What stands in the place of a component's file and is none that can be read: it is set aside, never touched inside.

A folder, a FIFO, a device or a file that this user may not read is the state before a rollback like any
other. Nothing of it can be captured but which one it is, so that it is moved aside, beside the file, and back.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from rfs.production.rollback.driver import Finding
from rfs.production.rollback.drivers.meta import TEMPORARY_PREFIX, put_times_back, refused, shown
from rfs.production.rollback.errors import RollbackError

_PREFIX = TEMPORARY_PREFIX + "displaced-"


def kind_of(found: os.stat_result) -> str:
    """Return in words what an lstat is of."""
    if stat.S_ISREG(found.st_mode):
        return "a file that cannot be read"
    if stat.S_ISLNK(found.st_mode):
        return "a symbolic link"
    return "a folder" if stat.S_ISDIR(found.st_mode) else "a special file"


def identity(found: os.stat_result) -> bytes:
    """Return what tells this from anything else that may stand there: what it is, and its inode."""
    return f"{kind_of(found)}\0{found.st_ino}".encode()


def label(data: bytes) -> str:
    """Return the words of an `identity`."""
    return data.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def set_aside(path: str, component: str) -> str:
    """Move what stands at `path` aside, durably; return a sentence that says where to.

    Raises:
        RollbackError: path.unwritable.
    """
    folder, name = os.path.split(path)
    try:
        aside = os.path.join(folder, f"{_PREFIX}{os.lstat(path).st_ino}")
        _move(folder, name, os.path.basename(aside))
    except OSError as error:
        raise refused(error, path, component) from error
    return f"What stood at {shown(path)} was moved to {shown(aside)}; remove it when nobody needs it."


def put_back(path: str, data: bytes, component: str) -> None:
    """Move what was set aside back to `path`, where nothing is, durably.

    Args:
        data: its `identity`.

    Raises:
        RollbackError: path.displaced, it is gone; path.unwritable.
    """
    folder, name = os.path.split(path)
    aside = _PREFIX + data.rpartition(b"\0")[2].decode("ascii", "replace")
    try:
        found = os.lstat(os.path.join(folder, aside))
        if identity(found) != data:
            raise FileNotFoundError
        _move(folder, aside, name)
    except FileNotFoundError:
        raise RollbackError("path.displaced", path=shown(path), component=component, what=label(data)) from None
    except OSError as error:
        raise refused(error, path, component) from error


def left(path: str) -> Iterator[Finding]:
    """Yield what rollbacks set aside beside `path` and is still there: nobody but a person knows when it may go."""
    folder = os.path.dirname(path)
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if name.startswith(_PREFIX):
                text = f"What a rollback set aside is still there: {shown(os.path.join(folder, name))}."
                yield Finding("warning", text, "Remove it when nobody needs it; until then `rfs undo` can put it back.")


def _move(folder: str, old: str, new: str) -> None:
    """Rename within a folder, which keeps its times."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        before = os.fstat(fd)
        os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
        put_times_back(fd, before)
        os.fsync(fd)
    finally:
        os.close(fd)


def lacking(path: str) -> bytes:
    """Return the nearest folder above `path` that is there, when the one that it lies in is not; else nothing."""
    folder = above = os.path.dirname(path)
    while not os.path.isdir(above) and above != "/":
        above = os.path.dirname(above)
    return b"" if above == folder else os.fsencode(above)


def make_folders(path: str, component: str) -> list[str]:
    """Make the folder that `path` lies in when it is not there; return a sentence that says so, if it was made.

    Raises:
        RollbackError: path.unwritable.
    """
    folder, there = os.path.dirname(path), os.fsdecode(lacking(path))
    if not there:
        return []
    try:
        os.makedirs(folder, exist_ok=True)
        made = folder
        while made != there:
            made = os.path.dirname(made)
            fd = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    except OSError as error:
        raise refused(error, path, component) from error
    return [f"The folder {shown(folder)} was not there: it was made, with the usual owner and mode."]


def remove_folders(path: str, there: bytes) -> None:
    """Remove the empty folders above `path`, up to one that was there."""
    folder, top = os.path.dirname(path), os.fsdecode(there)
    # One that is not empty is somebody's.
    with suppress(OSError):
        while folder.startswith(top.rstrip("/") + "/"):
            os.rmdir(folder)
            folder = os.path.dirname(folder)
