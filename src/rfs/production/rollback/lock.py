"""One operation per application at a time, across processes.

An open-file-description lock: it goes with its holder, so a dead one blocks nobody; closing
another descriptor of the file does not drop it, as it does with POSIX locks; and it can be
asked about without taking it, as a BSD lock cannot. The descriptor is close-on-exec, or a
service started by an operation would inherit the lock. Who holds it is written into the
file, for people only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import msgspec

from rfs.production.rollback.errors import LockedError, RollbackError
from rfs.production.rollback.model import storable

POLL_SECONDS = 0.05
# struct flock: type, whence, start, length (0: to the end), pid (must be 0 for this kind of lock).
_FLOCK = "hhqqi4x"
_WHOLE_FILE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_NOTHING_OF_IT = struct.pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)


@contextmanager
def exclusive(path: str, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock at `path` while the block runs.

    Args:
        path: the lock file; made when missing.
        what: the operation, shown to those who find it locked.
        wait: seconds to wait for another holder.

    Raises:
        LockedError: it is held by another process; the text names it.
        RollbackError: the lock file cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RollbackError("store.unwritable", path=path, why=error.strerror) from error
    try:
        _acquire(descriptor, path, time.monotonic() + wait)
        try:
            _describe(descriptor, what)
            yield
        finally:
            with suppress(OSError):  # else the next holder would pass for this one until it has described itself
                os.ftruncate(descriptor, 0)
            # Not left to the closing: a command that another thread is just starting has a copy until it runs.
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _NOTHING_OF_IT)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: str, deadline: float) -> None:
    while True:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise RollbackError("store.unwritable", path=path, why=error.strerror) from error
            if time.monotonic() >= deadline:
                raise LockedError("lock.held", holder=holder(path) or "one that has just ended") from None
            # A lock has no timed wait without SIGALRM, and that belongs to the application that embeds us.
            time.sleep(POLL_SECONDS)
        else:
            return


def _describe(descriptor: int, what: str) -> None:
    words = {
        "what": what,
        "pid": os.getpid(),
        "host": storable(os.uname().nodename),
        "user": actor(),
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "boot_id": boot_id(),
    }
    text = msgspec.json.encode(words)
    # Only for people: a full disk must not keep an operation from freeing space, or from recovering.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)


def holder(path: str) -> str:
    """Return who holds the lock at `path` now, as a phrase, or "" when nobody does."""
    try:
        with open(path, "rb") as file:
            asked = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _WHOLE_FILE)
            if struct.unpack(_FLOCK, asked)[0] == fcntl.F_UNLCK:
                return ""
            words = msgspec.json.decode(file.read())
    except OSError:
        return ""
    except msgspec.DecodeError:
        return "an operation that has just begun"
    return f"{words['what']} by {words['user']} on {words['host']} (process {words['pid']}, since {words['since']})"


def actor() -> str:
    """Return who runs this: the user behind sudo, where there is one."""
    if "SUDO_USER" in os.environ:
        return storable(os.environ["SUDO_USER"])
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def boot_id() -> str:
    """Return the kernel's id of this boot, or "" where it has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
