"""Walking through folders: each is listed, compared with what is known, and read where it differs.

Everything is opened by name in an open folder, never through a link, so that what is
swapped meanwhile cannot lead out of the root.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Collection, Iterator, Mapping
from operator import attrgetter
from typing import NamedTuple

import msgspec

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.drivers.files.bulk import stamp_of
from rfs.production.rollback.drivers.files.columns import Before, Folder
from rfs.production.rollback.drivers.files.options import Rules
from rfs.production.rollback.drivers.files.reader import OPEN_FOLDER, Reader
from rfs.production.rollback.drivers.files.tree import (
    MODE,
    ROW,
    Block,
    empty_block,
    folders_at,
    join,
    pack_rows,
    row_of,
    seal,
)
from rfs.production.rollback.drivers.meta import shown
from rfs.production.rollback.errors import RollbackError

_name_of = attrgetter("name")
# More folders than this are never held open at once; deeper ones are reached again by "..".
_HELD = 96


class Known(NamedTuple):
    """What is known from an earlier look.

    Attributes:
        blocks: by path.
        held_parts: parts of which the store surely still has everything.
        same_rules: whether it was made with the present rules.
        held: further folders of which the store was found to have everything.
        steady: the devices whose folders need not be listed again while their own times stand.
    """

    blocks: dict[str, Block]
    held_parts: frozenset[int] = frozenset()
    same_rules: bool = True
    held: frozenset[str] = frozenset()
    steady: frozenset[int] = frozenset()

    def before(self, path: str, *, storing: bool) -> Before:
        """Return what is known of one folder."""
        old = self.blocks.get(path)
        return Before(old, held=not storing or (old is not None and self.holds(path, old)))

    def holds(self, path: str, old: Block) -> bool:
        """Tell whether the store surely has everything of one folder."""
        return old.part in self.held_parts or path in self.held


class _Frame:
    """A folder that is being walked through. Its descriptor may be closed while it waits far above."""

    __slots__ = ("counted", "fd", "identity", "path", "status", "waiting")

    def __init__(self, fd: int, path: str, *, counted: bool) -> None:
        status = os.fstat(fd)
        self.fd, self.path, self.counted = fd, path, counted
        self.waiting: list[str] = []
        self.identity = (status.st_dev, status.st_ino)
        self.status = status


class _Listed(NamedTuple):
    """What is in a folder: sorted names joined by NUL, their rows, whether something was left out, its stamp if any."""

    names: bytes
    rows: bytes
    left_out: bool
    stamp: bytes = b""


class Walker:
    """Walks through folders, each with all that is in it.

    Args:
        rules: what is left out and what is kept.
        known: what an earlier look found.
        reader: looks closely where something differs.
        put_off: whether differing folders are only listed, to be read later.
        elsewhere: folders that nobody needs to walk through here.
        told: rows of the entries that folders had when they were asked about a moment ago.
        pulse: told of each folder.

    Attributes:
        blocks: what was found, by path; those that did not change are the known ones themselves.
        listed: what was put off.
        devices: file systems of the folders, by path.
    """

    def __init__(
        self,
        rules: Rules,
        known: Known,
        reader: Reader,
        *,
        rehash: bool = False,
        put_off: bool = False,
        elsewhere: Collection[str] = frozenset(),
        told: Mapping[str, bytes] | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self._rules, self._known, self._reader = rules, known, reader
        self._rehash, self._put_off, self._elsewhere, self._pulse = rehash, put_off, elsewhere, pulse
        self._told = {} if told is None else told
        self.blocks: dict[str, Block] = {}
        self.listed: list[Folder] = []
        self.devices: dict[str, int] = {}

    def walk(self, root: int, path: str, *, counted: bool) -> None:
        """Walk through a folder; see `steps`."""
        for _ in self.steps(root, path, counted=counted):
            pass

    def steps(self, root: int, path: str, *, counted: bool) -> Iterator[None]:
        """Walk through a folder, with a pause after each one in it.

        Args:
            root: it, open; it is closed here.
            path: its path from the component's root.
            counted: False when it lies in one that matches `keep`.

        Raises:
            RollbackError: path.unreadable, path.changing, or what the pulse raises.
        """
        stack = [self._enter(root, path, counted=counted)]
        try:
            yield
            while stack:
                frame = stack[-1]
                if frame.waiting:
                    name = frame.waiting.pop()
                    child = self._descend(frame, name)
                    if child is not None:
                        stack.append(child)
                        yield
                        far = stack[-_HELD] if len(stack) >= _HELD else None
                        if far is not None and far.fd >= 0:
                            os.close(far.fd)
                            far.fd = -1
                    continue
                if len(stack) > 1 and stack[-2].fd < 0:
                    self._reopen(stack[-2], frame.fd)
                os.close(frame.fd)
                stack.pop()
        finally:
            for frame in stack:
                if frame.fd >= 0:
                    os.close(frame.fd)

    def _reopen(self, frame: _Frame, child: int) -> None:
        frame.fd = os.open("..", OPEN_FOLDER, dir_fd=child)
        status = os.fstat(frame.fd)
        if (status.st_dev, status.st_ino) != frame.identity:
            raise RollbackError("path.changing", path=shown(frame.path))

    def _descend(self, frame: _Frame, name: str) -> _Frame | None:
        path = join(frame.path, name)
        if path in self._elsewhere:
            return None
        try:
            fd = os.open(name, OPEN_FOLDER, dir_fd=frame.fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                # It went away, or became something else, after its parent was looked at.
                self.blocks[path] = seal(empty_block())
                return None
            raise self._reader.unreadable(path, error) from error
        counted = frame.counted and not self._rules.keep.match(frame.path, name, is_folder=True)
        return self._enter(fd, path, counted=counted)

    def _enter(self, fd: int, path: str, *, counted: bool) -> _Frame:
        try:
            frame = _Frame(fd, path, counted=counted)
            frame.waiting = self._look(frame)
        except BaseException:  # an interruption too must not leak the folder
            os.close(fd)
            raise
        return frame

    # — one folder —

    def _look(self, frame: _Frame) -> list[str]:
        """Look at a folder; return the names of the folders in it, last one first."""
        fd, path = frame.fd, frame.path
        self.devices[path] = frame.identity[0]
        old = self._known.blocks.get(path)
        usable = old is not None and self._may_be_taken_over(old, frame)
        told = None
        try:
            stamp = stamp_of(frame.status)
            if old is not None and usable and old.stamp == stamp and self._is_steady(frame):
                # As the folder's own times stand, no name came or went.
                told = self._told.get(path)
                if told is None:
                    told = self._reader.bulk.rows(fd, old.names)
                if told == old.rows:
                    return self._found(path, old)
            listed = self._list_at_once(frame, stamp, old, told) or self._list_singly(fd, path)
        except OSError as error:
            raise self._reader.unreadable(path, error) from error
        names, rows, left_out, seen = listed
        loose = left_out or path in self._rules.carved
        if old is not None and usable and old.rows == rows and old.names == names:
            loose = loose or bool(old.kept)
            block, seen = old, b"" if loose else seen
            if (old.loose, old.sheltering, old.stamp) != (loose, left_out, seen):
                block = msgspec.structs.replace(old, loose=loose, sheltering=left_out, stamp=seen)
        else:
            folder = Folder(path, names, rows, frame.counted, left_out, loose, seen)
            if self._put_off:
                self.listed.append(folder)
                return _folders(folder)
            block = seal(self._reader.block(fd, folder, self._before(path)))
        return self._found(path, block)

    def _found(self, path: str, block: Block) -> list[str]:
        self.blocks[path] = block
        if self._pulse is not None:
            self._pulse.tick(len(block))
        return block.folders()[::-1]

    def _before(self, path: str) -> Before:
        return self._known.before(path, storing=self._reader.sink is not None)

    def _may_be_taken_over(self, old: Block, frame: _Frame) -> bool:
        """Tell whether a folder may be taken as it is known, should it not have changed."""
        return (
            old.counted == frame.counted
            and self._known.same_rules
            and not self._rehash
            and (self._reader.sink is None or self._known.holds(frame.path, old))
        )

    def _list_at_once(self, frame: _Frame, stamp: bytes, old: Block | None, rows: bytes | None) -> _Listed | None:
        """Return what is in a folder, or None when that must be looked at entry by entry.

        Args:
            stamp: its own.
            old: the folder as it is known.
            rows: of the entries that it had, if these are still all.
        """
        if rows is not None and old is not None:
            names = old.names
        else:
            joined = "\0".join(sorted(os.listdir(frame.fd)))
            if self._rules.maybe_left_out(frame.path, f"\0{joined}\0"):
                return None
            names = os.fsencode(joined)
            rows = self._reader.bulk.rows(frame.fd, names)
        if rows is None:
            return None
        if rows and max(array("Q", rows)[MODE::ROW]) >= stat.S_IFSOCK:  # no other type has a number as high
            return None
        status = frame.status
        settled = self._is_steady(frame) and self._reader.is_settled(status.st_ctime_ns, status.st_mtime_ns)
        return _Listed(names, rows, left_out=False, stamp=stamp if settled else b"")

    def _is_steady(self, frame: _Frame) -> bool:
        return frame.identity[0] in self._known.steady

    def _list_singly(self, fd: int, path: str) -> _Listed:
        """Return what is in a folder, whatever that is."""
        with os.scandir(fd) as listing:
            entries = list(listing)
        entries.sort(key=_name_of)
        names = [entry.name for entry in entries]
        left_out = False
        joined = "\0" + "\0".join(names) + "\0"
        if self._rules.maybe_left_out(path, joined):
            count = len(entries)
            rules = self._rules
            entries = [
                entry
                for entry in entries
                if not rules.left_out(path, entry.name, is_folder=entry.is_dir(follow_symlinks=False))
            ]
            left_out = len(entries) < count
            names = [entry.name for entry in entries]
        flat: list[int] = []
        try:
            for entry in entries:
                flat += row_of(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            names, flat = _list_what_is_there(entries)
        if flat and max(flat[MODE::ROW]) >= stat.S_IFSOCK:  # no other type has a number as high
            for at in [at for at, mode in enumerate(flat[MODE::ROW]) if stat.S_ISSOCK(mode)][::-1]:
                del names[at], flat[at * ROW : (at + 1) * ROW]
            left_out = True
        return _Listed(os.fsencode("\0".join(names)), pack_rows(flat), left_out)


def _folders(folder: Folder) -> list[str]:
    """Return which of a folder's names are folders, last one first."""
    below = folders_at(array("Q", folder.rows)[MODE::ROW])
    names = folder.listed() if below else []
    return [names[at] for at in reversed(below)]


def _list_what_is_there(entries: list[os.DirEntry[str]]) -> tuple[list[str], list[int]]:
    """Return names and rows of a folder from which something is vanishing."""
    names: list[str] = []
    flat: list[int] = []
    for entry in entries:
        try:
            row = row_of(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            continue
        names.append(entry.name)
        flat += row
    return names, flat
