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


class Seen(msgspec.Struct, frozen=True):
    """Which fingerprint the files had when they looked like this."""

    path: str
    signature: Signature
    fingerprint: Fingerprint


def signature(path: str) -> Signature:
    """Return what lstat says of every file that a commit writes to."""
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
    if seen.path != path or seen.signature[0] is None or seen.signature != signature(path):
        return None
    return seen.fingerprint


def remember(c: Component, path: str, before: Signature, fingerprint: Fingerprint) -> None:
    """Keep `fingerprint` for `recall`, unless the database may have changed since it was read.

    Args:
        before: the signature taken before the database was read.
    """
    target = os.path.join(c.work, _FILE)
    quiet = time.time_ns() - QUIET_NS
    certain = before[0] is not None and all(found is None or max(found[3], found[4]) < quiet for found in before)
    # A look at a database must not fail because this user may not write to the work folder.
    with suppress(OSError):
        if not certain or signature(path) != before:
            os.unlink(target)
            return
        temporary = f"{target}.{os.getpid()}"
        with open(temporary, "wb") as file:
            file.write(msgspec.json.encode(Seen(path, before, fingerprint)))
        os.replace(temporary, target)
