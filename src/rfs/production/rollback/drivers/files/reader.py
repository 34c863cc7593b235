"""One folder looked at closely: what changed is read, what did not is taken from the look before."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from typing import NamedTuple

import msgspec

from rfs.production.rollback.driver import BlobSink
from rfs.production.rollback.drivers.files import content
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
    Chunk,
    Extra,
    empty_block,
    join,
    pack_rows,
    row_of,
    signed,
)
from rfs.production.rollback.drivers.meta import node, read_flags, read_xattrs, reason, shown
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


class Folder(NamedTuple):
    """A folder as it was listed: its sorted names, and the rows of numbers that belong to them."""

    path: str
    names: list[str]
    rows: bytes
    counted: bool
    left_out: bool
    loose: bool


class Row(NamedTuple):
    """One entry as it is known."""

    numbers: tuple[int, ...]
    digest: bytes
    blob: bytes
    extra: Extra
    chunks: list[Chunk] | None


class Reader:
    """Looks closely at folders.

    Args:
        component: its name, for errors.
        rules: what is kept.
        sink: where content goes; None when only its identity is asked for.
        started: the clock of the file system when the look began, nanoseconds.
        rehash: read every file again, whatever its times say.

    Attributes:
        warnings: sentences about what could not be read as one moment.
        count: how many entries were looked at closely.
    """

    def __init__(
        self, component: str, rules: Rules, sink: BlobSink | None, *, started: int, rehash: bool = False
    ) -> None:
        self._component, self._rules, self._sink = component, rules, sink
        self._started, self._rehash = started, rehash
        self.warnings: list[str] = []
        self.count = 0

    @property
    def sink(self) -> BlobSink | None:
        return self._sink

    def of_another(self, sink: BlobSink | None) -> Reader:
        """Return a reader that looks in the same way and has nothing in common with this one but that."""
        return Reader(self._component, self._rules, sink, started=self._started, rehash=self._rehash)

    def block(self, fd: int, folder: Folder, before: Before) -> Block:
        """Return the block of a folder, without its digest.

        Args:
            fd: the open folder.
            before: what is known of it.

        Raises:
            RollbackError: path.unreadable or path.changing.
        """
        block = self._patched(fd, folder, before) if before.held and not self._rehash else None
        if block is None:
            block = self._rebuilt(fd, folder, before)
        block.counted = folder.counted
        block.kept = self._kept(folder, block)
        block.loose = folder.loose or bool(block.kept)
        block.sheltering = folder.left_out or bool(block.kept)
        return block

    def _patched(self, fd: int, folder: Folder, before: Before) -> Block | None:
        """Return the block of a folder whose names are those of before; None when they are not."""
        old = before.block
        if len(old) != len(folder.names) or old.names != os.fsencode("\0".join(folder.names)):
            return None
        rows = folder.rows
        changed = [
            at for at in range(0, len(rows), ROW_BYTES) if rows[at : at + ROW_BYTES] != old.rows[at : at + ROW_BYTES]
        ]
        new_rows, digests, blobs = bytearray(rows), bytearray(old.digests), bytearray(old.blobs)
        block = msgspec.structs.replace(old, extras=dict(old.extras), chunks=dict(old.chunks), part=-1)
        for start in changed:
            at = start // ROW_BYTES
            seen = self._read(
                fd, folder.path, folder.names[at], tuple(array("Q", rows[start : start + ROW_BYTES])), before
            )
            if seen is None:
                return None
            new_rows[start : start + ROW_BYTES] = pack_rows(seen.numbers)
            digests[at * DIGEST : (at + 1) * DIGEST] = seen.digest
            blobs[at * DIGEST : (at + 1) * DIGEST] = seen.blob
            block.extras.pop(at, None)
            block.chunks.pop(at, None)
            if seen.extra is not PLAIN:
                block.extras[at] = seen.extra
            if seen.chunks is not None:
                block.chunks[at] = seen.chunks
        block.rows, block.digests, block.blobs = bytes(new_rows), bytes(digests), bytes(blobs)
        return block

    def _rebuilt(self, fd: int, folder: Folder, before: Before) -> Block:
        names: list[str] = []
        rows, digests, blobs = [], [], []
        block = empty_block()
        for at, name in enumerate(folder.names):
            here = folder.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES]
            place = -1 if self._rehash else before.same(name, here)
            if place >= 0 and (before.held or self.is_held(before.row(place))):
                extra, chunks = before.more(place)
                digests.append(before.digests[place * DIGEST : (place + 1) * DIGEST])
                blobs.append(before.blobs[place * DIGEST : (place + 1) * DIGEST])
            else:
                seen = self._read(fd, folder.path, name, tuple(array("Q", here)), before)
                if seen is None:
                    continue
                extra, chunks = seen.extra, seen.chunks
                here = pack_rows(seen.numbers)
                digests.append(seen.digest)
                blobs.append(seen.blob)
            if extra is not PLAIN:
                block.extras[len(names)] = extra
            if chunks is not None:
                block.chunks[len(names)] = chunks
            names.append(name)
            rows.append(here)
        block.names = os.fsencode("\0".join(names))
        block.rows = b"".join(rows)
        block.digests = b"".join(digests)
        block.blobs = b"".join(blobs)
        return block

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
        self.count += 1
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
        """Return the row as it may be believed next time.

        A file that was changed in the same tick of the clock as this look may change again
        without its times telling: it is doubted.
        """
        changed, modified = numbers[CTIME], signed(numbers[MTIME])
        # Times of whole seconds come from file systems that know no finer ones.
        slack = 2 * _SECOND if changed % _SECOND == 0 else _TICKS
        return numbers if max(changed, modified) + slack < self._started else _doubted(numbers)

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

    def holds_all(self, before: Before) -> bool:
        """Tell whether the store holds every content of a block."""
        return before.held or all(self.is_held(before.row(at)) for at in range(len(before)))


class Before:
    """A folder's block of an earlier look, asked by name.

    Args:
        block: None when there was no earlier look.
        held: whether the store surely has all of it.

    Attributes:
        block: the block, empty when there was none.
        digests, blobs: its columns.
    """

    def __init__(self, block: Block | None, *, held: bool) -> None:
        self.block = empty_block() if block is None else block
        self._places: dict[str, int] | None = None
        self.held = held
        self.digests, self.blobs = self.block.digests, self.block.blobs

    def __len__(self) -> int:
        return len(self.block)

    def _place(self, name: str) -> int | None:
        if self._places is None:
            self._places = {name: at for at, name in enumerate(self.block.listed())}
        return self._places.get(name)

    def same(self, name: str, row: bytes) -> int:
        """Return where an entry is, if its numbers are still these, or -1."""
        at = self._place(name)
        if at is None or self.block.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES] != row:
            return -1
        return at

    def more(self, at: int) -> tuple[Extra, list[Chunk] | None]:
        """Return what few entries have."""
        return self.block.extras.get(at, PLAIN), self.block.chunks.get(at)

    def stored(self, name: str, digest: bytes) -> tuple[bytes, list[Chunk] | None]:
        """Return where the store has the content of an entry, if that is still this one."""
        at = self._place(name)
        if at is None or self.block.digests[at * DIGEST : (at + 1) * DIGEST] != digest:
            return NONE, None
        return self.block.blobs[at * DIGEST : (at + 1) * DIGEST], self.block.chunks.get(at)

    def row(self, at: int) -> Row:
        """Return one entry of it."""
        block = self.block
        return Row(
            tuple(array("Q", block.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES])),
            block.digests[at * DIGEST : (at + 1) * DIGEST],
            block.blobs[at * DIGEST : (at + 1) * DIGEST],
            block.extras.get(at, PLAIN),
            block.chunks.get(at),
        )


def _doubted(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Return a row that will match no later look: no file has the change time 0."""
    return (numbers[INODE], 0, *numbers[MTIME:])
