"""The content of one file: read as one moment, hashed, cut and stored; and written back.

Up to WHOLE bytes a file is one blob. A longer one is cut where its content says so
(FastCDC), so that an insertion costs the pieces around it. Holes are not stored.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from blake3 import blake3

from rfs.production.rollback.driver import BlobSink, BlobSource
from rfs.production.rollback.drivers.files.tree import NONE, Chunk, Entry

WHOLE = 8 << 20
_LEAST, _USUAL, _MOST = 256 << 10, 1 << 20, 4 << 20
_WINDOW = 4 * _MOST
_CELL = 1 << 20
_ZEROS = bytes(_MOST)
_TRIES = 4


class Reading(NamedTuple):
    """What a file held. `steady` is False when it kept changing and this is a mixture of moments."""

    status: os.stat_result
    digest: bytes
    blob: bytes
    chunks: list[Chunk] | None
    steady: bool


def read(fd: int, status: os.stat_result, sink: BlobSink | None) -> Reading:
    """Read an open regular file, again when it changed meanwhile; store its content when there is a sink.

    Args:
        status: its fstat, made just now.

    Raises:
        OSError: as the system calls do.
    """
    before = after = status
    for _ in range(_TRIES):
        before = after
        digest, blob, chunks = _read_once(fd, before, sink)
        after = os.fstat(fd)
        if (before.st_mtime_ns, before.st_ctime_ns, before.st_size) == (
            after.st_mtime_ns,
            after.st_ctime_ns,
            after.st_size,
        ):
            return Reading(after, digest, blob, chunks, steady=True)
    # What was stored last is what is described: its size, not the file's present one.
    return Reading(before, digest, blob, chunks, steady=False)


def _read_once(fd: int, status: os.stat_result, sink: BlobSink | None) -> tuple[bytes, bytes, list[Chunk] | None]:
    size = status.st_size
    sparse = status.st_blocks * 512 < size
    if size > WHOLE:
        return _read_long(fd, size, sink, _data_segments(fd, size) if sparse else [(0, size)])
    data = os.pread(fd, size, 0)
    if len(data) != size:
        # A file that shrank meanwhile is filled up: its status says so and it is read again.
        data = _read_at(fd, 0, size)
    digest = blake3(data).digest()
    if sink is None or not size:
        return digest, NONE, None
    if sparse and (segments := _data_segments(fd, size)) != [(0, size)]:
        return digest, NONE, [Chunk(start, end - start, sink.put(data[start:end])) for start, end in segments]
    return digest, sink.put(data), None


def _read_at(fd: int, start: int, length: int) -> bytes:
    """Return exactly `length` bytes, with zeros for what is no longer there."""
    data = os.pread(fd, length, start)
    while len(data) < length:
        piece = os.pread(fd, length - len(data), start + len(data))
        if not piece:
            return data.ljust(length, b"\0")
        data += piece
    return data


def _data_segments(fd: int, size: int) -> list[tuple[int, int]]:
    """Return (start, end) of each stretch of a sparse file that is no hole."""
    segments = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return [(0, size)]
            raise
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            segments.append((start, at))
    return segments


class _LongDigest:
    """The digest of a long file: over a grid of cells, where a cell of zeros costs nothing.

    So it is the same for equal contents however they are laid out in holes, and a hole of a
    terabyte is skipped.
    """

    def __init__(self) -> None:
        self._hasher = blake3()
        self._zero_cells = 0
        self._rest = b""

    def add(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(self._rest + bytes(data)) if self._rest else memoryview(data)
        at = 0
        while at + _CELL <= len(view):
            self._add_cell(view[at : at + _CELL])
            at += _CELL
        self._rest = bytes(view[at:])

    def _add_cell(self, cell: memoryview) -> None:
        if _is_zero(cell):
            self._zero_cells += 1
            return
        self._flush()
        self._hasher.update(b"d")
        self._hasher.update(cell)

    def _flush(self) -> None:
        if self._zero_cells:
            self._hasher.update(b"z" + self._zero_cells.to_bytes(8, "little"))
            self._zero_cells = 0

    def skip(self, cells: int) -> None:
        """Take that many cells of zeros; only at a cell's boundary."""
        self._zero_cells += cells

    def end(self, size: int) -> bytes:
        """Return the digest."""
        self._flush()
        self._hasher.update(b"e" + self._rest + size.to_bytes(8, "little"))
        return self._hasher.digest()


