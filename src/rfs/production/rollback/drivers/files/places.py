"""Where a component's tree is, and how its folders are opened without ever being led out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from rfs.production.rollback.drivers.files.options import STAGE_PREFIX, root_of
from rfs.production.rollback.drivers.files.reader import OPEN_FOLDER
from rfs.production.rollback.drivers.meta import put_times_back, reason, shown
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

# So many folders on the way to one are held open.
_MOST_HELD = 64
# Local ones. What a network or a program serves may keep folders' times as it likes.
_STEADY = {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs"}


class Place(NamedTuple):
    """Where a tree is.

    Attributes:
        path: as rfs.toml names it, absolute.
        link: its text when it is a link.
        real: the folder that holds the tree.
    """

    path: str
    link: bytes | None
    real: str


def locate(c: Component) -> Place:
    """Return where the live tree is.

    Raises:
        RollbackError: path.missing, or path.kind when it is no folder.
    """
    path = root_of(c)
    try:
        link = os.fsencode(os.readlink(path)) if os.path.islink(path) else None
        status = os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise RollbackError("path.missing", path=shown(path), component=c.name) from None
        raise RollbackError("path.unreadable", path=shown(path), component=c.name, why=reason(error)) from error
    if not stat.S_ISDIR(status.st_mode):
        raise RollbackError("path.kind", path=shown(path), component=c.name, found="no folder", wanted="a folder")
    return Place(path, link, os.path.realpath(path))


def place_wanted(c: Component, link: bytes | None) -> Place:
    """Return where a tree is to be restored: the live place, or where the captured link leads.

    Raises:
        RollbackError: path.unsafe, when the captured link would lead to a place that neither the
            live link nor the link's own folder speaks for.
    """
    path = root_of(c)
    if link is None:
        return Place(path, None, path if os.path.islink(path) else os.path.realpath(path))
    live = os.fsencode(os.readlink(path)) if os.path.islink(path) else None
    folder = os.path.realpath(os.path.dirname(path))
    target = os.path.realpath(os.path.join(folder, os.fsdecode(link)))
    if live != link:
        beside = os.path.dirname(os.path.realpath(path)) if live is not None else folder
        if os.path.dirname(target) != beside and not target.startswith(folder.rstrip("/") + "/"):
            raise RollbackError("path.unsafe", path=shown(target))
    return Place(path, link, target)


@contextlib.contextmanager
def opened(c: Component, path: str) -> Iterator[int]:
    """Open the folder of a tree.

    Raises:
        RollbackError: path.missing or path.unreadable.
    """
    try:
        fd = os.open(path, OPEN_FOLDER)
    except FileNotFoundError:
        raise RollbackError("path.missing", path=shown(path), component=c.name) from None
    except OSError as error:
        raise RollbackError("path.unreadable", path=shown(path), component=c.name, why=reason(error)) from error
    try:
        yield fd
    finally:
        os.close(fd)


class Folders:
    """Opens folders under a root by walking down, one name after the other, never through a link.

    The way down to the last one stays open for the next call, as work goes folder by folder.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._names: list[str] = []
        self._fds: list[int] = []
        self._deep = -1

    def open(self, path: str) -> int:
        """Return a descriptor of the folder at a path from the root; it is good until the next call.

        Raises:
            RollbackError: path.swapped, when something on the way is no folder, or no longer there.
            OSError: as the system calls do.
        """
        names = path.split("/") if path else []
        try:
            if len(names) > _MOST_HELD:
                return self._open_deep(names)
            shared = 0
            for name, held in zip(names, self._names, strict=False):
                if name != held:
                    break
                shared += 1
            self._close_from(shared)
            for name in names[shared:]:
                self._fds.append(os.open(name, OPEN_FOLDER, dir_fd=self._fds[-1] if self._fds else self._root))
                self._names.append(name)
        except OSError as error:
            self.close()
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
                raise RollbackError("path.swapped", path=shown(path)) from error
            raise
        return self._fds[-1] if self._fds else self._root

    def _open_deep(self, names: list[str]) -> int:
        """Walk down without holding the way, for which there might not be descriptors enough."""
        self.close()
        self._deep = os.dup(self._root)
        for name in names:
            child = os.open(name, OPEN_FOLDER, dir_fd=self._deep)
            os.close(self._deep)
            self._deep = child
        return self._deep

    def close(self) -> None:
        """Close what is still open."""
        self._close_from(0)
        if self._deep >= 0:
            os.close(self._deep)
            self._deep = -1

    def _close_from(self, depth: int) -> None:
        for fd in self._fds[depth:]:
            os.close(fd)
        del self._fds[depth:], self._names[depth:]


def _mounts() -> list[bytes]:
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            return file.read().splitlines()
    except OSError:
        return []


def steady_devices() -> frozenset[int]:
    """Return the devices of file systems on which no name comes or goes without the time of its folder changing."""
    found = set()
    for line in _mounts():
        before, _, after = line.partition(b" - ")
        if after.split(b" ")[0].decode() in _STEADY:
            major, _, minor = before.split(b" ")[2].partition(b":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def mount_points() -> list[str]:
    """Return every path at which something is mounted; empty where the system does not tell."""
    # Space, tab, newline and backslash are written as three octal digits.
    return [os.fsdecode(line.split(b" ")[4].decode("unicode_escape").encode("latin-1")) for line in _mounts()]


def mounts_under(real: str) -> list[str]:
    """Return the mount points inside a folder."""
    return sorted(path for path in mount_points() if path.startswith(real.rstrip("/") + "/"))


@contextlib.contextmanager
def times_kept(fd: int) -> Iterator[None]:
    """Put a folder's times back after names in it were changed."""
    before = os.fstat(fd)
    try:
        yield
    finally:
        put_times_back(fd, before)


def stage_folders(c: Component, real: str) -> list[str]:
    """Return where the stage of a tree may be, the better place first.

    Beside the root nothing live changes by staging. Inside it where the root is a mount
    point, as only there is the same file system, or where the folder above is not ours to write in.
    """
    from hashlib import sha256

    mark = sha256(os.fsencode(f"{c.name}\0{root_of(c)}")).hexdigest()[:8]
    readable = "".join(char if char.isalnum() or char in "-_" else "_" for char in c.name)[:100]
    name = f"{STAGE_PREFIX}{os.fsencode(readable).hex()[:40] if not readable.isascii() else readable}-{mark}"
    parent = os.path.dirname(real)
    inside = os.path.join(real, name)
    try:
        same = os.stat(parent).st_dev == os.stat(real).st_dev
    except OSError:
        same = True  # the root is to be made; it will be where its parent is
    if not same or real == "/" or real in mount_points() or not os.access(parent, os.W_OK | os.X_OK):
        return [inside]
    return [os.path.join(parent, name), inside]
