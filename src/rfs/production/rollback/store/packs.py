"""The pack file: header, frames of sealed blobs one after the other, sealed index, trailer.

The layout is described in docs/format.md; a change here is a change there and of PACK_FORMAT.
A pack is written in `tmp/` and gets its name in `packs/` once it is whole and durable.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import accumulate, chain, groupby, islice, repeat
from operator import attrgetter, sub
from typing import NamedTuple, TypeVar

import msgspec

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.store.files import PRIVATE_FILE, sync_folder, write_all
from rfs.production.rollback.store.keys import ID_SIZE, PACK_FORMAT
from rfs.production.rollback.store.seal import BLOB_ID_SIZE, DamagedError, Sealed, Sealer, Type, split_ids

SUFFIX = ".pack"
FULL_SIZE = 64 << 20
# So many small blobs that their list, not their content, would be what fills memory.
FULL_COUNT = 65_536
_BUFFER_SIZE = 1 << 20
_LARGE = 1 << 18
_OPEN_FILES = 32
_HEADER = struct.Struct("<8sI16s16s4x")
_TRAILER = struct.Struct("<I8s")
_HEADER_MAGIC = b"rfs pack"
_TRAILER_MAGIC = b"rfs foot"
_U32 = "I"
# Where a blob begins that is no part of a frame: of a pack of format 1.
ALONE = -1

T = TypeVar("T")


class Place:
    """Where the store in the folder `root` keeps what."""

    def __init__(self, root: str) -> None:
        self.root = root

    @property
    def packs(self) -> str:
        return os.path.join(self.root, "packs")

    @property
    def tmp(self) -> str:
        return os.path.join(self.root, "tmp")

    @property
    def damaged(self) -> str:
        return os.path.join(self.root, "damaged")

    @property
    def index(self) -> str:
        return os.path.join(self.root, "index.db")

    @property
    def repository(self) -> str:
        return os.path.join(self.root, "repository")

    @property
    def repository_copy(self) -> str:
        return os.path.join(self.packs, "repository")

    def pack(self, name: str) -> str:
        return os.path.join(self.packs, name + SUFFIX)

    def names(self) -> dict[str, int]:
        """Return the name and size in bytes of every pack that is there."""
        found = {}
        with os.scandir(self.packs) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    # A prune may take a pack away between the listing and the look at it.
                    with suppress(FileNotFoundError):
                        found[entry.name.removesuffix(SUFFIX)] = entry.stat(follow_symlinks=False).st_size
        return found


class Entry(NamedTuple):
    """One sealed blob in a pack.

    Attributes:
        offset, length: of the sealed bytes that it lies in, of a frame with all its blobs.
        size: of the content, bytes.
        start: where in the content of the frame its own begins; ALONE when it was sealed alone.
    """

    blob: bytes
    type: int
    offset: int
    length: int
    size: int
    start: int


def in_frames(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield entries of a pack in their order, those together that lie in one frame."""
    for _, together in groupby(entries, attrgetter("offset")):
        yield list(together)


class _Footer(msgspec.Struct, frozen=True, array_like=True):
    stamp: int
    count: int
    types: bytes
    lengths: bytes
    sizes: bytes
    blobs: bytes
    counts: bytes = b""


