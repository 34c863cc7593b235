"""Durable file operations, and the translation of their failures into sentences.

Everything here goes through plain `os` calls, so that a fault injected below libc
meets exactly the calls that a real disk would fail.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rfs.production.rollback.errors import RollbackError

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_DISK_FAULTS = _NO_SPACE | {errno.EIO, errno.EROFS}


def storage_error(error: OSError, path: str) -> RollbackError:
    """Return the error a user should see when writing at `path` failed with `error`."""
    if error.errno in _NO_SPACE:
        return RollbackError("store.no_space", path=path)
    return RollbackError("store.unwritable", path=path, why=error.strerror or str(error))


@contextmanager
def disk_faults_told() -> Iterator[None]:
    """A disk that is full or fails is no bug, also where a driver only meant to make a note for itself."""
    try:
        yield
    except OSError as fault:
        if fault.errno not in _DISK_FAULTS:
            raise
        raise storage_error(fault, str(fault.filename or "the disk")) from fault


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn an OSError inside the block into store.no_space or store.unwritable of `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn an OSError inside the block into store.unreadable of `path`."""
    try:
        yield
    except OSError as error:
        raise RollbackError("store.unreadable", path=path, why=error.strerror or str(error)) from error


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` at the descriptor's position; a short write is continued."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def read_whole(path: str) -> bytes:
    """Return the content of a small file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(fd, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def sync_folder(path: str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: str, data: bytes, *, replace: bool) -> None:
    """Write a small private file so that after a crash it is there whole or not at all.

    Args:
        replace: take the place of an existing file; otherwise an existing one is an error.

    Raises:
        FileExistsError: there is one, and `replace` is False.
        OSError: it could not be written; the old file, if any, is untouched.
    """
    draft = f"{path}.{os.urandom(4).hex()}.new"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        if replace:
            os.rename(draft, path)
        else:
            # link() refuses an existing name; rename() would silently take a key's place.
            os.link(draft, path)
            os.unlink(draft)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise
    sync_folder(os.path.dirname(path) or ".")


def make_private(path: str) -> None:
    """Make a folder that only this user can enter, durably, when it is missing."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    os.mkdir(path, PRIVATE_FOLDER)
    sync_folder(parent)
