"""The content of one file of a tree or of the live folder, for a person to look at."""

from __future__ import annotations

import os
import stat
from contextlib import closing

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.drivers.files.places import Folders, locate, opened
from rfs.production.rollback.drivers.files.tree import NONE, Tree
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component


def stored(tree: Tree, source: BlobSource, path: str, most: int) -> bytes | None:
    """Return what a file held; None when it is no file, is longer than `most` bytes, or has holes.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    entry = None if tree.absent else tree.find(path)
    if entry is None or not entry.is_file or entry.size > most or entry.chunks:
        return None
    return source.get(entry.blob) if entry.blob != NONE else b""


def live(c: Component, path: str, most: int) -> bytes | None:
    """Return what a file holds now; None as for `stored`, and when it cannot be read. No link is followed."""
    folder, _, name = path.rpartition("/")
    try:
        with opened(c, locate(c).real) as root, closing(Folders(root)) as folders:
            # Without waiting: a pipe in its place must not hold whoever only looks.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(name, flags, dir_fd=folders.open(folder)), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_size > most:
                    return None
                return file.read(most)
    except (RollbackError, OSError):
        return None
