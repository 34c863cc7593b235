"""Space set aside on the tree's own disk, before the outage, for a way back out of it.

What a rollback takes away is made anew when it turns back. On a disk that fills up meanwhile there would be no room
for that, and whatever lies in the tree (settings, a database) could not be written either.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from rfs.production.rollback.drivers.allocating import allocate
from rfs.production.rollback.drivers.files.compare import Task, Verb
from rfs.production.rollback.drivers.files.places import stage_folders
from rfs.production.rollback.drivers.files.reader import OPEN_FOLDER
from rfs.production.rollback.drivers.files.tree import Tree, join
from rfs.production.rollback.drivers.meta import refused, shown
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

_PREFIX = "room-"
_BLOCK = 4096
# Names, lists, and what was written late.
_MORE = 1 << 20
_LARGE = 1 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def needed(tasks: Iterable[Task], live: Tree, real: str) -> int:
    """Return how many bytes it takes to make anew what these tasks take away or replace in the tree at `real`."""
    size = _MORE
    for task in tasks:
        if task.live is None or task.verb is Verb.DESCRIBE:
            continue
        size += _taken(task.live.size, real, task.path)
        for folder in live.inside(task.path) if task.live.is_folder else ():
            block = live.blocks[folder]
            size += sum(_taken(block.entry(at).size, real, join(folder, n)) for at, n in enumerate(block.listed()))
    return size


def _taken(size: int, real: str, path: str) -> int:
    if size > _LARGE:
        # It may be sparse; of all others nobody needs to ask the disk.
        with suppress(OSError):
            size = min(size, os.lstat(os.path.join(real, path)).st_blocks * 512)
    return (size + _BLOCK - 1) // _BLOCK * _BLOCK + _BLOCK


def make(c: Component, real: str, key: str, size: int) -> None:
    """Set `size` bytes aside in the stage, which is there; and what else lies in the tree once more, if there is room.

    Raises:
        RollbackError: path.no_room, or the stage cannot be written.
    """
    others = 0
    for each in c.carved:
        with suppress(OSError):
            others += os.lstat(each).st_size
    with _opened(c, real) as base:
        if base is None:
            return
        try:
            with suppress(OSError):
                allocate(_PREFIX + key, size + others, base)
                return
            allocate(_PREFIX + key, size, base)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise refused(error, real, c.name) from error
            state = os.fstatvfs(base)
            free = f"{state.f_bavail * state.f_frsize / 1e6:.1f} MB"
            raise RollbackError("path.no_room", path=shown(real), needed=f"{size / 1e6:.1f} MB", free=free) from error


def give_up(c: Component, real: str, but: str) -> None:
    """Give back to the disk what was set aside on the way to another state than `but`: it is needed now."""
    with _opened(c, real) as base:
        for name in os.listdir(base) if base is not None else ():
            if name.startswith(_PREFIX) and name != _PREFIX + but:
                with suppress(OSError):
                    os.unlink(name, dir_fd=base)


def is_first(c: Component, real: str) -> bool:
    """Tell whether nothing was staged yet."""
    with _opened(c, real) as base:
        return base is None


@contextmanager
def _opened(c: Component, real: str) -> Iterator[int | None]:
    """Yield the stage's folder, open; None when there is none. A link in its place is never followed."""
    base: int | None = None
    for path in stage_folders(c, real):
        with suppress(OSError):
            base = os.open(path, OPEN_FOLDER)
            break
    try:
        yield base
    finally:
        if base is not None:
            os.close(base)
