"""One folder looked at closely: what changed is read, what did not is taken from the look before."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from blake3 import blake3

from rfs.production.rollback.driver import BlobSink
from rfs.production.rollback.drivers.files import content
from rfs.production.rollback.drivers.files.bulk import SMALL, OneByOne
from rfs.production.rollback.drivers.files.columns import Before, Columns, Folder, Row, Unstored, fill, split
from rfs.production.rollback.drivers.files.options import Rules
from rfs.production.rollback.drivers.files.tree import (
    CTIME,
    DIGEST,
    INODE,
    MODE,
    MTIME,
    NONE,
    PLAIN,
    ROW,
    ROW_BYTES,
    SIZE,
    Block,
    Extra,
    join,
    row_of,
    signed,
)
from rfs.production.rollback.drivers.meta import node, read_flags, read_more, read_xattrs, reason, shown
from rfs.production.rollback.errors import RollbackError

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Not to touch the access time is the owner's and root's right only.
_NO_ATIME = getattr(os, "O_NOATIME", 0)
_TRIES = 4
_SECOND = 1_000_000_000
_TICKS = 20_000_000  # some file systems have coarser clocks than the kernel's, which ticks every 1 to 10 ms
_FILE, _FOLDER, _LINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
_DEVICES = (stat.S_IFBLK, stat.S_IFCHR)


class Reader:
    """Looks closely at folders.

    Args:
        component: its name, for errors.
        rules: what is kept.
        sink: where content goes; None when only its identity is asked for.
        started: the clock of the file system when the look began, nanoseconds.
        rehash: read every file again, whatever its times say.
        bulk: asks about many entries, and reads them; the one for few when there is none.

    Attributes:
        bulk: that.
        warnings: sentences about what could not be read as one moment.
        count: how many entries were looked at closely.
    """

    def __init__(
        self,
        component: str,
        rules: Rules,
        sink: BlobSink | None,
        *,
        started: int,
        rehash: bool = False,
        bulk: OneByOne | None = None,
    ) -> None:
        self._component, self._rules, self._sink = component, rules, sink
        self.bulk = OneByOne() if bulk is None else bulk
        self._started, self._rehash = started, rehash
        self._open_small = _OPEN_FILE | _NO_ATIME
        self._unstored = Unstored(sink)
        self._unfinished: list[tuple[Block, list[bytes]]] = []
        self.warnings: list[str] = []
        self.count = 0

    @property
    def sink(self) -> BlobSink | None:
        return self._sink

    def of_another(self, sink: BlobSink | None) -> Reader:
        """Return a reader that looks in the same way and has nothing in common with this one but that."""
        return Reader(self._component, self._rules, sink, started=self._started, rehash=self._rehash, bulk=self.bulk)

    def block(self, fd: int, folder: Folder, before: Before) -> Block:
        """Return the block of a folder, without its digest, and until `finish` without its blobs.

        Args:
            fd: the open folder.
            before: what is known of it.

        Raises:
            RollbackError: path.unreadable or path.changing.
        """
        found = Columns(folder)
        self._read_all(fd, folder, self._taken_over(folder, before, found), before, found)
        if found.gone:
            self._unstored.store()  # positions are about to change
        block, blobs = found.block()
        self._unfinished.append((block, blobs))
        block.counted = folder.counted
        block.kept = self._kept(folder, block)
        block.loose = folder.loose or bool(block.kept)
        block.sheltering = folder.left_out
        if block.rows == folder.rows and not block.loose:  # else what is there is not all, or not to be believed
            block.stamp = folder.stamp
        return block

    def _taken_over(self, folder: Folder, before: Before, found: Columns) -> Sequence[int]:
        """Take from before what did not change; return the positions of the other entries."""
        if self._rehash or not before:
            return range(folder.entries)
        old = before.block
        same_names = old.names == folder.names
        if same_names and before.held:
            return found.take_over(old)
        places = range(len(old)) if same_names else before.places(folder.listed())
        others = []
        for at, place in enumerate(places):
            start = place * ROW_BYTES
            if (
                place < 0
                or old.rows[start : start + ROW_BYTES] != folder.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES]
                or (not before.held and not self.is_held(before.row(place)))
            ):
                others.append(at)
            else:
                found.digests[at] = old.digests[place * DIGEST : (place + 1) * DIGEST]
                found.blobs[at] = old.blobs[place * DIGEST : (place + 1) * DIGEST]
                if place in old.extras:
                    found.extras[at] = old.extras[place]
                if place in old.chunks:
                    found.chunks[at] = old.chunks[place]
        return others

    def _read_all(self, fd: int, folder: Folder, places: Sequence[int], before: Before, found: Columns) -> None:
        """Look closely at some entries of a folder."""
        how, started = self._open_small, self._started
        done = 0
        for piece in self.bulk.contents(fd, folder.names, folder.rows, places, how=how, started=started):
            some = places[done : done + len(piece)]
            done += len(piece)
            if None in piece:
                some, contents = self._read_others(fd, folder, dict(zip(some, piece, strict=True)), before, found)
            else:
                contents = cast("list[bytes]", piece)
            digests = [blake3(data).digest() for data in contents]
            fill(found.digests, some, digests)
            if self._sink is not None:
                self._unstored.add(found.blobs, some, contents)
            else:
                self._find_stored(folder, some, digests, before, found)
        self.count += len(places)

    def _read_others(
        self, fd: int, folder: Folder, contents: dict[int, bytes | None], before: Before, found: Columns
    ) -> tuple[list[int], list[bytes]]:
        """Look at those entries of which there is no content; return which of all are plain, and what these hold."""
        names, numbers = folder.listed(), array("Q", folder.rows)
        plain: dict[int, bytes] = {}
        for at, whole in contents.items():
            if whole is not None:
                plain[at] = whole
                continue
            row = tuple(numbers[at * ROW : (at + 1) * ROW])
            small = self._read_small(fd, names[at], row) if self._is_small(row) else None
            if small is None:
                found.take(at, self._read(fd, folder.path, names[at], row, before))
                continue
            plain[at], extra = small
            if extra is not PLAIN:
                found.extras[at] = extra
        return list(plain), list(plain.values())

    @staticmethod
    def _find_stored(
        folder: Folder, places: Sequence[int], digests: list[bytes], before: Before, found: Columns
    ) -> None:
        """Take from before where contents are stored, as far as they are the same."""
        if not before:
            return
        names = folder.listed()
        for at, digest in zip(places, digests, strict=True):
            found.blobs[at], chunks = before.stored(names[at], digest)
            if chunks is not None:
                found.chunks[at] = chunks

    def _is_small(self, row: tuple[int, ...]) -> bool:
        return row[MODE] & 0o170000 == _FILE and row[SIZE] <= SMALL and self.is_settled(row[CTIME], row[MTIME])

    def _read_small(self, dir_fd: int, name: str, row: tuple[int, ...]) -> tuple[bytes, Extra] | None:
        """Read a small file in as few calls as can be; None when anything about it is unusual, or not as it was listed.

        That it is as it was listed after it was read says that it was so while it was read.
        """
        size = row[SIZE]
        try:
            fd = os.open(name, self._open_small, dir_fd=dir_fd)
            try:
                data = os.read(fd, size + 1)
                xattrs, flags = read_more(fd)
                status = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError:
            return None
        if row_of(status) != row or len(data) != size or status.st_blocks * 512 < size:
            return None
        return data, Extra(b"", xattrs, flags, 0) if xattrs or flags else PLAIN

    def finish(self) -> None:
        """Store what was read and not stored yet. Until then, blocks lack the ids of what they hold."""
        self._unstored.store()
        for block, blobs in self._unfinished:
            block.blobs = b"".join(blobs)
        self._unfinished.clear()

    def _kept(self, folder: Folder, block: Block) -> list[int]:
        if not folder.counted:
            return list(range(len(block)))
        keep = self._rules.keep
        names = block.listed() if keep else []
        if not keep or not keep.maybe("\0" + "\0".join(names) + "\0"):
            return []
        modes = block.numbers()[MODE::ROW]
        return [
            at
            for at, (name, mode) in enumerate(zip(names, modes, strict=True))
            if keep.match(folder.path, name, is_folder=stat.S_ISDIR(mode))
        ]

    # — one entry —

    def _read(self, fd: int, path: str, name: str, numbers: tuple[int, ...], before: Before) -> Row | None:
        """Look closely at an entry; None when it is gone."""
        for _ in range(_TRIES):
            try:
                if numbers[MODE] & 0o170000 == _FILE:
                    return self._read_file(fd, path, name, before)
                return self._read_other(fd, name, numbers)
            except FileNotFoundError:
                return None
            except OSError as error:
                # It became a link, a folder or a file after it was listed: look again at what it is now.
                if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ESTALE):
                    raise self.unreadable(join(path, name), error) from error
                try:
                    numbers = row_of(os.stat(name, dir_fd=fd, follow_symlinks=False))
                except FileNotFoundError:
                    return None
        raise RollbackError("path.changing", path=shown(join(path, name)))

    def _read_other(self, fd: int, name: str, numbers: tuple[int, ...]) -> Row:
        kind = numbers[MODE] & 0o170000
        link = b""
        device = flags = 0
        if kind == _FOLDER:
            folder = os.open(name, OPEN_FOLDER, dir_fd=fd)
            try:
                xattrs, flags = read_xattrs(folder), read_flags(folder)
            finally:
                os.close(folder)
        else:
            if kind == _LINK:
                link = os.fsencode(os.readlink(name, dir_fd=fd))
            with node(name, fd) as target:
                if kind in _DEVICES:
                    device = os.stat(target).st_rdev
                xattrs = read_xattrs(target)
        extra = Extra(link, xattrs, flags, device) if link or xattrs or flags or device else PLAIN
        return Row(self._settled(numbers), NONE, NONE, extra, None)

    def _read_file(self, dir_fd: int, path: str, name: str, before: Before) -> Row:
        try:
            fd = os.open(name, _OPEN_FILE | _NO_ATIME, dir_fd=dir_fd)
        except PermissionError:
            fd = os.open(name, _OPEN_FILE, dir_fd=dir_fd)
            self._open_small = _OPEN_FILE  # the next ones are likely to be somebody else's, too
        try:
            status = os.fstat(fd)
            if status.st_mode & 0o170000 != _FILE:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            xattrs, flags = read_xattrs(fd), read_flags(fd)
            found = content.read(fd, status, self._sink)
        finally:
            os.close(fd)
        blob, chunks = found.blob, found.chunks
        if self._sink is None:
            # Where the store has it is known from earlier when the content is what it was.
            blob, chunks = before.stored(name, found.digest)
        numbers = self._settled(row_of(found.status))
        if not found.steady:
            self.warnings.append(str(RollbackError("path.changing", path=shown(join(path, name)))))
            numbers = _doubted(numbers)
        extra = Extra(b"", xattrs, flags, 0) if xattrs or flags else PLAIN
        return Row(numbers, found.digest, blob, extra, chunks)

    def _settled(self, numbers: tuple[int, ...]) -> tuple[int, ...]:
        """Return the row as it may be believed next time; else it is doubted."""
        return numbers if self.is_settled(numbers[CTIME], signed(numbers[MTIME])) else _doubted(numbers)

    def is_settled(self, changed: int, modified: int) -> bool:
        """Tell whether what has these times, nanoseconds, cannot change any more without their telling.

        What was changed in the same tick of the clock as this look may.
        """
        # Times of whole seconds come from file systems that know no finer ones.
        slack = 2 * _SECOND if changed % _SECOND == 0 else _TICKS
        return max(changed, modified) + slack < self._started

    def unreadable(self, path: str, error: OSError) -> RollbackError:
        """Return the expected error for what the operating system answered to a look."""
        return RollbackError("path.unreadable", path=shown(path) or ".", component=self._component, why=reason(error))

    # — what the store holds —

    def is_held(self, row: Row) -> bool:
        """Tell whether the store holds the content of an entry that did not change."""
        if self._sink is None or row.numbers[MODE] & 0o170000 != _FILE or not row.numbers[SIZE]:
            return True
        if row.chunks is not None:
            return all(self._sink.has(chunk.blob) for chunk in row.chunks)
        return row.blob != NONE and self._sink.has(row.blob)

    def holding(self, blocks: Mapping[str, Block]) -> frozenset[str]:
        """Return of which of these folders the store holds every content."""
        needed = {path: ids for path, block in blocks.items() if (ids := _needed(block)) is not None}
        if self._sink is None or not needed:
            return frozenset(needed)
        lacking = _lacking(self._sink, set().union(*needed.values()))
        return frozenset(path for path, ids in needed.items() if not lacking or lacking.isdisjoint(ids))


def _needed(block: Block) -> set[bytes] | None:
    """Return the ids of all contents of a block, or None when one of them is not known."""
    blobs = split(block.blobs, DIGEST)
    needed = set(blobs)
    if NONE in needed:
        needed.remove(NONE)
        numbers = block.numbers()
        for at, blob in enumerate(blobs):
            known = blob != NONE or at in block.chunks or not numbers[at * ROW + SIZE]
            if not known and numbers[at * ROW + MODE] & 0o170000 == _FILE:
                return None
    needed.update(chunk.blob for chunks in block.chunks.values() for chunk in chunks)
    return needed


def _lacking(sink: BlobSink, blobs: set[bytes]) -> set[bytes]:
    """Return which of these a store has not; ours answers that for all of them at once."""
    lacking: Callable[[set[bytes]], set[bytes]] | None = getattr(sink, "lacking", None)
    return {blob for blob in blobs if not sink.has(blob)} if lacking is None else lacking(blobs)


def _doubted(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Return a row that will match no later look: no file has the change time 0."""
    return (numbers[INODE], 0, *numbers[MTIME:])
