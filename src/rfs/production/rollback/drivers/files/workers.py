"""Many folders are read, hashed and sealed by two processes, each taking the next bunch when it is free.

The helper is forked before there is any thread, keeps no descriptor but its pipes and the
root's, stores nothing itself and ends with its parent. Should it die, the parent reads
what it left out. Few folders are read without it, which keeps fault counts repeatable.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import stat
import struct
import sys
import threading
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol, cast

import msgspec

from rfs.production.rollback.driver import BlobSink
from rfs.production.rollback.drivers.files.places import Folders
from rfs.production.rollback.drivers.files.reader import Before, Folder, Reader
from rfs.production.rollback.drivers.files.tree import MODE, ROW, SIZE, Block, seal
from rfs.production.rollback.errors import RollbackError

_MANY = 4096  # entries; below, a fork costs more than it saves
_BUNCH = 1 << 20  # an entry counts as much as its bytes and _ENTRY more
_ENTRY = 8 << 10
_MOST_BUNCHES = 8000
_FLUSH = 4 << 20
_PIPE = 1 << 20
_JOB = struct.Struct("<I")
_HEAD = struct.Struct("<Q")


class Sealing(Protocol):
    """What a store can do besides being a sink: seal in a forked child, and take what a child sealed."""

    def seal(self, data: bytes) -> tuple[bytes, bytes]:
        """Return (id, sealed bytes) of a blob without storing anything."""

    def put_sealed(self, blob: bytes, sealed: bytes, size: int) -> None:
        """Store what `seal` returned."""

    def identify(self, data: bytes) -> bytes:
        """Return the id that `seal` would give."""


class _Message(msgspec.Struct, array_like=True):
    """What the helper says: blobs first, and at the end of a bunch the blocks that need them."""

    bunch: int
    blobs: list[tuple[bytes, bytes, int]]
    blocks: list[Block] = []
    warnings: list[str] = []
    count: int = 0
    error: tuple[str, dict[str, str]] | None = None


def read_all(
    root: int, folders: Sequence[Folder], reader: Reader, before: Callable[[str], Before]
) -> Generator[tuple[Folder, Block]]:
    """Yield each folder with its sealed block, in any order.

    Args:
        root: the open root, under which the folders are opened again by their paths.

    Raises:
        RollbackError: path.unreadable, path.changing, path.swapped, or what the sink raises.
    """
    bunches = list(_bunches(folders))
    if not _worth_it(folders, bunches, reader.sink):
        with contextlib.closing(Folders(root)) as opener:
            for folder in folders:
                yield folder, _read(folder, opener, reader, before)
        return
    yield from _Pair(root, bunches, reader, before).run()


def _worth_it(folders: Sequence[Folder], bunches: list[list[Folder]], sink: BlobSink | None) -> bool:
    return (
        len(bunches) > 1
        and sum(len(folder.names) for folder in folders) >= _MANY
        and (os.cpu_count() or 1) > 1
        and threading.active_count() == 1
        and hasattr(os, "fork")
        and (sink is None or hasattr(sink, "put_sealed"))
    )


def _bunches(folders: Sequence[Folder]) -> Iterator[list[Folder]]:
    weights = [_weight(folder) for folder in folders]
    # The numbers of all bunches are written into a pipe at once, which must hold them.
    enough = max(_BUNCH, sum(weights) // _MOST_BUNCHES)
    bunch: list[Folder] = []
    filled = 0
    for folder, weight in zip(folders, weights, strict=True):
        bunch.append(folder)
        filled += weight
        if filled >= enough:
            yield bunch
            bunch, filled = [], 0
    if bunch:
        yield bunch


def _weight(folder: Folder) -> int:
    numbers = array("Q", folder.rows)
    modes, sizes = numbers[MODE::ROW], numbers[SIZE::ROW]
    return _ENTRY * len(modes) + sum([s for s, m in zip(sizes, modes, strict=True) if m & 0o170000 == stat.S_IFREG])


def _read(folder: Folder, opener: Folders, reader: Reader, before: Callable[[str], Before]) -> Block:
    try:
        fd = opener.open(folder.path)
    except RollbackError:
        # It went away after it was listed: what is left of it is an empty folder in its parent's list.
        fd = -1
    except OSError as error:
        raise reader.unreadable(folder.path, error) from error
    if fd < 0:
        folder = folder._replace(names=[], rows=b"")
    return seal(reader.block(fd, folder, before(folder.path)))


class _Pair:
    """This process and its helper."""

    def __init__(self, root: int, bunches: list[list[Folder]], reader: Reader, before: Callable[[str], Before]) -> None:
        self._root, self._bunches, self._reader, self._before = root, bunches, reader, before
        self._waiting = set(range(len(bunches)))
        self._buffer = bytearray()

    def run(self) -> Generator[tuple[Folder, Block]]:
        jobs, jobs_in = os.pipe()
        answers, answers_in = os.pipe()
        _widen(jobs_in)
        _widen(answers_in)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._help(jobs, answers_in)
        try:
            os.close(answers_in)
            # Who is free takes the next one: a read of so few bytes from a pipe is never split.
            os.write(jobs_in, b"".join(map(_JOB.pack, range(len(self._bunches)))))
            os.close(jobs_in)
            opener = Folders(self._root)
            with contextlib.closing(opener):
                while taken := os.read(jobs, _JOB.size):
                    yield from self._do(_JOB.unpack(taken)[0], opener)
                    yield from self._listen(answers, wait=False)
                yield from self._listen(answers, wait=True)
                for bunch in sorted(self._waiting):
                    yield from self._do(bunch, opener)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(answers)
            os.close(jobs)

    def _do(self, bunch: int, opener: Folders) -> Generator[tuple[Folder, Block]]:
        self._waiting.discard(bunch)
        for folder in self._bunches[bunch]:
            yield folder, _read(folder, opener, self._reader, self._before)

    def _listen(self, answers: int, *, wait: bool) -> Generator[tuple[Folder, Block]]:
        """Take what the helper has said; with `wait` until it has ended."""
        while wait or select.select([answers], [], [], 0)[0]:
            piece = os.read(answers, _PIPE)
            if not piece:
                return
            self._buffer += piece
            while len(self._buffer) >= _HEAD.size:
                (length,) = _HEAD.unpack_from(self._buffer)
                end = _HEAD.size + length
                if len(self._buffer) < end:
                    break
                message = msgspec.msgpack.decode(self._buffer[_HEAD.size : end], type=_Message)
                del self._buffer[:end]
                yield from self._accept(message)

    def _accept(self, message: _Message) -> Generator[tuple[Folder, Block]]:
        if message.error is not None:
            key, fields = message.error
            raise RollbackError(key, **fields)
        if self._reader.sink is not None:
            store = cast("Sealing", self._reader.sink)
            for blob, sealed, size in message.blobs:
                store.put_sealed(blob, sealed, size)
        if message.blocks:
            self._waiting.discard(message.bunch)
            self._reader.warnings += message.warnings
            self._reader.count += message.count
            yield from zip(self._bunches[message.bunch], message.blocks, strict=True)

    # — the helper —

    def _help(self, jobs: int, answers: int) -> None:
        """Do bunches until there are none; never returns."""
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
            _close_all_but({0, 1, 2, jobs, answers, self._root})
            sink = None if self._reader.sink is None else _Sealed(cast("Sealing", self._reader.sink), answers)
            reader = self._reader.of_another(sink)
            opener = Folders(self._root)
            while taken := os.read(jobs, _JOB.size):
                bunch = _JOB.unpack(taken)[0]
                try:
                    blocks = [_read(folder, opener, reader, self._before) for folder in self._bunches[bunch]]
                except RollbackError as error:
                    fields = {name: str(value) for name, value in error.fields.items()}
                    _say(answers, _Message(bunch, [], error=(error.key, fields)))
                    break
                blobs = [] if sink is None else sink.taken()
                _say(answers, _Message(bunch, blobs, blocks, reader.warnings, reader.count))
                reader.warnings, reader.count = [], 0
            status = 0
        finally:
            # Nothing of the parent's may be tidied up here, whatever went wrong: it sees what is missing.
            os._exit(status)


class _Sealed:
    """The helper's sink: seals, and hands over to the parent."""

    def __init__(self, store: Sealing, answers: int) -> None:
        self._store, self._answers = store, answers
        self._seen: set[bytes] = set()
        self._blobs: list[tuple[bytes, bytes, int]] = []
        self._size = 0

    def put(self, data: bytes) -> bytes:
        blob = self._store.identify(data)
        if blob not in self._seen:
            self._seen.add(blob)
            _, sealed = self._store.seal(data)
            self._blobs.append((blob, sealed, len(data)))
            self._size += len(sealed)
            if self._size >= _FLUSH:
                _say(self._answers, _Message(0, self.taken()))
        return blob

    def taken(self) -> list[tuple[bytes, bytes, int]]:
        """Return what was sealed since the last call."""
        blobs, self._blobs, self._size = self._blobs, [], 0
        return blobs

    def has(self, blob: bytes) -> bool:
        return blob in self._seen

    def identify(self, data: bytes) -> bytes:
        return self._store.identify(data)

    def put_part(self, refs: Sequence[bytes], body: bytes) -> bytes:
        raise NotImplementedError  # only the parent writes parts

    def tick(self, items: int = 0, size: int = 0) -> None:
        """The parent ticks."""

    def remaining(self) -> float:
        return 0.0


def _say(answers: int, message: _Message) -> None:
    body = msgspec.msgpack.encode(message)
    for data in (_HEAD.pack(len(body)), body):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(answers, rest) :]


def _widen(pipe: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
