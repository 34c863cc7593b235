"""Space set aside on the tree's own disk, before the outage, for a way back out of it.

What a rollback takes away is made anew when it turns back. On a disk that fills up meanwhile there would be no room
for that, and whatever lies in the tree (settings, a database) could not be written either.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress

from rfs.production.rollback.drivers.allocating import allocate
from rfs.production.rollback.drivers.files.compare import Task, Verb
from rfs.production.rollback.drivers.files.places import stage_folders
from rfs.production.rollback.drivers.files.tree import Tree
from rfs.production.rollback.drivers.meta import refused, shown
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

_PREFIX = "room-"
_BLOCK = 4096
# Names, lists, and what was written late.
_MORE = 1 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def needed(tasks: Iterable[Task], live: Tree) -> int:
    """Return how many bytes it takes to make anew what these tasks take away or replace."""
    size = _MORE
    for task in tasks:
        if task.live is None or task.verb is Verb.DESCRIBE:
            continue
        size += _rounded(task.live.size)
        for folder in live.inside(task.path) if task.live.is_folder else ():
            block = live.blocks[folder]
            size += sum(_rounded(block.entry(at).size) for at in range(len(block)))
    return size


def _rounded(size: int) -> int:
    return (size + _BLOCK - 1) // _BLOCK * _BLOCK + _BLOCK


def make(c: Component, real: str, key: str, size: int) -> None:
    """Set `size` bytes aside in the stage, which is there; and what else lies in the tree once more, if there is room.

    Raises:
        RollbackError: path.no_room, or the stage cannot be written.
    """
    base = _base(c, real)
    if base is None:
        return
    path = os.path.join(base, _PREFIX + key)
    others = 0
    for each in c.carved:
        with suppress(OSError):
            others += os.lstat(each).st_size
    try:
        with suppress(OSError):
            allocate(path, size + others)
            return
        allocate(path, size)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise refused(error, path, c.name) from error
        state = os.statvfs(base)
        free = f"{state.f_bavail * state.f_frsize / 1e6:.1f} MB"
        raise RollbackError("path.no_room", path=shown(real), needed=f"{size / 1e6:.1f} MB", free=free) from error


def give_up(c: Component, real: str, but: str) -> None:
    """Give back to the disk what was set aside on the way to another state than `but`: it is needed now."""
    base = _base(c, real)
    for name in os.listdir(base) if base is not None else ():
        if name.startswith(_PREFIX) and name != _PREFIX + but:
            with suppress(OSError):
                os.unlink(os.path.join(base or "", name))


def is_first(c: Component, real: str) -> bool:
    """Tell whether nothing was staged yet."""
    return _base(c, real) is None


def _base(c: Component, real: str) -> str | None:
    return next((path for path in stage_folders(c, real) if os.path.isdir(path)), None)