def _read_long(
    fd: int, size: int, sink: BlobSink | None, segments: list[tuple[int, int]]
) -> tuple[bytes, bytes, list[Chunk] | None]:
    whole = segments == [(0, size)]
    digest = _LongDigest()
    if not whole or sink is None:
        _digest_cells(fd, size, segments, digest)
        if sink is None:
            return digest.end(size), NONE, None
    chunks = []
    for start, end in segments:
        for offset, data in _cut(fd, start, end):
            if whole:
                digest.add(data)
            if _is_zero(data):
                continue  # written zeros come back as a hole: equal to whoever reads them
            chunks.append(Chunk(offset, len(data), sink.put(bytes(data))))
            sink.tick(0, len(data))
    return digest.end(size), NONE, chunks


def _is_zero(data: memoryview) -> bool:
    # Nearly always its ends decide. Bytes are compared by memcmp, a memoryview item by item.
    return data[0] == 0 and data[-1] == 0 and bytes(data) == _ZEROS[: len(data)]


def _digest_cells(fd: int, size: int, segments: list[tuple[int, int]], digest: _LongDigest) -> None:
    """Feed the digest with a file of which only the segments are data."""
    at = 0  # always at a cell's boundary
    for start, end in segments:
        first = max(at, start // _CELL * _CELL)
        digest.skip((first - at) // _CELL)
        at = first
        stop = min(-(-end // _CELL) * _CELL, size)
        while at < stop:
            length = min(_CELL, size - at)
            digest.add(_read_at(fd, at, length))
            at += length
    if at < size:
        digest.skip((size - at) // _CELL)
        digest.add(bytes((size - at) % _CELL))


def _cut(fd: int, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, content) of each piece of a stretch; the content is only good until the next one."""
    # It costs 30 ms to import, and most components have no file of this size.
    from pyfastcdc import FastCDC

    cutter = FastCDC(avg_size=_USUAL, min_size=_LEAST, max_size=_MOST)
    window = memoryview(bytearray(min(_WINDOW, end - start)))
    filled = 0
    offset = start
    while offset < end:
        wanted = min(len(window), end - offset)
        while filled < wanted:
            count = os.preadv(fd, [window[filled:wanted]], offset + filled)
            if not count:
                window[filled:wanted] = bytes(wanted - filled)
                count = wanted - filled
            filled += count
        final = offset + filled >= end
        used = 0
        for piece in cutter.cut_buf(window[:filled]):
            # A piece may go on where the window ends; it is cut again with what follows.
            if used + _MOST > filled and not final:
                break
            yield offset + used, window[used : used + piece.length]
            used += piece.length
        window[: filled - used] = bytes(window[used:filled])
        filled -= used
        offset += used


def write(fd: int, entry: Entry, source: BlobSource) -> None:
    """Write a file's content into an open, empty file.

    Raises:
        OSError: as the system calls do.
        IntegrityError: a blob is missing or damaged.
    """
    if entry.chunks is None:
        if entry.size:
            write_at(fd, source.get(entry.blob), 0)
    else:
        for offset, length, blob in entry.chunks:
            write_at(fd, source.get(blob), offset)
            source.tick(0, length)
        os.ftruncate(fd, entry.size)


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at an offset, however many calls that takes."""
    rest = memoryview(data)
    while rest:
        done = os.pwrite(fd, rest, offset)
        rest = rest[done:]
        offset += done


def copy_over(source: int, target: int) -> None:
    """Make an open file's content equal to another's without ever emptying it first, so that it keeps its inode."""
    size = os.fstat(source).st_size
    at = 0
    while at < size:
        data = _read_at(source, at, min(_MOST, size - at))
        write_at(target, data, at)
        at += len(data)
    os.ftruncate(target, size)
