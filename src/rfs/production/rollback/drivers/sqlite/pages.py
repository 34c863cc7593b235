"""A database as a row of page runs: normalised, hashed, stored, put together again.

A run is 64 KiB of pages (a page size always divides it), so that a changed page costs one
run and the runs of an unchanged database are in the store already. The header fields that
a restore cannot reproduce are zeroed before anything is compared or stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TypeAlias

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSink, BlobSource
from rfs.production.rollback.drivers.ahead import in_batches, in_order
from rfs.production.rollback.errors import IntegrityError
from rfs.production.rollback.model import Capture, Fingerprint

RUN_BYTES = 65536
RUNS_IN_PART = 1024
# Each of these is one piece of work for a thread; a part holds a whole number of them.
_RUNS_AT_ONCE = 16
# Below this, starting threads costs more than they save.
_WORTH_THREADS = 8 << 20
# Where SQLite takes its locks; the page that holds this byte is never part of the content.
LOCK_BYTE = 0x40000000
_HEADER = 100
_Prepare: TypeAlias = Callable[[Sequence[bytes]], Callable[[], list[bytes]]]
_WAL_VERSION = 2
_FORMAT = 1


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a captured database besides its pages.

    Attributes:
        state: "database"; or, when what stood there was recorded as it was, "raw" (a file that
            is no usable database), "other" (no file; the content tells which one it is) or "absent".
        page_size: bytes; 0 unless a database.
        length: bytes of the content.
        wal: whether its journal is a write-ahead log.
        mode, uid, gid: of the file.
        damaged: what a check of the captured copy found, or "".
        salvaged: it was too large to be checked, and is a state before, which has to come back as it was.
        exact: "raw", though SQLite can read it: through SQLite, not every byte of a state before would come back.
    """

    state: str = "database"
    page_size: int = 0
    length: int = 0
    wal: bool = False
    mode: int = 0
    uid: int = 0
    gid: int = 0
    damaged: str = ""
    salvaged: bool = False
    exact: bool = False
    format: int = _FORMAT

    @property
    def is_file(self) -> bool:
        """Whether it is a file with an owner and a mode."""
        return self.state in ("database", "raw")

    @property
    def as_it_was(self) -> bool:
        """Whether it is put back without asking whether it is sound."""
        return bool(self.damaged) or self.salvaged

    @property
    def runs(self) -> int:
        return -(-self.length // RUN_BYTES)

    def run_length(self, position: int) -> int:
        return min(RUN_BYTES, self.length - position * RUN_BYTES)

    @property
    def pages(self) -> int:
        return self.length // self.page_size if self.page_size else 0


def facts_of(capture: Capture) -> Facts:
    """Return what a capture recorded.

    Raises:
        IntegrityError: it makes no sense.
    """
    try:
        facts = msgspec.convert(capture.meta, Facts)
    except msgspec.ValidationError as error:
        raise _unusable(capture, str(error)) from None
    if facts.length < 0 or (facts.state == "database" and (facts.page_size < 512 or facts.length % facts.page_size)):
        raise _unusable(capture, "impossible page size or length")
    return facts


def uses_wal(header: bytes) -> bool:
    """Tell whether a database with this header keeps a write-ahead log."""
    return header[18] == _WAL_VERSION


def header_page_size(header: bytes) -> int:
    size = int.from_bytes(header[16:18], "big")
    return RUN_BYTES if size == 1 else size


def normalised(header: bytes) -> bytes:
    """Return the first 100 bytes without what a restore cannot reproduce.

    The journal versions (18, 19) are kept apart, as `Facts.wal`. Change counter (24–27),
    schema cookie (40–43), and version-valid-for with the version of the library (92–99) move
    with each restore. As both counters are 0, SQLite goes on trusting the size in the header.
    """
    head = bytearray(header[:_HEADER])
    head[18:20] = b"\x01\x01"
    head[24:28] = head[40:44] = bytes(4)
    head[92:100] = bytes(8)
    return bytes(head)


def read_runs(fd: int, facts: Facts) -> Iterator[bytes]:
    """Yield the content of a private copy run by run, normalised when it is a database.

    Raises:
        IntegrityError: the copy is shorter than it was.
    """
    for position in range(facts.runs):
        length = facts.run_length(position)
        run = os.pread(fd, length, position * RUN_BYTES)
        if len(run) != length:
            raise IntegrityError("store.damaged", what="a private copy was cut short", hint="Run the command again.")
        yield _comparable(run, position, facts) if facts.state == "database" else run


def _comparable(run: bytes, position: int, facts: Facts) -> bytes:
    if position == 0:
        run = normalised(run) + run[_HEADER:]
    lock_page = LOCK_BYTE - position * RUN_BYTES
    if 0 <= lock_page < len(run):
        # A page begins there: the lock byte's offset is a multiple of every page size.
        run = run[:lock_page] + bytes(facts.page_size) + run[lock_page + facts.page_size :]
    return run


class Digest:
    """The fingerprint of a database, fed run by run."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        identity = (facts.format, facts.state, facts.page_size, facts.length)
        self._hash = blake3(msgspec.msgpack.encode((*identity, facts.wal, facts.mode, facts.uid, facts.gid)))

    def update(self, run: bytes) -> None:
        self._hash.update(run)

    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self._hash.hexdigest(), self._facts.pages, self._facts.length)


def fingerprint_of(fd: int, facts: Facts) -> Fingerprint:
    """Return the fingerprint of a private copy."""
    digest = Digest(facts)
    for run in read_runs(fd, facts):
        digest.update(run)
    return digest.fingerprint()


def store_runs(fd: int, facts: Facts, sink: BlobSink) -> tuple[Fingerprint, tuple[bytes, ...]]:
    """Put a private copy into the store.

    Returns:
        Its fingerprint, and the ids of the manifest's parts.
    """
    digest = Digest(facts)
    parts: list[bytes] = []
    blobs: list[bytes] = []

    def read() -> Iterator[bytes]:
        for run in read_runs(fd, facts):
            digest.update(run)
            sink.tick(len(run) // facts.page_size if facts.page_size else 1, len(run))
            yield run

    # A store of another kind than ours knows no halves.
    prepare: _Prepare = getattr(sink, "prepare", None) or (lambda runs: partial(sink.put_all, runs))
    with in_order(prepare, in_batches(read(), _RUNS_AT_ONCE), apart=_worth_threads(facts)) as prepared:
        for put in prepared:
            blobs += put()
            if len(blobs) == RUNS_IN_PART:
                parts.append(_put_part(blobs, sink))
                blobs = []
    if blobs:
        parts.append(_put_part(blobs, sink))
    return digest.fingerprint(), tuple(parts)


def _put_part(blobs: list[bytes], sink: BlobSink) -> bytes:
    # Equal runs (mostly zeros) are named once.
    refs = list(dict.fromkeys(blobs))
    positions = {blob: position for position, blob in enumerate(refs)}
    return sink.put_part(refs, msgspec.msgpack.encode([positions[blob] for blob in blobs]))


def stored_runs(capture: Capture, source: BlobSource) -> list[bytes]:
    """Return the blob ids of a captured database's runs, in order.

    Raises:
        IntegrityError: the manifest is missing, damaged or does not fit together.
    """
    runs: list[bytes] = []
    for part in capture.parts:
        refs, body = source.get_part(part)
        try:
            positions = msgspec.msgpack.decode(body, type=list[int])
            runs += [refs[position] for position in positions]
        except (msgspec.DecodeError, IndexError):
            raise _unusable(capture, "it names a run that is not there") from None
    if len(runs) != facts_of(capture).runs:
        raise _unusable(capture, "a run is missing")
    return runs


def assemble(capture: Capture, source: BlobSource, fd: int, base: tuple[Capture, int] | None = None) -> None:
    """Write a captured database into an empty file.

    Args:
        base: another capture, and a descriptor of where it was assembled: what both hold is not unpacked again.

    Raises:
        IntegrityError: a blob is missing or damaged, or the whole is not what was captured.
    """
    facts = facts_of(capture)
    digest = Digest(facts)
    offset = 0
    for position, run in enumerate(_stored(capture, facts, source, base)):
        if len(run) != facts.run_length(position):
            raise _unusable(capture, "a run has the wrong length")
        digest.update(run)
        write_all(fd, run, offset)
        offset += len(run)
        source.tick(len(run) // facts.page_size if facts.page_size else 1, len(run))
    if digest.fingerprint() != capture.fingerprint:
        raise _unusable(capture, "its pages do not add up to its fingerprint")


def _stored(capture: Capture, facts: Facts, source: BlobSource, base: tuple[Capture, int] | None) -> Iterator[bytes]:
    """Yield the content of the runs of a captured database, in order."""
    there: dict[bytes, tuple[int, int, int]] = {}
    if base is not None:
        held, fd = facts_of(base[0]), base[1]
        for position, blob in enumerate(stored_runs(base[0], source)):
            there[blob] = (fd, held.run_length(position), position * RUN_BYTES)

    def get(blobs: list[bytes]) -> list[bytes]:
        return [os.pread(*there[blob]) if blob in there else source.get(blob) for blob in blobs]

    for blobs in in_batches(stored_runs(capture, source), RUNS_IN_PART):
        source.expect([blob for blob in dict.fromkeys(blobs) if blob not in there])
        with in_order(get, in_batches(blobs, _RUNS_AT_ONCE), apart=_worth_threads(facts)) as runs:
            yield from chain.from_iterable(runs)


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write the whole of `data`; a short write is carried on."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def differing(fd: int, facts: Facts, want: Capture, source: BlobSource) -> list[tuple[int, int]]:
    """Compare a private copy of the live database with what is wanted, run by run.

    Returns:
        (first page, last page) of each stretch that differs, counted from 1; a difference in
        length counts as one to the longer one's end.
    """
    wanted = facts_of(want)
    if facts.page_size != wanted.page_size or facts.state != wanted.state:
        return [(1, max(facts.pages, wanted.pages, 1))]
    page = facts.page_size or 1
    stretches: list[tuple[int, int]] = []
    blobs = stored_runs(want, source)

    def read() -> Iterator[bytes]:
        for run in read_runs(fd, facts):
            source.tick(len(run) // page, 0)
            yield run

    def identify(runs: list[bytes]) -> list[tuple[int, bytes]]:
        return [(len(run), source.identify(run)) for run in runs]

    with in_order(identify, in_batches(read(), _RUNS_AT_ONCE), apart=_worth_threads(facts)) as identified:
        for position, (length, blob) in enumerate(chain.from_iterable(identified)):
            if position < len(blobs) and blob == blobs[position]:
                continue
            first = position * RUN_BYTES // page + 1
            stretches.append((first, first + max(length // page, 1) - 1))
    if wanted.runs > facts.runs:
        stretches.append((facts.length // page + 1, wanted.length // page))
    return stretches


def _worth_threads(facts: Facts) -> bool:
    return facts.length >= _WORTH_THREADS


def _unusable(capture: Capture, why: str) -> IntegrityError:
    return IntegrityError(
        "store.damaged",
        what=f"the manifest of {capture.component} ({why})",
        hint="`rfs verify --store` lists what is damaged and which checkpoints are whole.",
    )
