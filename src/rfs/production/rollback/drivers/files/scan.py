"""One look at a live tree: an unchanged file costs one lstat, a changed one is read.

Everything is opened by name in an open folder, never through a link, so that what is
swapped meanwhile cannot lead out of the root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from operator import attrgetter
from typing import NamedTuple

import msgspec

from rfs.production.rollback.driver import BlobSink
from rfs.production.rollback.drivers.files import workers
from rfs.production.rollback.drivers.files.options import Rules
from rfs.production.rollback.drivers.files.reader import OPEN_FOLDER, Before, Folder, Reader
from rfs.production.rollback.drivers.files.tree import (
    INODE,
    LINKS,
    MODE,
    NONE,
    PLAIN,
    ROW,
    Block,
    Extra,
    Tree,
    empty_block,
    join,
    pack_rows,
    row_of,
    seal,
)
from rfs.production.rollback.drivers.meta import read_flags, read_xattrs, shown
from rfs.production.rollback.errors import RollbackError

_name_of = attrgetter("name")
# More folders than this are never held open at once; deeper ones are reached again by "..".
_HELD = 96


class Known(NamedTuple):
    """What is known from an earlier look: its blocks by path, and which parts the store surely still holds."""

    blocks: dict[str, Block]
    held_parts: frozenset[int] = frozenset()
    same_rules: bool = True


class _Frame:
    """A folder that is being walked through. Its descriptor may be closed while it waits far above."""

    __slots__ = ("counted", "fd", "identity", "path", "waiting")

    def __init__(self, fd: int, path: str, *, counted: bool) -> None:
        status = os.fstat(fd)
        self.fd, self.path, self.counted = fd, path, counted
        self.waiting: list[str] = []
        self.identity = (status.st_dev, status.st_ino)


class Scan:
    """A look at one tree.

    Args:
        component: its name, for errors.
        rules: what is left out and what is kept.
        known: what an earlier look found.
        sink: where content goes; None when only its identity is asked for.
        rehash: read every file again, whatever its times say.

    Attributes:
        warnings: sentences about what could not be recorded exactly.
        reread: how many entries were looked at closely.
    """

    def __init__(
        self, component: str, rules: Rules, known: Known, sink: BlobSink | None = None, *, rehash: bool = False
    ) -> None:
        self._rules, self._known, self._sink, self._rehash = rules, known, sink, rehash
        # The clock that the kernel stamps files with, so that a later write is never stamped earlier.
        started = time.clock_gettime_ns(getattr(time, "CLOCK_REALTIME_COARSE", time.CLOCK_REALTIME))
        self._reader = Reader(component, rules, sink, started=started, rehash=rehash)
        self._blocks: dict[str, Block] = {}
        self._links: dict[tuple[int, int], list[str]] = {}
        self._link_counts: dict[tuple[int, int], int] = {}
        # Where nearly everything is to be read, folders are first listed and then shared out.
        self._put_off: list[Folder] | None = [] if rehash or not known.blocks else None
        self._devices: dict[str, int] = {}
        self.warnings: list[str] = []

    @property
    def reread(self) -> int:
        return self._reader.count

    def run(self, root: int, link: bytes | None = None) -> Tree:
        """Look at the tree under an open folder.

        Args:
            root: its descriptor; stays open.
            link: the text of the root when it is a link.

        Raises:
            RollbackError: path.unreadable, path.changing, or what the sink's pulse raises.
        """
        self._walk(os.dup(root))
        if self._put_off is not None:
            with contextlib.closing(workers.read_all(root, self._put_off, self._reader, self._before)) as found:
                for folder, block in found:
                    self._take(folder.path, block, self._devices[folder.path])
            self._reconcile()
        top = self._top(root)
        groups = self._groups()
        self.warnings = [*self._reader.warnings, *self.warnings]
        return Tree(top, self._blocks, link, groups)

    def _reconcile(self) -> None:
        """Make folders and the names of folders agree, where one went away between listing and reading."""
        blocks, self._blocks = self._blocks, {}
        waiting = [""]
        while waiting:
            path = waiting.pop()
            block = blocks.get(path)
            if block is None:
                block = seal(empty_block())
            self._blocks[path] = block
            waiting += [join(path, name) for name in block.folders()]
        if len(self._blocks) < len(blocks):
            for paths in self._links.values():
                paths[:] = [path for path in paths if path.rpartition("/")[0] in self._blocks]

    # — walking —

    def _walk(self, root: int) -> None:
        stack = [self._enter(root, "", counted=True)]
        try:
            while stack:
                frame = stack[-1]
                if frame.waiting:
                    name = frame.waiting.pop()
                    child = self._descend(frame, name)
                    if child is not None:
                        stack.append(child)
                        if len(stack) > _HELD:
                            far = stack[-_HELD]
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
        try:
            fd = os.open(name, OPEN_FOLDER, dir_fd=frame.fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                # It went away, or became something else, after its parent was looked at.
                self._blocks[path] = seal(empty_block())
                return None
            raise self._reader.unreadable(path, error) from error
        counted = frame.counted and not self._rules.keep.match(frame.path, name, is_folder=True)
        return self._enter(fd, path, counted=counted)

    def _enter(self, fd: int, path: str, *, counted: bool) -> _Frame:
        try:
            frame = _Frame(fd, path, counted=counted)
            frame.waiting = self._look(frame)
        except BaseException:
            os.close(fd)
            raise
        return frame

    # — one folder —

    def _look(self, frame: _Frame) -> list[str]:
        """Look at a folder; return the names of the folders in it, last one first."""
        fd, path = frame.fd, frame.path
        try:
            names, flat, left_out = self._list(fd, path)
        except OSError as error:
            raise self._reader.unreadable(path, error) from error
        rows = pack_rows(flat)
        loose = left_out or path in self._rules.carved
        old = self._known.blocks.get(path)
        if old is not None and self._is_unchanged(old, frame, names, rows):
            loose, sheltering = loose or bool(old.kept), left_out or bool(old.kept)
            block = old
            if (old.loose, old.sheltering) != (loose, sheltering):
                block = msgspec.structs.replace(old, loose=loose, sheltering=sheltering)
        else:
            folder = Folder(path, names, rows, frame.counted, left_out, loose)
            if self._put_off is not None:
                self._put_off.append(folder)
                self._devices[path] = frame.identity[0]
                below = [n for n, mode in zip(names, flat[MODE::ROW], strict=True) if mode & 0o170000 == stat.S_IFDIR]
                below.reverse()
                return below
            block = seal(self._reader.block(fd, folder, self._before(path)))
            names = block.listed()
        self._take(path, block, frame.identity[0])
        return [names[at] for at in reversed(block.below)]

    def _take(self, path: str, block: Block, device: int) -> None:
        self._blocks[path] = block
        self._note_links(path, block, device)
        if self._sink is not None:
            self._sink.tick(len(block))

    def _before(self, path: str) -> Before:
        old = self._known.blocks.get(path)
        held = self._sink is None or (old is not None and old.part in self._known.held_parts)
        return Before(old, held=held)

    def _is_unchanged(self, old: Block, frame: _Frame, names: list[str], rows: bytes) -> bool:
        return (
            old.rows == rows
            and old.names == os.fsencode("\0".join(names))
            and old.counted == frame.counted
            and self._known.same_rules
            and not self._rehash
            and self._reader.holds_all(self._before(frame.path))
        )

    def _list(self, fd: int, path: str) -> tuple[list[str], list[int], bool]:
        """Return the sorted names of a folder, their rows, and whether something was left out."""
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
        return names, flat, left_out

    # — the whole —

    def _top(self, root: int) -> Block:
        numbers = row_of(os.fstat(root))
        extra = Extra(b"", read_xattrs(root), read_flags(root))
        loose = self._blocks[""].loose
        block = Block(b".", pack_rows(list(numbers)), NONE, NONE, {0: extra} if extra != PLAIN else {}, {}, [], loose)
        return seal(block)

    def _note_links(self, path: str, block: Block, device: int) -> None:
        if not block.linked:
            return
        numbers, names = block.numbers(), block.listed()
        for at, (count, mode) in enumerate(zip(numbers[LINKS::ROW], numbers[MODE::ROW], strict=True)):
            if count > 1 and mode & 0o170000 != stat.S_IFDIR:
                key = (device, numbers[at * ROW + INODE])
                self._links.setdefault(key, []).append(join(path, names[at]))
                self._link_counts[key] = count

    def _groups(self) -> list[list[str]]:
        outside = sorted(paths[0] for key, paths in self._links.items() if 0 < len(paths) < self._link_counts[key])
        if outside:
            examples = ", ".join(shown(path) for path in outside[:3])
            self.warnings.append(
                f"{len(outside)} files have further names (hard links) outside the component, "
                f"which a restored file will no longer share: {examples}"
            )
        return sorted(sorted(paths) for paths in self._links.values() if len(paths) > 1)


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
