"""What a capture, a restore and its check read of a live database: a private copy of it, or the file itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import apsw

from rfs.production.rollback.drivers.sqlite import apart
from rfs.production.rollback.drivers.sqlite.direct import Frozen, Patience, frozen
from rfs.production.rollback.drivers.sqlite.live import (
    UNUSABLE,
    explained,
    observed,
    ownership,
    soundness,
    status,
    unsound,
)
from rfs.production.rollback.drivers.sqlite.pages import Facts, header_page_size, uses_wal
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

# Up to here a copy costs next to nothing, and a capture has one to check.
COPIED_BYTES = 64 << 20
_HEADER = 100


class Seen(NamedTuple):
    """A database as of one moment.

    Attributes:
        fd: a descriptor of what is to be read of it.
        facts: what is known of it.
        copy: the path of the private copy; "" when it is the live file.
    """

    fd: int
    facts: Facts
    copy: str
    reader: apsw.Connection | None = None

    def soundness(self, *, thorough: bool) -> str:
        """Return what SQLite's own check finds wrong, or ""; see `live.soundness`."""
        return unsound(self.reader, thorough=thorough) if self.reader else soundness(self.copy, thorough=thorough)


@contextmanager
def seen(c: Component, path: str, patience: Patience, *, strict: bool = False, exact: bool = False) -> Iterator[Seen]:
    """Show the live database as of one moment, under its readers and writers; see `live.observed`.

    A large one with a write-ahead log is read where it is, if all of it is in its file: for as long as we read, what
    others commit goes into the log. With a rollback journal they would wait for the reader, so that one is copied.
    """
    with ExitStack() as open_:
        found = None if exact or not _is_large(path) or apart.needed(path) else _in_place(c, path, patience, open_)
        if found is not None:
            try:
                yield found
            except OSError as error:
                raise RollbackError("path.unreadable", component=c.name, path=path, why=error.strerror) from error
            return
        open_.close()
        copy, fd, facts = open_.enter_context(observed(c, path, patience, strict=strict, exact=exact))
        yield Seen(fd, facts, copy)


def _is_large(path: str) -> bool:
    try:
        return os.lstat(path).st_size > COPIED_BYTES
    except OSError:
        return False


def _in_place(c: Component, path: str, patience: Patience, open_: ExitStack) -> Seen | None:
    """Return the live file, frozen until `open_` is closed; None where there is more to it, or something wrong."""
    try:
        found = status(c, path)
        with explained(c, path, patience):
            still = open_.enter_context(frozen(path, patience))
            header = b"" if still is None else os.pread(still.file, _HEADER, 0)
            if found is None or still is None or not _holds_all(still, header):
                return None
    except OSError:
        return None  # who copies it finds the same, and tells
    except RollbackError as error:
        if error.key not in UNUSABLE:
            raise
        return None
    mode, uid, gid = ownership(found)
    facts = Facts(page_size=header_page_size(header), length=still.length, wal=True, mode=mode, uid=uid, gid=gid)
    return Seen(still.file, facts, "", still.reader)


def _holds_all(still: Frozen, header: bytes) -> bool:
    """Tell whether the file is what its header says, no byte more, and is written to through a log."""
    return len(header) == _HEADER and uses_wal(header) and os.fstat(still.file).st_size == still.length
