"""Space set aside, while there is no outage, for the private copies that are made in one.

A restore and its check compare a copy of the live database. On a disk that fills up while the
services are stopped there would be none, neither forward nor on the way back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rfs.production.rollback.drivers.allocating import allocate
from rfs.production.rollback.drivers.meta import refused
from rfs.production.rollback.model import Component

_FILE = "room"
# A writer may add to the database until it is stopped.
_MORE = 1 << 20


def there(c: Component) -> bool:
    """Tell whether space is set aside."""
    return os.path.exists(_path(c))


def make(c: Component, live: int, want: int) -> None:
    """Set aside what the copies take that are made on the way forward, or on the way back.

    On the way back the staged copy of what was wanted is removed; the state before is staged, and
    one more copy is made to compare.

    Args:
        live: bytes of the live database.
        want: bytes of what is staged.

    Raises:
        RollbackError: store.no_space, or the work folder cannot be written.
    """
    try:
        os.makedirs(c.work, mode=0o700, exist_ok=True)
        allocate(_path(c), 2 * max(live, want) - want + _MORE)
    except OSError as error:
        raise refused(error, _path(c), c.name) from error


@contextmanager
def lent(c: Component) -> Iterator[None]:
    """Give the space that is set aside to what the block writes, and take it back at the end."""
    path = _path(c)
    try:
        size = os.stat(path).st_size
        os.unlink(path)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        # Whoever comes next finds out what it means that there is none left.
        with suppress(OSError):
            allocate(path, size)


def release(c: Component) -> None:
    """Give the space back to the disk.

    Raises:
        RollbackError: the work folder cannot be written.
    """
    try:
        with suppress(FileNotFoundError):
            os.unlink(_path(c))
    except OSError as error:
        raise refused(error, _path(c), c.name) from error


def _path(c: Component) -> str:
    return os.path.join(c.work, _FILE)
