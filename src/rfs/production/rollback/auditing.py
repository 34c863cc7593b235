"""The audit log's file: what is owed to it is appended, and it is read back. Nothing it does may stop a rollback.

One file of lines, only ever appended to, so that `chattr +a` and a shipper of logs can be put to it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

import msgspec

from rfs.production.rollback.audit import BEGAN, DAMAGE, TORN, Fact, Reach, Verified, digest, follow, lines_of, verify
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import storable, utc_now
from rfs.production.rollback.owing import AUDITED

FILE = "audit.jsonl"


class AuditLog:
    """Args: folder: the store's. catalog: which knows how far the log reached. name: the application's."""

    def __init__(self, folder: str, catalog: Catalog, name: str) -> None:
        self.path = os.path.join(folder, FILE)
        self._catalog = catalog
        self._name = name

    def append(self, facts: Sequence[Fact]) -> Reach:
        """Append the facts that are not in it yet; to be called with the application's lock held.

        What a crash left of a line, and damage, get an entry of their own first: they are never mended.

        Returns:
            How far it reaches now, which is to be noted in the catalog.

        Raises:
            OSError: it cannot be read or written; it may have part of a line more.
        """
        # Not for writing alone: that would wait for a reader, were it a pipe.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o600)
        try:
            size = _require_file(descriptor)
            reach, lead, first, there = self._standing(descriptor, size)
            fresh = [*first, *(fact for fact in facts if fact.key not in there)]
            if not fresh:
                return reach
            data, after = lines_of(fresh, reach, utc_now().isoformat())
            _write(descriptor, lead + data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if size == 0:
            _sync_folder(os.path.dirname(self.path))
        return after

    def _standing(self, descriptor: int, size: int) -> tuple[Reach, bytes, list[Fact], frozenset[str]]:
        """Return how far it reaches, what comes before the next line, entries about what it is, and keys it has."""
        known = self.reach()
        if known is None and size == 0:
            return (
                Reach(),
                b"",
                [_about(BEGAN, self._name, store=os.path.realpath(os.path.dirname(self.path)))],
                _NO_KEYS,
            )
        known = known or Reach()
        followed = None
        if size >= known.size >= 0:
            followed = follow(_read(descriptor, known.size, size), known)
        if followed is None:
            ended = size == 0 or _read(descriptor, size - 1, size) == b"\n"
            facts = {"expected": str(known.size), "found": str(size), "sha256": digest(_read(descriptor, 0, size))}
            lead = b"" if ended else b"\n"
            about = [_about(DAMAGE, self._name, **facts)]
            return Reach(max(known.count, 0), known.head, size + len(lead)), lead, about, _NO_KEYS
        reach, keys, rest = followed
        if not rest:
            return reach, b"", [], keys
        torn = _about(TORN, self._name, sha256=digest(rest), bytes=str(len(rest)))
        return Reach(reach.count, reach.head, size + 1), b"\n", [torn], keys

    def reach(self) -> Reach | None:
        """Return how far it reached when it was last written to; None when it never was."""
        noted = self._catalog.noted(AUDITED)
        if noted is None:
            return None
        try:
            return msgspec.json.decode(noted, type=Reach)
        except msgspec.DecodeError:
            return Reach(size=-1)  # no file is as short, so that it is told as damage

    def read(self) -> bytes | None:
        """Return all of it, or None where there is no file.

        Raises:
            RollbackError: audit.unreadable.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                _require_file(descriptor)
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RollbackError("audit.unreadable", path=self.path, why=error.strerror) from error

    def verify(self, heads: Sequence[str] = ()) -> Verified:
        """Read all of it and say what is wrong; see audit.verify."""
        known = self.reach()  # first: whoever writes meanwhile only makes it longer
        return verify(self.read(), known, heads)


_NO_KEYS: frozenset[str] = frozenset()


def _about(what: str, name: str, **detail: str) -> Fact:
    return Fact(
        key=f"log {what}",
        when=utc_now().isoformat(),
        who="",
        what=what,
        outcome="",
        subject=storable(name),
        detail=detail,
    )


def _require_file(descriptor: int) -> int:
    """Return its size; a pipe would wait, and a device may have no end."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no file")
    return found.st_size


def _read(descriptor: int, begin: int, end: int) -> bytes:
    data = bytearray()
    while len(data) < end - begin and (more := os.pread(descriptor, end - begin - len(data), begin + len(data))):
        data += more
    return bytes(data)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
