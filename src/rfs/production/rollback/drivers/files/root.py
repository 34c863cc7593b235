"""The root itself: made, taken out, or, where it is a link, turned to another folder."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

import msgspec

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.drivers.files import manifest
from rfs.production.rollback.drivers.files.places import Place, times_kept
from rfs.production.rollback.drivers.files.stage import Stage
from rfs.production.rollback.drivers.files.system import move
from rfs.production.rollback.drivers.files.tree import Tree
from rfs.production.rollback.drivers.meta import TEMPORARY_PREFIX, refused, unlock
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

_PLACES = "files.places"
_BROUGHT = "files.brought"


def link_of(path: str) -> bytes | None:
    """Return the text of a link, or None when there is none."""
    try:
        return os.fsencode(os.readlink(path))
    except OSError:
        return None


@contextlib.contextmanager
def _parent(c: Component, path: str) -> Iterator[tuple[int, str]]:
    """Open the folder above a root; its times come back and it is durable afterwards."""
    try:
        fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with times_kept(fd):
                yield fd, os.path.basename(path)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise refused(error, path, c.name) from error


def make_folder(c: Component, place: Place) -> None:
    """Make the root when it is missing; a link in its place goes.

    Raises:
        RollbackError: path.unwritable.
    """
    if os.path.isdir(place.real) and not os.path.islink(place.real):
        return
    with _parent(c, place.real) as (fd, name):
        if link_of(place.real) is not None:
            os.unlink(name, dir_fd=fd)
        os.mkdir(name, 0o700, dir_fd=fd)


def take_out(c: Component, place: Place, key: str, live: Tree) -> int:
    """Take the whole root away to the stage; return how much changed.

    Raises:
        RollbackError: path.unwritable or path.mounted.
    """
    if live.absent:
        return 0
    _move_out(c, place.real, key)
    return 1


def _move_out(c: Component, real: str, key: str) -> None:
    with Stage.opened(c, real, key) as stage, _parent(c, real) as (fd, name):
        root = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            unlock(root)
        finally:
            os.close(root)
        out, free = stage.park()
        move(fd, name, out, free)


def set_link(c: Component, path: str, link: bytes | None, key: str) -> int:
    """Make the root the wanted link, in one step; return how much changed. Without a wanted link nothing does.

    Raises:
        RollbackError: path.unwritable.
    """
    if link is None or link == link_of(path):
        return 0
    if os.path.lexists(path) and stat.S_ISDIR(os.lstat(path).st_mode):
        _move_out(c, path, key)
    with _parent(c, path) as (fd, name):
        temporary = TEMPORARY_PREFIX + "link"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=fd)
        os.symlink(link, os.fsencode(temporary), dir_fd=fd)
        os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
    return 1


def remember(c: Component, real: str) -> None:
    """Note where a stage may be, as the live link may lead elsewhere when it is to be removed."""
    known = remembered(c)
    if real in known:
        return
    with contextlib.suppress(OSError):  # a note that is lost leaves a folder behind, no more
        os.makedirs(c.work, mode=0o700, exist_ok=True)
        with open(os.path.join(c.work, _PLACES), "wb") as file:
            file.write(msgspec.msgpack.encode(sorted(os.fsencode(path) for path in {*known, real})))


def remembered(c: Component) -> set[str]:
    """Return where stages may be."""
    try:
        with open(os.path.join(c.work, _PLACES), "rb") as file:
            return {os.fsdecode(path) for path in msgspec.msgpack.decode(file.read(), type=list[bytes])}
    except (OSError, msgspec.DecodeError):
        return set()


def note_brought(c: Component, parts: tuple[bytes, ...]) -> None:
    """Note, durably, which state is brought back where no root is: the way back may take that away again.

    Raises:
        RollbackError: the private folder cannot be written.
    """
    path = os.path.join(c.work, _BROUGHT)
    try:
        os.makedirs(c.work, mode=0o700, exist_ok=True)
        with open(path + ".new", "wb") as file:
            file.write(msgspec.msgpack.encode(parts))
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".new", path)
        folder = os.open(c.work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise refused(error, path, c.name) from error


def brought(c: Component, source: BlobSource) -> Tree | None:
    """Return the state that was last brought back where no root was, or None when it is not known, or no longer."""
    try:
        with open(os.path.join(c.work, _BROUGHT), "rb") as file:
            parts = msgspec.msgpack.decode(file.read(), type=tuple[bytes, ...])
    except (OSError, msgspec.DecodeError):
        return None
    if not all(source.has(part) for part in parts):
        return None  # its checkpoint is gone, so that nothing vouches for what is kept
    try:
        return manifest.read(parts, source)
    except RollbackError:  # damaged: to keep what is there is always right
        return None
