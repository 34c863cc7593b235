"""Knowing without reading that a database has not changed.

A commit writes to the database, to its write-ahead log or to its rollback journal, and so
changes what lstat says of that file. What was seen is remembered only when the files had
been quiet for longer than any clock of a file system is coarse: a write in the same tick
as a look at the file would be invisible in its times.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

import msgspec

from rfs.production.rollback.model import Component, Fingerprint

# Some file systems keep times in steps of two seconds.
QUIET_NS = 2_000_000_000
_FILE = "seen.json"

Signature = list[tuple[int, int, int, int, int] | None]


class Glance(msgspec.Struct, frozen=True):
    """What the files looked like, and when (nanoseconds since 1970)."""

    taken: int
    signature: Signature


class Seen(msgspec.Struct, frozen=True):
    """Which fingerprint the files had when they looked like this."""

    path: str
    signature: Signature
    fingerprint: Fingerprint


def glance(path: str) -> Glance:
    """Look at every file that a commit writes to; to be done before the database is read."""
    return Glance(time.time_ns(), _signature(path))


def _signature(path: str) -> Signature:
    return [_identity(path), _identity(path + "-wal"), _identity(path + "-journal")]


def _identity(path: str) -> tuple[int, int, int, int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if found.st_size == 0:
        # Our own reading makes an empty log and removes it again.
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def recall(c: Component, path: str) -> Fingerprint | None:
    """Return the fingerprint of the live database if it is known for sure, without reading it."""
    try:
        with open(os.path.join(c.work, _FILE), "rb") as file:
            seen = msgspec.json.decode(file.read(), type=Seen)
    except (OSError, msgspec.DecodeError):
        return None
    if seen.path != path or seen.signature[0] is None or seen.signature != _signature(path):
        return None
    return seen.fingerprint


def remember(c: Component, path: str, before: Glance, fingerprint: Fingerprint) -> None:
    """Keep `fingerprint` for `recall`, unless a change since `before` could go unnoticed.

    Args:
        before: taken before the database was read.
    """
    if before.signature[0] is None:
        return
    quiet = before.taken - QUIET_NS
    if any(found is not None and max(found[3], found[4]) >= quiet for found in before.signature):
        return
    target = os.path.join(c.work, _FILE)
    # A look at a database must not fail because this user may not write to the work folder.
    with suppress(OSError):
        temporary = f"{target}.{os.getpid()}"
        with open(temporary, "wb") as file:
            file.write(msgspec.json.encode(Seen(path, before.signature, fingerprint)))
        os.replace(temporary, target)
