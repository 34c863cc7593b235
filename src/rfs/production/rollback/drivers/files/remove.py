"""Removing a tree for good: never through a link, whatever modes and flags are in the way."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading

from rfs.production.rollback.drivers.files.reader import OPEN_FOLDER
from rfs.production.rollback.drivers.meta import TEMPORARY_PREFIX, unlock

# Deeper folders are first moved up, so that neither descriptors nor the interpreter's stack run out.
_DEPTH = 64

# Each removal may wait for a disk that is told what is free (mount option discard), or for a network:
# from so many files on, some wait together.
_MANY = 256
_AT_ONCE = 4


def remove_tree(dir_fd: int, name: str) -> None:
    """Remove an entry of an open folder, with all that is in it. What is not there is no error.

    Raises:
        OSError: EBUSY something is mounted in it; and as the system calls do.
    """
    waiting = [name]
    device = os.fstat(dir_fd).st_dev
    while waiting:
        _remove(dir_fd, waiting.pop(), 0, (dir_fd, device), waiting)


def _remove(dir_fd: int, name: str, depth: int, top: tuple[int, int], waiting: list[str]) -> None:
    try:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        _unlink(dir_fd, name)
        return
    if status.st_dev != top[1]:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
    if depth >= _DEPTH:
        moved = f"{TEMPORARY_PREFIX}deep-{status.st_ino}"
        os.rename(name, moved, src_dir_fd=dir_fd, dst_dir_fd=top[0])
        waiting.append(moved)
        return
    fd = _open_wide(dir_fd, name)
    try:
        with os.scandir(fd) as listing:
            folder_of = {child.name: child.is_dir(follow_symlinks=False) for child in listing}
        _unlink_all(fd, [child for child, is_folder in folder_of.items() if not is_folder])
        for child in [child for child, is_folder in folder_of.items() if is_folder]:
            _remove(fd, child, depth + 1, top, waiting)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)


def _open_wide(dir_fd: int, name: str) -> int:
    """Open a folder such that names can be removed from it."""
    try:
        fd = os.open(name, OPEN_FOLDER, dir_fd=dir_fd)
    except PermissionError:
        path = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            os.chmod(f"/proc/self/fd/{path}", 0o700)
        finally:
            os.close(path)
        fd = os.open(name, OPEN_FOLDER, dir_fd=dir_fd)
    unlock(fd)
    if os.geteuid() != 0:
        with contextlib.suppress(PermissionError):  # then removing says so
            os.chmod(fd, 0o700)
    return fd


def _unlink_all(dir_fd: int, names: list[str]) -> None:
    if len(names) < _MANY:
        for name in names:
            _unlink(dir_fd, name)
        return
    failures: list[BaseException] = []

    def unlink(first: int) -> None:
        try:
            for name in names[first::_AT_ONCE]:
                _unlink(dir_fd, name)
        except BaseException as failure:  # a thread has nobody to raise it to: it is raised below
            failures.append(failure)

    threads = [threading.Thread(target=unlink, args=(first,)) for first in range(_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _unlink(dir_fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            unlock(fd)
        finally:
            os.close(fd)
        os.unlink(name, dir_fd=dir_fd)
