"""Real blocks for a file, so that nobody else can have them."""

from __future__ import annotations

import errno
import os


def allocate(path: str, size: int, dir_fd: int | None = None) -> None:
    """Give the file at `path` (made when missing) `size` bytes of the disk, where the file system can do that.

    Args:
        dir_fd: an open folder that `path` is relative to.

    Raises:
        OSError: it cannot be written, or there is no room; then there is no such file.
    """
    import ctypes

    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=dir_fd)
    try:
        # Not os.posix_fallocate: where the file system cannot, that writes to every block.
        if ctypes.CDLL(None, use_errno=True).fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(size)):
            number = ctypes.get_errno()
            os.unlink(path, dir_fd=dir_fd)
            if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(number, os.strerror(number), path)
    finally:
        os.close(fd)