class Contents(msgspec.Struct, frozen=True):
    """What a pack says of itself.

    Attributes:
        stamp: the highest of its records, 0 without any.
        types, sizes, blobs: of each blob.
        lengths: of each frame; of each blob in a pack of format 1.
        counts: how many blobs each frame holds; None in a pack of format 1.
    """

    name: str
    size: int
    stamp: int
    types: bytes
    lengths: array[int]
    sizes: array[int]
    blobs: bytes
    counts: array[int] | None

    def __len__(self) -> int:
        return len(self.types)

    def __iter__(self) -> Iterator[Entry]:
        return map(Entry._make, self.rows())

    def ids(self) -> list[bytes]:
        """Return the ids of the blobs, in their order."""
        return split_ids(self.blobs)

    def offsets(self) -> Iterator[int]:
        """Yield where the sealed bytes begin in which each blob lies."""
        begins = islice(accumulate(self.lengths, initial=_HEADER.size), len(self.lengths))
        return begins if self.counts is None else _spread(begins, self.counts)

    def spans(self) -> Iterator[int]:
        """Yield how many sealed bytes that are."""
        return iter(self.lengths) if self.counts is None else _spread(self.lengths, self.counts)

    def starts(self) -> Iterator[int]:
        """Yield where in the content of its frame that of each blob begins."""
        if self.counts is None:
            return repeat(ALONE, len(self.types))
        ends = list(accumulate(self.sizes, initial=0))
        firsts = islice(accumulate(self.counts, initial=0), len(self.counts))
        return map(sub, ends, _spread([ends[first] for first in firsts], self.counts))

    def rows(self) -> Iterator[tuple[bytes, int, int, int, int, int]]:
        """Yield what an Entry holds, as a bare tuple: an index of many small blobs is built much faster from these."""
        return zip(self.ids(), self.types, self.offsets(), self.spans(), self.sizes, self.starts(), strict=True)


def _spread(of_frames: Iterable[T], counts: Iterable[int]) -> Iterator[T]:
    """Yield for each blob what is said of its frame."""
    return chain.from_iterable(map(repeat, of_frames, counts))


def _little_endian(values: array[int]) -> array[int]:
    if sys.byteorder == "big":  # pragma: no cover — no such machine here
        values = values[:]
        values.byteswap()
    return values


def _column(data: bytes) -> array[int]:
    values = array(_U32)
    values.frombytes(data)
    return _little_endian(values)


