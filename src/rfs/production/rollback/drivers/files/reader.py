"""One folder looked at closely: what changed is read, what did not is taken from the look before."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from typing import NamedTuple

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
        names: list[str] = []
        flat: list[int] = []
        digests, blobs = [], []
        block = empty_block()
        numbers = array("Q", folder.rows)
        for at, name in enumerate(folder.names):
            seen = None
            if not self._rehash:
                seen = before.same(name, folder.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES])
                if seen is not None and not before.held and not self.is_held(seen):
                    seen = None
            if seen is None:
                row = tuple(numbers[at * ROW : (at + 1) * ROW])
                seen = self._read(fd, folder.path, name, row, before)
                if seen is None:
                    continue
            if seen.extra is not PLAIN:
                block.extras[len(names)] = seen.extra
            if seen.chunks is not None:
                block.chunks[len(names)] = seen.chunks
            names.append(name)
            flat += seen.numbers
            digests.append(seen.digest)
            blobs.append(seen.blob)
        block.names = os.fsencode("\0".join(names))
        block.rows = pack_rows(flat)
        block.digests = b"".join(digests)
        block.blobs = b"".join(blobs)
        block.kept = self._kept(folder, names, block)
        block.counted = folder.counted
        block.loose = folder.loose or bool(block.kept)
        block.sheltering = folder.left_out or bool(block.kept)
        return block

    def _kept(self, folder: Folder, names: list[str], block: Block) -> list[int]:
        if not folder.counted:
            return list(range(len(names)))
        keep = self._rules.keep
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
        if self._sink is None and (old := before.find(name)) is not None and old.digest == found.digest:
            # Where the store has it is known from earlier when the content is what it was.
            blob, chunks = old.blob, old.chunks
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
        slack = 2 * _SECOND if changed % _SECOND == 0 else 0
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
    """

    def __init__(self, block: Block | None, *, held: bool) -> None:
        self._block = empty_block() if block is None else block
        self._places: dict[str, int] | None = None
        self.held = held

    def __len__(self) -> int:
        return len(self._block)

    def _place(self, name: str) -> int | None:
        if self._places is None:
            self._places = {name: at for at, name in enumerate(self._block.listed())}
        return self._places.get(name)

    def same(self, name: str, row: bytes) -> Row | None:
        """Return what was known of an entry, if its numbers are still these."""
        at = self._place(name)
        if at is None or self._block.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES] != row:
            return None
        return self.row(at)

    def find(self, name: str) -> Row | None:
        """Return what was known of an entry."""
        at = self._place(name)
        return None if at is None else self.row(at)

    def row(self, at: int) -> Row:
        """Return one entry of it."""
        block = self._block
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
