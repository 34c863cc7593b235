"""Many folders are looked at, read, hashed and sealed by two processes, each taking the next job when it is free.

The helper is forked before there is any thread, keeps no descriptor but its pipes and the
root's, stores nothing itself and ends with its parent. Should it die, the parent reads
what it left out. Few folders are read without it, which keeps fault counts repeatable.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
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
from rfs.production.rollback.drivers.files.reader import Folder, Reader
from rfs.production.rollback.drivers.files.tree import MODE, ROW, SIZE, Block
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


class Found(msgspec.Struct, array_like=True):
    """What one job found: blocks by path, and the file systems of folders that lie on another one."""

    blocks: list[tuple[bytes, Block]]
    devices: dict[bytes, int] = {}


class _Message(msgspec.Struct, array_like=True):
    """What the helper says: blobs first, and at the end of a job what it found, which needs them."""

    job: int
    blobs: list[tuple[bytes, bytes, int]]
    found: Found | None = None
    warnings: list[str] = []
    count: int = 0
    error: tuple[str, dict[str, str]] | None = None


Work = Callable[[int, Folders, Reader], Found]


def possible(sink: BlobSink | None) -> bool:
    """Tell whether a helper can be forked here, and could store what it reads."""
    return (
        (os.cpu_count() or 1) > 1
        and threading.active_count() == 1
        and hasattr(os, "fork")
        and (sink is None or hasattr(sink, "put_sealed"))
    )


def shared_out(root: int, jobs: int, work: Work, reader: Reader, *, entries: int) -> Generator[Found]:
    """Do jobs in two processes, and yield what they found, in any order.

    Args:
        root: the open root, under which folders are opened.
        jobs: how many there are. The last one is begun first.
        work: does one, by its number.
        entries: how many entries they are about; few are done alone.

    Raises:
        RollbackError: as `work` does.
    """
    if jobs > 1 and entries >= _MANY and possible(reader.sink):
        yield from _Pair(root, jobs, work, reader).run()
        return
    with contextlib.closing(Folders(root)) as opener:
        for job in reversed(range(jobs)):
            yield work(job, opener, reader)


def bunches(folders: Sequence[Folder]) -> Iterator[list[Folder]]:
    """Yield listed folders in bunches of about equal work."""
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


class _Pair:
    """This process and its helper."""

    def __init__(self, root: int, jobs: int, work: Work, reader: Reader) -> None:
        self._root, self._jobs, self._work, self._reader = root, jobs, work, reader
        self._waiting = set(range(jobs))
        self._buffer = bytearray()

    def run(self) -> Generator[Found]:
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
            os.write(jobs_in, b"".join(map(_JOB.pack, reversed(range(self._jobs)))))
            os.close(jobs_in)
            with contextlib.closing(Folders(self._root)) as opener:
                while taken := os.read(jobs, _JOB.size):
                    yield self._do(_JOB.unpack(taken)[0], opener)
                    yield from self._listen(answers, wait=False)
                yield from self._listen(answers, wait=True)
                for job in sorted(self._waiting):
                    yield self._do(job, opener)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(answers)
            os.close(jobs)

    def _do(self, job: int, opener: Folders) -> Found:
        self._waiting.discard(job)
        return self._work(job, opener, self._reader)

    def _listen(self, answers: int, *, wait: bool) -> Generator[Found]:
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

    def _accept(self, message: _Message) -> Generator[Found]:
        if message.error is not None:
            key, fields = message.error
            raise RollbackError(key, **fields)
        if self._reader.sink is not None:
            store = cast("Sealing", self._reader.sink)
            for blob, sealed, size in message.blobs:
                store.put_sealed(blob, sealed, size)
        if message.found is not None:
            self._waiting.discard(message.job)
            self._reader.warnings += message.warnings
            self._reader.count += message.count
            yield message.found

    # — the helper —

    def _help(self, jobs: int, answers: int) -> None:
        """Do jobs until there are none; never returns."""
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
            gc.disable()  # what the parent left to collect must not be closed twice, least of all a database
            _close_all_but({0, 1, 2, jobs, answers, self._root})
            sink = None if self._reader.sink is None else _Sealed(cast("Sealing", self._reader.sink), answers)
            reader = self._reader.of_another(sink)
            opener = Folders(self._root)
            while taken := os.read(jobs, _JOB.size):
                job = _JOB.unpack(taken)[0]
                try:
                    found = self._work(job, opener, reader)
                except RollbackError as error:
                    fields = {name: str(value) for name, value in error.fields.items()}
                    _say(answers, _Message(job, [], error=(error.key, fields)))
                    break
                blobs = [] if sink is None else sink.taken()
                _say(answers, _Message(job, blobs, found, reader.warnings, reader.count))
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