def read_contents(path: str, name: str, repository: str, sealer: Sealer) -> Contents:
    """Read and check a pack's header, footer and trailer.

    Raises:
        DamagedError: it is not as it was sealed, or of another repository.
        RollbackError: store.format, it was written by a newer release.
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) < _HEADER.size or not header.startswith(_HEADER_MAGIC):
            raise DamagedError("it does not begin as a pack")
        _, version, owner, own_name = _HEADER.unpack(header)
        if version > PACK_FORMAT:
            raise RollbackError("store.format", path=path, found=version, known=PACK_FORMAT)
        if owner.hex() != repository:
            raise DamagedError("it belongs to another store")
        if own_name.hex() != name:
            raise DamagedError("it was given another name")
        trailer = os.pread(fd, _TRAILER.size, size - _TRAILER.size)
        length, magic = _TRAILER.unpack(trailer)
        start = size - _TRAILER.size - length
        if magic != _TRAILER_MAGIC or start < _HEADER.size:
            raise DamagedError("its end is missing or damaged")
        sealed = os.pread(fd, length, start)
    finally:
        os.close(fd)
    footer = msgspec.msgpack.decode(sealer.open_footer(sealed, header), type=_Footer)
    counts = None if version == 1 else _column(footer.counts)
    lengths, sizes = _column(footer.lengths), _column(footer.sizes)
    if _HEADER.size + sum(lengths) != start:
        raise DamagedError("its length is not what its index says")
    frames = len(footer.types) if counts is None else len(counts)
    blobs = len(footer.types) if counts is None else sum(counts)
    if len(lengths) != frames or not blobs == len(sizes) == len(footer.types) == len(footer.blobs) // BLOB_ID_SIZE:
        raise DamagedError("its index does not fit together")
    return Contents(name, size, footer.stamp, footer.types, lengths, sizes, footer.blobs, counts)


class PackWriter:
    """A pack while it grows, in `tmp/`. After any OSError it is fit for `abandon` only.

    Args:
        repository: id of the repository, hex.
        name: 32 hex digits; chosen at random when empty.
        adopted: a child wrote it, header and blobs; `enter` is told which. It writes no more.

    Attributes:
        blobs: the number of each blob by its id; only to be looked at.
    """

    def __init__(self, place: Place, repository: str, name: str = "", *, adopted: bool = False) -> None:
        self.name = name or os.urandom(ID_SIZE).hex()
        self._place, self._adopted = place, adopted
        self._path = os.path.join(place.tmp, self.name + SUFFIX)
        self._header = _HEADER.pack(_HEADER_MAGIC, PACK_FORMAT, bytes.fromhex(repository), bytes.fromhex(self.name))
        # Joined only when they are written: a buffer that grows would copy every blob more than once.
        self._waiting: list[bytes] = [] if adopted else [self._header]
        self._waiting_size = 0 if adopted else len(self._header)
        self.blobs: dict[bytes, int] = {}
        self._types = bytearray()
        self._sizes = array(_U32)
        self._lengths = array(_U32)  # of frames, as what follows
        self._counts = array(_U32)
        self._unlisted = 0
        # What only `find` asks for, which few do of a pack that grows: as far as it was asked.
        self._frames = array(_U32)  # in which each blob lies, and where in it
        self._starts = array(_U32)
        self._offsets = array("Q")  # of frames, and where the next one begins
        self._offsets.append(len(self._header))
        self.size = len(self._header)
        self.stamp = 0
        new = 0 if adopted else os.O_CREAT | os.O_EXCL
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | new, PRIVATE_FILE)
        self._begun = 0  # up to where the disk was given what was written

    @property
    def full(self) -> bool:
        """Whether it is large enough to be sealed."""
        return self.size >= FULL_SIZE or len(self._types) + self._unlisted >= FULL_COUNT

    def append(self, kind: Type, sealed: Sealed) -> None:
        """Add sealed blobs, none of which is in this pack already.

        Raises:
            OSError: they could not be written.
        """
        self.enter(kind, sealed)
        self._write(sealed.data)

    def append_unlisted(self, sealed: Sealed) -> None:
        """Add sealed blobs of which only the process that adopts this pack keeps a list; see `enter`.

        Raises:
            OSError: they could not be written.
        """
        self._unlisted += len(sealed.sizes)
        self.size += len(sealed.data)
        self._write(sealed.data)

    def _write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_size += len(data)
        if self._waiting_size >= _BUFFER_SIZE:
            self.drain()

    def enter(self, kind: Type, sealed: Sealed) -> None:
        """Note blobs, whose frames lie directly behind those that were noted before; their bytes are not looked at."""
        blobs, counts = sealed.blobs(), sealed.counts
        self.blobs.update(zip(blobs, range(len(self._types), len(self._types) + len(blobs)), strict=True))
        self._types += bytes([kind]) * len(blobs)
        if len(self.blobs) != len(self._types):
            # All that follows in the pack would be found at wrong places.
            raise RuntimeError("a blob is entered twice in one pack")
        self._sizes.extend(sealed.sizes)
        self._lengths.extend(sealed.lengths)
        self._counts.extend(counts)
        self.size += sum(sealed.lengths)

    def find(self, blob: bytes) -> Entry | None:
        """Return where a blob of this pack lies, or None."""
        number = self.blobs.get(blob)
        if number is None:
            return None
        self._locate()
        frame = self._frames[number]
        return Entry(
            blob,
            self._types[number],
            self._offsets[frame],
            self._lengths[frame],
            self._sizes[number],
            self._starts[number],
        )

    def _locate(self) -> None:
        """Bring up to date where each blob lies."""
        first, blob = len(self._offsets) - 1, len(self._starts)
        new = self._counts[first:]
        self._frames.extend(_spread(range(first, first + len(new)), new))
        for count in new:
            self._starts.extend(islice(accumulate(self._sizes[blob : blob + count], initial=0), count))
            blob += count
        self._offsets.extend(islice(accumulate(self._lengths[first:], initial=self._offsets[first]), 1, None))

    def read(self, entry: Entry) -> bytes:
        """Return the sealed bytes of an entry that `find` gave.

        Raises:
            OSError: what is buffered could not be written.
        """
        self.drain()
        return os.pread(self._fd, entry.length, entry.offset)

    def batches(self) -> Iterator[Sealed]:
        """Yield what it holds, all of one type, in batches of about a megabyte.

        Raises:
            OSError: it could not be read.
        """
        ids, sizes = b"".join(self.blobs), self._sizes.tolist()
        counts, lengths = self._counts.tolist(), self._lengths.tolist()
        firsts = list(accumulate(counts, initial=0))
        self._locate()
        first = 0
        while first < len(counts):
            full = self._offsets[first] + _BUFFER_SIZE
            last = max(bisect_right(self._offsets, full, hi=len(counts)), first + 1)
            data = os.pread(self._fd, sum(lengths[first:last]), self._offsets[first])
            begin, end = firsts[first], firsts[last]
            own = ids[begin * BLOB_ID_SIZE : end * BLOB_ID_SIZE]
            yield Sealed(own, sizes[begin:end], counts[first:last], lengths[first:last], data)
            first = last

    def finish(self, sealer: Sealer) -> Contents:
        """Seal the pack and make it durable under its name in `packs/`.

        Raises:
            OSError: it could not be; nothing of it counts.
        """
        lengths, sizes, counts = map(_little_endian, (self._lengths, self._sizes, self._counts))
        blobs = b"".join(self.blobs)
        footer = _Footer(
            self.stamp,
            len(self._types),
            bytes(self._types),
            lengths.tobytes(),
            sizes.tobytes(),
            blobs,
            counts.tobytes(),
        )
        sealed = sealer.seal_footer(msgspec.msgpack.encode(footer), self._header)
        self._waiting += (sealed, _TRAILER.pack(len(sealed), _TRAILER_MAGIC))
        if self._adopted:
            # The child may have written more than it could tell, if it died.
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)
        self.size += len(sealed) + _TRAILER.size
        self.drain()
        os.fsync(self._fd)
        os.rename(self._path, self._place.pack(self.name))
        sync_folder(self._place.packs)
        os.close(self._fd)
        self._fd = -1
        own = (footer.types, self._lengths, self._sizes, blobs, self._counts)
        return Contents(self.name, self.size, self.stamp, *own)

    def abandon(self) -> None:
        """Remove the unsealed pack. Never raises: what cannot be removed now, `recover` removes."""
        with suppress(OSError):
            os.unlink(self._path)
        self.leave()

    def leave(self) -> None:
        """Close the file, as it is."""
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def drain(self) -> None:
        """Write what is buffered.

        Raises:
            OSError: it could not be written.
        """
        waiting, self._waiting, self._waiting_size = self._waiting, [], 0
        # What is large by itself is written as it is: joining would copy it.
        last = waiting.pop() if waiting and len(waiting[-1]) >= _LARGE else b""
        write_all(self._fd, b"".join(waiting))
        write_all(self._fd, last)
        end = os.lseek(self._fd, 0, os.SEEK_CUR)
        # Not for what it says: the disk gets at once what is dirty there, and the fsync at the end finds little left.
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(self._fd, self._begun, end - self._begun, os.POSIX_FADV_DONTNEED)
        self._begun = end


class PackFiles:
    """Reads sealed packs through a few descriptors that stay open. Thread-safe."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._files: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of a pack; fewer when it ends before.

        Raises:
            OSError: the pack is gone or cannot be read.
        """
        # The lock is held while reading, so that no other thread closes this descriptor meanwhile.
        with self._lock:
            return os.pread(self._opened(name), length, offset)

    def advise(self, name: str, pieces: Iterable[tuple[int, int]]) -> None:
        """Have the system read pieces (offset, length) of a pack ahead, without waiting for it.

        Raises:
            OSError: the pack is gone.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        with self._lock:
            fd = self._opened(name)
            for offset, length in pieces:
                os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)

    def _opened(self, name: str) -> int:
        fd = self._files.get(name)
        if fd is None:
            fd = os.open(self._place.pack(name), os.O_RDONLY | os.O_CLOEXEC)
            self._files[name] = fd
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        else:
            self._files.move_to_end(name)
        return fd

    def close(self) -> None:
        """Close all descriptors; reading opens them again."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])
