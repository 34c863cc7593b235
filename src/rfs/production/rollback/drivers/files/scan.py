"""One look at a live tree: an unchanged file costs one lstat, a changed one is read.

Everything is opened by name in an open folder, never through a link, so that what is
swapped meanwhile cannot lead out of the root.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from array import array
from typing import NamedTuple

import msgspec

from rfs.production.rollback.driver import BlobSink, Pulse
from rfs.production.rollback.drivers.files import content
from rfs.production.rollback.drivers.files.options import Rules
from rfs.production.rollback.drivers.files.tree import (
    CTIME,
    DIGEST,
    INODE,
    LINKS,
    MODE,
    MTIME,
    NONE,
    PLAIN,
    ROW,
    ROW_BYTES,
    SIZE,
    Block,
    Chunk,
    Extra,
    Tree,
    empty_block,
    join,
    pack_rows,
    row_of,
    seal,
    signed,
)
from rfs.production.rollback.drivers.meta import node, read_flags, read_xattrs, reason, shown
from rfs.production.rollback.errors import RollbackError

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Not to touch the access time is the owner's and root's right only.
_NO_ATIME = getattr(os, "O_NOATIME", 0)
_TRIES = 4
# More folders than this are never held open at once; deeper ones are reached again by "..".
_HELD = 96
_SECOND = 1_000_000_000


class Known(NamedTuple):
    """What is known from an earlier look: its blocks by path, and which parts the store surely still holds."""

    blocks: dict[str, Block]
    held_parts: frozenset[int] = frozenset()
    same_rules: bool = True


class _Frame:
    """A folder that is being walked through. Its descriptor may be closed while it waits far above."""

    __slots__ = ("counted", "fd", "identity", "path", "waiting")

    def __init__(self, fd: int, path: str, waiting: list[str], *, counted: bool) -> None:
        status = os.fstat(fd)
        self.fd, self.path, self.waiting, self.counted = fd, path, waiting, counted
        self.identity = (status.st_dev, status.st_ino)


class _Row(NamedTuple):
    numbers: tuple[int, ...]
    digest: bytes
    blob: bytes
    extra: Extra
    chunks: list[Chunk] | None


class Scan:
    """A look at one tree.

    Args:
        component: its name, for errors.
        rules: what is left out and what is kept.
        known: what an earlier look found.
        sink: where content goes; None when only its identity is asked for.
        rehash: read every file again, whatever its times say.

    Attributes:
        warnings: sentences about what could not be read as one moment.
        reread: how many entries were looked at closely.
        mounts: folders of other file systems, by path from the root.
        racy: whether an entry was so young that it must be read again next time.
        fresh: how many bytes were read.
    """

    def __init__(
        self,
        component: str,
        rules: Rules,
        known: Known,
        sink: BlobSink | None = None,
        *,
        rehash: bool = False,
        pulse: Pulse | None = None,
    ) -> None:
        self._component, self._rules, self._known, self._sink = component, rules, known, sink
        self._pulse = sink if pulse is None else pulse
        self._rehash = rehash
        self._blocks: dict[str, Block] = {}
        self._links: dict[tuple[int, int], list[str]] = {}
        self._link_counts: dict[tuple[int, int], int] = {}
        self._started = 0
        self._top_device = 0
        self.warnings: list[str] = []
        self.mounts: set[str] = set()
        self.reread = 0
        self.fresh = 0
        self.racy = False

    def run(self, root: int, link: bytes | None = None) -> Tree:
        """Look at the tree under an open folder.

        Args:
            root: its descriptor; stays open.
            link: the text of the root when it is a link.

        Raises:
            RollbackError: path.unreadable, path.changing, or what the pulse raises.
        """
        # The clock that the kernel stamps files with, so that a later write is never stamped earlier.
        self._started = time.clock_gettime_ns(getattr(time, "CLOCK_REALTIME_COARSE", time.CLOCK_REALTIME))
        self._top_device = os.fstat(root).st_dev
        self._walk(os.dup(root))
        top = self._top(root)
        groups = self._groups()
        return Tree(top, self._blocks, link, groups)

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
            raise self._unreadable(path, error) from error
        counted = frame.counted and not self._rules.keep.match(frame.path, name, is_folder=True)
        return self._enter(fd, path, counted=counted)

    def _enter(self, fd: int, path: str, *, counted: bool) -> _Frame:
        try:
            frame = _Frame(fd, path, [], counted=counted)
            if frame.identity[0] != self._top_device:
                self.mounts.add(path)
            block = self._look(frame)
        except BaseException:
            os.close(fd)
            raise
        self._blocks[path] = block
        frame.waiting = block.folders()
        frame.waiting.reverse()
        if self._pulse is not None:
            self._pulse.tick(len(block))
        return frame

    # — one folder —

    def _look(self, frame: _Frame) -> Block:
        fd, path = frame.fd, frame.path
        try:
            names, flat, left_out = self._list(fd, path)
        except OSError as error:
            raise self._unreadable(path, error) from error
        joined = os.fsencode("\0".join(names))
        rows = pack_rows(flat)
        old = self._known.blocks.get(path)
        loose = left_out or path in self._rules.carved
        if old is not None and self._is_unchanged(old, frame, joined, rows):
            loose = loose or bool(old.kept)
            sheltering = left_out or bool(old.kept)
            block = old
            if (old.loose, old.sheltering) != (loose, sheltering):
                block = msgspec.structs.replace(old, loose=loose, sheltering=sheltering)
        else:
            block = self._compare(frame, names, rows, old)
            block.counted = frame.counted
            block.loose = loose or bool(block.kept)
            block.sheltering = left_out or bool(block.kept)
            seal(block)
        self._note_links(frame, block)
        return block

    def _is_unchanged(self, old: Block, frame: _Frame, names: bytes, rows: bytes) -> bool:
        return (
            old.rows == rows
            and old.names == names
            and old.counted == frame.counted
            and self._known.same_rules
            and not self._rehash
            and (self._sink is None or old.part in self._known.held_parts or self._all_held(old))
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
        sockets = [at for at, mode in enumerate(flat[MODE::ROW]) if mode & 0o170000 == stat.S_IFSOCK]
        for at in reversed(sockets):
            left_out = True
            del names[at], flat[at * ROW : (at + 1) * ROW]
        return names, flat, left_out

    def _compare(self, frame: _Frame, names: list[str], rows: bytes, old: Block | None) -> Block:
        """Return the block of a folder in which something changed: what did not is taken from the old one."""
        before = _Before(old)
        held = old is not None and (self._sink is None or old.part in self._known.held_parts)
        numbers = array("Q", rows)
        flat: list[int] = []
        kept_names: list[str] = []
        digests, blobs = [], []
        block = empty_block()
        for at, name in enumerate(names):
            row = rows[at * ROW_BYTES : (at + 1) * ROW_BYTES]
            seen = None if self._rehash else before.same(name, row)
            if seen is not None and not (held or self._is_held(seen)):
                seen = None
            if seen is None:
                seen = self._read(frame, name, tuple(numbers[at * ROW : (at + 1) * ROW]), before.find(name))
                if seen is None:
                    continue
            here = len(kept_names)
            kept_names.append(name)
            flat += seen.numbers
            digests.append(seen.digest)
            blobs.append(seen.blob)
            if seen.extra != PLAIN:
                block.extras[here] = seen.extra
            if seen.chunks is not None:
                block.chunks[here] = seen.chunks
        block.names = os.fsencode("\0".join(kept_names))
        block.rows = pack_rows(flat)
        block.digests = b"".join(digests)
        block.blobs = b"".join(blobs)
        block.kept = self._kept(frame, kept_names, block)
        return block

    def _kept(self, frame: _Frame, names: list[str], block: Block) -> list[int]:
        if not frame.counted:
            return list(range(len(names)))
        keep = self._rules.keep
        if not keep or not keep.maybe("\0" + "\0".join(names) + "\0"):
            return []
        modes = block.numbers()[MODE::ROW]
        return [
            at
            for at, (name, mode) in enumerate(zip(names, modes, strict=True))
            if keep.match(frame.path, name, is_folder=stat.S_ISDIR(mode))
        ]

    # — one entry —

    def _read(self, frame: _Frame, name: str, numbers: tuple[int, ...], before: _Row | None) -> _Row | None:
        """Look closely at an entry; None when it is gone."""
        self.reread += 1
        for _ in range(_TRIES):
            try:
                return self._read_once(frame, name, numbers, before)
            except FileNotFoundError:
                return None
            except OSError as error:
                # It became a link, a folder or a file after it was listed: look again at what it is now.
                if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ESTALE):
                    raise self._unreadable(join(frame.path, name), error) from error
                try:
                    numbers = row_of(os.stat(name, dir_fd=frame.fd, follow_symlinks=False))
                except FileNotFoundError:
                    return None
        raise RollbackError("path.changing", path=shown(join(frame.path, name)))

    def _read_once(self, frame: _Frame, name: str, numbers: tuple[int, ...], before: _Row | None) -> _Row:
        kind = stat.S_IFMT(numbers[MODE])
        if kind == stat.S_IFREG:
            return self._read_file(frame, name, before)
        if kind == stat.S_IFDIR:
            fd = os.open(name, OPEN_FOLDER, dir_fd=frame.fd)
            try:
                extra = Extra(b"", read_xattrs(fd), read_flags(fd))
            finally:
                os.close(fd)
        else:
            link = os.fsencode(os.readlink(name, dir_fd=frame.fd)) if kind == stat.S_IFLNK else b""
            device = 0
            with node(name, frame.fd) as target:
                if kind in (stat.S_IFBLK, stat.S_IFCHR):
                    device = os.stat(target).st_rdev
                extra = Extra(link, read_xattrs(target), 0, device)
        return _Row(self._settled(numbers), NONE, NONE, extra, None)

    def _read_file(self, frame: _Frame, name: str, before: _Row | None) -> _Row:
        fd = _open_file(name, frame.fd)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            extra = Extra(b"", read_xattrs(fd), read_flags(fd))
            if self._sink is None:
                found = content.read(fd, None)
                blob, chunks = found.blob, found.chunks
                # What the store holds of it is known from earlier when the content is what it was.
                if before is not None and before.digest == found.digest:
                    blob, chunks = before.blob, before.chunks
            else:
                found = content.read(fd, self._sink)
                blob, chunks = found.blob, found.chunks
        finally:
            os.close(fd)
        self.fresh += found.status.st_size
        numbers = self._settled(row_of(found.status))
        if not found.steady:
            self.warnings.append(str(RollbackError("path.changing", path=shown(join(frame.path, name)))))
            numbers = (numbers[INODE], 0, *numbers[MTIME:])
            self.racy = True
        return _Row(numbers, found.digest, blob, extra, chunks)

    def _settled(self, numbers: tuple[int, ...]) -> tuple[int, ...]:
        """Return the row as it may be believed next time.

        A file that was changed in the same tick of the clock as this look may change again
        without its times telling. Its change time is noted as 0, which no file has.
        """
        latest = max(signed(numbers[CTIME]), signed(numbers[MTIME]))
        # Times of whole seconds come from file systems that know no finer ones.
        slack = 2 * _SECOND if numbers[CTIME] % _SECOND == 0 else 0
        if latest + slack < self._started:
            return numbers
        self.racy = True
        return (numbers[INODE], 0, *numbers[MTIME:])

    # — what the store holds —

    def _is_held(self, row: _Row) -> bool:
        """Tell whether the store holds the content of a file that did not change."""
        if self._sink is None or row.numbers[MODE] & 0o170000 != stat.S_IFREG or not row.numbers[SIZE]:
            return True
        if row.chunks is not None:
            return all(self._sink.has(chunk.blob) for chunk in row.chunks)
        return row.blob != NONE and self._sink.has(row.blob)

    def _all_held(self, block: Block) -> bool:
        before = _Before(block)
        return all(self._is_held(before.row(at)) for at in range(len(block)))

    # — the whole —

    def _top(self, root: int) -> Block:
        numbers = row_of(os.fstat(root))
        extra = Extra(b"", read_xattrs(root), read_flags(root))
        loose = self._blocks[""].loose
        block = Block(b".", pack_rows(list(numbers)), NONE, NONE, {0: extra} if extra != PLAIN else {}, {}, [], loose)
        return seal(block)

    def _note_links(self, frame: _Frame, block: Block) -> None:
        numbers = block.numbers()
        counts = numbers[LINKS::ROW]
        if not counts or max(counts) < 2:
            return
        names = None
        for at, (count, mode) in enumerate(zip(counts, numbers[MODE::ROW], strict=True)):
            if count > 1 and mode & 0o170000 != stat.S_IFDIR:
                names = block.listed() if names is None else names
                key = (frame.identity[0], numbers[at * ROW + INODE])
                self._links.setdefault(key, []).append(join(frame.path, names[at]))
                self._link_counts[key] = count

    def _groups(self) -> list[list[str]]:
        outside = sorted(paths[0] for key, paths in self._links.items() if len(paths) < self._link_counts[key])
        if outside:
            examples = ", ".join(shown(path) for path in outside[:3])
            self.warnings.append(
                f"{len(outside)} files have further names (hard links) outside the component, "
                f"which a restored file will no longer share: {examples}"
            )
        return sorted(sorted(paths) for paths in self._links.values() if len(paths) > 1)

    def _unreadable(self, path: str, error: OSError) -> RollbackError:
        return RollbackError("path.unreadable", path=shown(path) or ".", component=self._component, why=reason(error))


class _Before:
    """A block of an earlier look, asked by name."""

    def __init__(self, block: Block | None) -> None:
        self._block = block
        self._places: dict[str, int] | None = None

    def _place(self, name: str) -> int | None:
        if self._block is None:
            return None
        if self._places is None:
            self._places = {name: at for at, name in enumerate(self._block.listed())}
        return self._places.get(name)

    def same(self, name: str, row: bytes) -> _Row | None:
        """Return what was known of an entry, if its numbers are still these."""
        at = self._place(name)
        if at is None or self._block is None or self._block.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES] != row:
            return None
        return self.row(at)

    def find(self, name: str) -> _Row | None:
        """Return what was known of an entry."""
        at = self._place(name)
        return None if at is None else self.row(at)

    def row(self, at: int) -> _Row:
        """Return one entry of it."""
        block = self._block
        assert block is not None  # noqa: S101 — a place was found in it
        return _Row(
            tuple(array("Q", block.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES])),
            block.digests[at * DIGEST : (at + 1) * DIGEST],
            block.blobs[at * DIGEST : (at + 1) * DIGEST],
            block.extras.get(at, PLAIN),
            block.chunks.get(at),
        )


def _name_of(entry: os.DirEntry[str]) -> str:
    return entry.name


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


def _open_file(name: str, dir_fd: int) -> int:
    try:
        return os.open(name, _OPEN_FILE | _NO_ATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(name, _OPEN_FILE, dir_fd=dir_fd)
