"""Many folders are looked at, read, hashed and sealed by two processes: a helper, and the parent meanwhile.

The helper is forked before there is any thread, keeps no descriptor but its pipes and the
root's, stores nothing itself and ends with its parent. Should it die, the parent does
what it left out. Few folders are read without it, which keeps fault counts repeatable.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import marshal
import os
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol, cast

import msgspec

from rfs.production.rollback.driver import BlobSink
from rfs.production.rollback.drivers.files.places import Folders
from rfs.production.rollback.drivers.files.reader import Reader
from rfs.production.rollback.drivers.files.tree import Block
from rfs.production.rollback.errors import RollbackError

_MANY = 4096  # entries; below, a fork costs more than it saves
_AHEAD = 3  # jobs that the helper has at once: the parent looks after it only between its own
_FLUSH = 4 << 20
_PIPE = 1 << 20
_HEAD = 8


class Sealing(Protocol):
    """What a store can do besides being a sink: seal in a forked child, and take what a child sealed.

    Sealed blobs are their ids, their lengths, the sizes of their contents, and all their bytes.
    """

    def seal(self, contents: Mapping[bytes, bytes]) -> tuple[bytes, list[int], list[int], bytes]:
        """Return contents, given by id, as `put_sealed` takes them, without storing anything."""

    def put_sealed(self, ids: bytes, lengths: list[int], sizes: list[int], data: bytes) -> None:
        """Store what `seal` returned."""

    def identify(self, data: bytes) -> bytes:
        """Return the id that `put` would give."""


class Found(msgspec.Struct, array_like=True):
    """What one job found: blocks by path, and the file systems of folders that lie on another one."""

    blocks: list[tuple[bytes, Block]]
    devices: dict[bytes, int] = {}


class Job(NamedTuple):
    """Something to do.

    Attributes:
        entries: about how much it is.
        what: of marshal's types only, as the helper gets it through a pipe.
    """

    entries: int
    what: Any


Work = Callable[[Any, Folders, Reader], Found]


class _Message(msgspec.Struct, array_like=True):
    """What the helper says: blobs first, and at the end of a job what it found, which needs them."""

    job: int
    sealed: list[tuple[bytes, list[int], list[int], bytes]]
    found: Found | None = None
    warnings: list[str] = []
    count: int = 0
    error: tuple[str, dict[str, str]] | None = None


def possible(sink: BlobSink | None) -> bool:
    """Tell whether a helper can be forked here, and could store what it reads."""
    return (
        (os.cpu_count() or 1) > 1
        and threading.active_count() == 1
        and hasattr(os, "fork")
        and (sink is None or hasattr(sink, "put_sealed"))
    )


def shared_out(root: int, jobs: Iterator[Job], work: Work, reader: Reader) -> Generator[Found]:
    """Do jobs in two processes, and yield what they found, in any order.

    Args:
        root: the open root, under which folders are opened.
        jobs: asked for the next one when somebody is free. Few entries are done alone.
        work: does one.

    Raises:
        RollbackError: as `work` and `jobs` do.
    """
    first: list[Job] = []
    entries = 0
    if possible(reader.sink):
        for job in jobs:
            first.append(job)
            entries += job.entries
            if entries >= _MANY:
                yield from _Pair(root, work, reader).run(chain(first, jobs))
                return
    with contextlib.closing(Folders(root)) as opener:
        for job in chain(first, jobs):
            yield _done(work, job.what, opener, reader)


def _done(work: Work, what: Any, opener: Folders, reader: Reader) -> Found:
    found = work(what, opener, reader)
    reader.finish()
    return found


class _Pair:
    """This process and its helper."""

    def __init__(self, root: int, work: Work, reader: Reader) -> None:
        self._root, self._work, self._reader = root, work, reader
        self._given: dict[int, Job] = {}
        self._heard: deque[bytes] = deque()
        self._heard_size = 0
        self._jobs_in = self._answers = -1

    def run(self, jobs: Iterable[Job]) -> Generator[Found]:
        """See `shared_out`."""
        jobs_out, self._jobs_in = os.pipe()
        self._answers, answers_in = os.pipe()
        room = _widened(self._jobs_in)
        _widened(answers_in)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._help(jobs_out, answers_in)
        try:
            os.close(jobs_out)
            os.close(answers_in)
            with contextlib.closing(Folders(self._root)) as opener:
                for number, job in enumerate(jobs):
                    if not self._give(number, job, room):
                        yield _done(self._work, job.what, opener, self._reader)
                        yield from self._listen(wait=False)
                self._stop_giving()
                yield from self._listen(wait=True)
                for job in self._given.values():
                    yield _done(self._work, job.what, opener, self._reader)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._stop_giving()
            os.close(self._answers)

    def _give(self, number: int, job: Job, room: int) -> bool:
        """Give the helper a job, unless it has enough, or is no more. Never waits: they all have room in the pipe."""
        if len(self._given) >= _AHEAD or self._jobs_in < 0:
            return False
        data = marshal.dumps((number, job.what))
        if len(data) + _HEAD > room // (_AHEAD + 1):
            return False
        try:
            os.write(self._jobs_in, len(data).to_bytes(_HEAD, "little") + data)
        except BrokenPipeError:
            self._stop_giving()
            return False
        self._given[number] = job
        return True

    def _stop_giving(self) -> None:
        if self._jobs_in >= 0:
            os.close(self._jobs_in)
            self._jobs_in = -1

    def _listen(self, *, wait: bool) -> Generator[Found]:
        """Take what the helper has said; with `wait` until it has ended."""
        while wait or select.select([self._answers], [], [], 0)[0]:
            piece = os.read(self._answers, _PIPE)
            if not piece:
                return
            self._heard.append(piece)
            self._heard_size += len(piece)
            while (body := self._next_heard()) is not None:
                yield from self._accept(msgspec.msgpack.decode(body, type=_Message))

    def _next_heard(self) -> memoryview | None:
        """Return the next whole message of what was heard, or None."""
        if not self._heard:
            return None
        if len(self._heard[0]) < _HEAD <= self._heard_size:
            self._heard = deque([b"".join(self._heard)])
        end = _HEAD + int.from_bytes(self._heard[0][:_HEAD], "little")
        if self._heard_size < max(end, _HEAD):
            return None
        whole = memoryview(self._heard[0] if len(self._heard) == 1 else b"".join(self._heard))
        self._heard = deque([bytes(whole[end:])] if end < len(whole) else [])
        self._heard_size -= end
        return whole[_HEAD:end]

    def _accept(self, message: _Message) -> Generator[Found]:
        if message.error is not None:
            key, fields = message.error
            raise RollbackError(key, **fields)
        if self._reader.sink is not None:
            store = cast("Sealing", self._reader.sink)
            for sealed in message.sealed:
                store.put_sealed(*sealed)
        if message.found is not None:
            del self._given[message.job]
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
            while head := _read_exactly(jobs, _HEAD):
                number, what = marshal.loads(_read_exactly(jobs, int.from_bytes(head, "little")))  # noqa: S302 — of the parent
                try:
                    found = _done(self._work, what, opener, reader)
                except RollbackError as error:
                    fields = {name: str(value) for name, value in error.fields.items()}
                    _say(answers, _Message(number, [], error=(error.key, fields)))
                    break
                sealed = [] if sink is None else sink.taken()
                _say(answers, _Message(number, sealed, found, reader.warnings, reader.count))
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
        self._sealed: list[tuple[bytes, list[int], list[int], bytes]] = []
        self._size = 0

    def put(self, data: bytes) -> bytes:
        return self.put_all([data])[0]

    def put_all(self, contents: Sequence[bytes]) -> list[bytes]:
        blobs = list(map(self._store.identify, contents))
        new = {blob: data for blob, data in zip(blobs, contents, strict=True) if blob not in self._seen}
        if new:
            self._seen.update(new)
            self._sealed.append(self._store.seal(new))
            self._size += len(self._sealed[-1][-1])
            if self._size >= _FLUSH:
                _say(self._answers, _Message(0, self.taken()))
        return blobs

    def taken(self) -> list[tuple[bytes, list[int], list[int], bytes]]:
        """Return what was sealed since the last call."""
        sealed, self._sealed, self._size = self._sealed, [], 0
        return sealed

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
    for data in (len(body).to_bytes(_HEAD, "little"), body):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(answers, rest) :]


def _read_exactly(pipe: int, size: int) -> bytes:
    """Return so many bytes, or none when the other end was closed."""
    data = b""
    while len(data) < size:
        piece = os.read(pipe, size - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _widened(pipe: int) -> int:
    """Return how many bytes a pipe holds, after it was made to hold many."""
    with contextlib.suppress(OSError):
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
