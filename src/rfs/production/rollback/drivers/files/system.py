"""Linux calls that Python's os module lacks, through the C library."""

from __future__ import annotations

import errno
import functools
import os
from typing import Any

_NO_REPLACE = 1
_EXCHANGE = 2


class _Library:
    """The two calls, as functions that return 0 or an errno; None where the C library has none."""

    def __init__(self) -> None:
        # Importing ctypes costs some milliseconds, and only restores need it.
        import ctypes

        self._library = library = ctypes.CDLL(None, use_errno=True)
        self._errno = ctypes.get_errno
        self._renameat2: Any = getattr(library, "renameat2", None)
        self._syncfs: Any = getattr(library, "syncfs", None)
        if self._renameat2 is not None:
            text, number = ctypes.c_char_p, ctypes.c_int
            self._renameat2.argtypes = (number, text, number, text, ctypes.c_uint)

    def rename(self, source: int, name: bytes, target: int, new_name: bytes, flags: int) -> int:
        if self._renameat2 is None:
            return errno.ENOSYS
        return self._errno() if self._renameat2(source, name, target, new_name, flags) else 0

    def sync(self, fd: int) -> int:
        if self._syncfs is None:
            os.sync()
            return 0
        return self._errno() if self._syncfs(fd) else 0


@functools.cache
def _library() -> _Library:
    return _Library()


def _rename(source: int, name: str, target: int, new_name: str, flags: int) -> None:
    number = _library().rename(source, os.fsencode(name), target, os.fsencode(new_name), flags)
    if number:
        raise OSError(number, os.strerror(number), name, None, new_name)


def exchange(source: int, name: str, target: int, new_name: str) -> None:
    """Swap two entries in open folders, atomically: at every moment both names are there.

    Raises:
        OSError: ENOENT one is missing, EXDEV they are on different file systems, EBUSY one is a
            mount point, EINVAL or ENOSYS the system cannot do this.
    """
    _rename(source, name, target, new_name, _EXCHANGE)


def move(source: int, name: str, target: int, new_name: str) -> None:
    """Move an entry to a name that must be free.

    Raises:
        OSError: EEXIST it is taken; and as `exchange`.
    """
    try:
        _rename(source, name, target, new_name, _NO_REPLACE)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        # The file system cannot refuse to replace by itself. Nobody else writes here: writers are stopped.
        try:
            os.stat(new_name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name) from None


def sync_file_system(fd: int) -> None:
    """Write out everything of the file system that an open file or folder lies on.

    Raises:
        OSError: as the system call does, an I/O error too.
    """
    number = _library().sync(fd)
    if number:
        raise OSError(number, os.strerror(number))
