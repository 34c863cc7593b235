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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, cast

import msgspec

from rfs.production.rollback.driver import BlobSink
from rfs.production.rollback.drivers.files.places import Folders
from rfs.production.rollback.drivers.files.reader import Reader
from rfs.production.rollback.drivers.files.tree import Block
from rfs.production.rollback.errors import RollbackError

if TYPE_CHECKING:
    from socket import socket

_MANY = 4096  # entries; below, a fork costs more than it saves
_AHEAD = 64  # jobs that may wait
_DONT_WAIT = 0x40  # MSG_DONTWAIT
_LONGEST = 1 << 18  # bytes of a job that is handed over; longer ones the parent does itself
_PIPE = 1 << 20
_HEAD = 8


# What a child tells of what it stored, as the parent's `adopt` takes it.
Told: TypeAlias = tuple[str, bytes, list[int], list[int], list[int]]


class Annex(Protocol):
    """Where a child stores."""

    def has(self, blob: bytes) -> bool:
        """Tell whether the child stored a blob."""

    def put_all(self, contents: Sequence[bytes]) -> list[bytes]:
        """Store blobs; return their ids."""

    def taken(self) -> list[Told]:
        """Return what was stored since the last call, as the parent's `adopt` takes it."""


class Annexing(Protocol):
    """What a store can do besides being a sink: have a forked child store its share, and take that over."""

    def annex(self) -> Annex:
        """Return what a child that is forked now may store into."""

    def adopt(self, name: str, ids: bytes, sizes: list[int], counts: list[int], lengths: list[int]) -> None:
        """Take over what a child stored."""

    def identify(self, data: bytes) -> bytes:
        """Return the id that `put` would give; also in the child."""

    def seal_early(self) -> None:
        """Do now what would have to be done at the end for all that was put, where there is much of it."""


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
    """What the helper says at the end of a job: what it stored, and what it found, which needs that."""

    job: int
    stored: list[Told] = []
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
        and (sink is None or hasattr(sink, "adopt"))
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
    """This process and its helper.

    Jobs wait in a socket from which both take the next one, each whole: so the helper has enough while
    the parent is busy with something else, and neither waits for the other at the end.
    """

    def __init__(self, root: int, work: Work, reader: Reader) -> None:
        self._root, self._work, self._reader = root, work, reader
        self._given: dict[int, Job] = {}
        self._heard: deque[bytes] = deque()
        self._heard_size = 0
        self._answers = -1

    def run(self, jobs: Iterable[Job]) -> Generator[Found]:
        """See `shared_out`."""
        # It takes 4 ms to import, and few trees are large.
        from socket import AF_UNIX, SOCK_SEQPACKET, socketpair

        sink = self._reader.sink
        annex = None if sink is None else cast("Annexing", sink).annex()
        jobs_in, jobs_out = socketpair(AF_UNIX, SOCK_SEQPACKET)
        self._answers, answers_in = os.pipe()
        _widen(answers_in)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._help(jobs_out.fileno(), answers_in, annex)
        try:
            os.close(answers_in)
            with contextlib.closing(Folders(self._root)) as opener:
                for number, job in enumerate(jobs):
                    if not self._give(jobs_in, number, job):
                        yield _done(self._work, job.what, opener, self._reader)
                        yield from self._listen(wait=False)
                if sink is not None:
                    # Only now, while the helper has enough to do: at the end it would be done alone.
                    cast("Annexing", sink).seal_early()
                while (number := self._take_back(jobs_out)) >= 0:
                    yield _done(self._work, self._given.pop(number).what, opener, self._reader)
                    yield from self._listen(wait=False)
                jobs_in.close()
                jobs_out.close()
                yield from self._listen(wait=True)
                for job in self._given.values():
                    yield _done(self._work, job.what, opener, self._reader)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            jobs_in.close()
            jobs_out.close()
            os.close(self._answers)

    def _give(self, jobs: socket, number: int, job: Job) -> bool:
        """Have a job wait for the helper, unless enough of them do."""
        if len(self._given) >= _AHEAD:
            return False
        data = marshal.dumps((number, job.what))
        if len(data) > _LONGEST:
            return False
        try:
            jobs.send(data, _DONT_WAIT)
        except OSError:  # no room
            return False
        self._given[number] = job
        return True

    @staticmethod
    def _take_back(jobs: socket) -> int:
        """Return the number of a job that still waits, which it does no longer, or -1."""
        try:
            data = jobs.recv(_LONGEST, _DONT_WAIT)
        except BlockingIOError:
            return -1
        return int(marshal.loads(data)[0])  # noqa: S302 — written by this process

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
        for stored in message.stored:
            cast("Annexing", self._reader.sink).adopt(*stored)
        if message.found is not None:
            del self._given[message.job]
            self._reader.warnings += message.warnings
            self._reader.count += message.count
            yield message.found

    # — the helper —

    def _help(self, jobs: int, answers: int, annex: Annex | None) -> None:
        """Do jobs until there are none; never returns."""
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
            gc.disable()  # what the parent left to collect must not be closed twice, least of all a database
            _close_all_but({0, 1, 2, jobs, answers, self._root})
            sink = None if annex is None else _Stored(cast("Annexing", self._reader.sink), annex)
            reader = self._reader.of_another(sink)
            opener = Folders(self._root)
            while data := os.read(jobs, _LONGEST):
                number, what = marshal.loads(data)  # noqa: S302 — written by the parent
                try:
                    found = _done(self._work, what, opener, reader)
                    stored = [] if annex is None else annex.taken()
                except RollbackError as error:
                    fields = {name: str(value) for name, value in error.fields.items()}
                    _say(answers, _Message(number, error=(error.key, fields)))
                    break
                _say(answers, _Message(number, stored, found, reader.warnings, reader.count))
                reader.warnings, reader.count = [], 0
            status = 0
        finally:
            # Nothing of the parent's may be tidied up here, whatever went wrong: it sees what is missing.
            os._exit(status)


class _Stored:
    """The helper's sink: its part of the store."""

    def __init__(self, store: Annexing, annex: Annex) -> None:
        self.has, self.put_all, self.identify = annex.has, annex.put_all, store.identify

    def put(self, data: bytes) -> bytes:
        return self.put_all([data])[0]

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


def _widen(pipe: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
