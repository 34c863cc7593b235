"""What this machine remembers of a component's databases; without it everything is read again."""

from __future__ import annotations

import os

import msgspec

from rfs.production.rollback.drivers.postgresql.facts import Counted
from rfs.production.rollback.drivers.postgresql.unwritten import Written
from rfs.production.rollback.model import Component

_FILE = "postgresql.json"


class Notes(msgspec.Struct, frozen=True):
    """Facts that spare work.

    Attributes:
        making: names of databases that are being created, and may have no mark yet.
        swapped: (oid, digest) of the database that was checked when it was staged and is swapped in; until the
            read-back that it stands for.
        equal: (oid, digest, instant) of a database that was read and found equal to a capture.
        unequal: (oid, digest) of a database that was read last, and of a capture whose rows or facts it has not;
            until it is changed.
        counted: (digest, what the server had counted) when it was known to be equal.
        pace: bytes of rows per second with which this server was filled last; 0 when it never was.
        copied: (digest, how the database stood) when the copy of the state before a restore in place was taken,
            until that is done.
        late: a restore in place was refused as something was written after that.
        session: process and beginning of the session that restores in place.
        aside: whether databases may have been set aside; None when nobody has looked.
        spelled: the identity that a restored database has, to the identity of the capture that it was made of:
            a server writes some expressions in other words once they were dumped and restored, and puts rows
            where there is room.
    """

    making: tuple[str, ...] = ()
    swapped: tuple[int, str] | None = None
    equal: tuple[int, str, str] | None = None
    spelled: dict[str, str] = {}
    counted: tuple[str, Counted] | None = None
    pace: float = 0.0
    aside: bool | None = None
    unequal: tuple[int, str] | None = None
    copied: tuple[str, Written] | None = None
    late: bool = False
    session: tuple[int, str] | None = None


def recall(c: Component) -> Notes:
    try:
        with open(os.path.join(c.work, _FILE), "rb") as file:
            return msgspec.json.decode(file.read(), type=Notes)
    except (OSError, msgspec.DecodeError):
        return Notes()


def remember(c: Component, notes: Notes) -> None:
    """Write them down so that they are there wholly or as they were."""
    os.makedirs(c.work, mode=0o700, exist_ok=True)
    path = os.path.join(c.work, _FILE)
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(notes))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path + ".new", path)
