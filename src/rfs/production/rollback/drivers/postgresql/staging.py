"""The wanted database, built beside the live one while that still serves, and read back before it is used."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSource, Pulse
from rfs.production.rollback.drivers.postgresql import room
from rfs.production.rollback.drivers.postgresql.connect import connected, limit, place_of, row_of
from rfs.production.rollback.drivers.postgresql.content import Contents, Digest
from rfs.production.rollback.drivers.postgresql.facts import (
    Counted,
    Database,
    Held,
    create,
    give,
    held,
    instant_of,
    is_quiet,
    plain,
)
from rfs.production.rollback.drivers.postgresql.loading import load_by_two, meanwhile
from rfs.production.rollback.drivers.postgresql.marks import (
    Beside,
    allow,
    databases,
    drop,
    mine,
    new_mark,
    new_name,
    write_mark,
)
from rfs.production.rollback.drivers.postgresql.notes import recall, remember
from rfs.production.rollback.drivers.postgresql.programs import dumping
from rfs.production.rollback.drivers.postgresql.script import (
    PREAMBLE,
    Piece,
    Rows,
    Statements,
    Table,
    pieces,
)
from rfs.production.rollback.errors import IntegrityError
from rfs.production.rollback.model import Capture, Component, utc_now

if TYPE_CHECKING:
    from psycopg import Connection

# With less, the time to make the tables is most of it.
LEAST_FOR_A_PACE = 10 << 20
# What may be written in other words after a dump and a restore: brackets and casts.
_SPELLING = re.compile(rb"\(|\)|::[a-z ]+(\([0-9, ]*\))?(\[\])?|\s")


@contextmanager
def dumped(c: Component, name: str, pulse: Pulse) -> Iterator[tuple[Held, Iterator[Piece]]]:
    """Yield a moment of a database and its dump, piece by piece."""
    with held(c, name) as moment:
        yield moment, pieces(dumping(c, name, moment.version, moment.snapshot, pulse))


def staged(connection: Connection[Any], c: Component, want: Capture) -> Beside | None:
    """Return the database that stands ready for a capture."""
    for each in mine(connection, c):
        if (each.mark.state, each.mark.digest) == ("staged", want.fingerprint.digest):
            return each
    return None


def unstage(connection: Connection[Any], c: Component, but: str = "") -> None:
    """Drop what staging left, but for what was staged for the capture with this digest."""
    notes = recall(c)
    for each in databases(connection):
        if not each.mark.state and each.name in notes.making:
            drop(connection, each.name)
    for each in mine(connection, c):
        if each.mark.state == "building" or (each.mark.state == "staged" and each.mark.digest != but):
            drop(connection, each.name)
    if notes.making:
        remember(c, msgspec.structs.replace(notes, making=()))


def build(connection: Connection[Any], c: Component, source: BlobSource, want: Capture) -> Beside:
    """Build what was captured beside the live database, and read it back.

    Raises:
        IntegrityError: the store has not all of it, or what was built differs from it.
        RollbackError: the server refuses some of it.
    """
    contents = Contents(want, source)
    contents.require()
    like = msgspec.convert(want.meta["database"], Database)
    live = place_of(c).database
    room.require(connection, c, live, want.size)
    name = new_name(live)
    notes = recall(c)
    remember(c, msgspec.structs.replace(notes, making=(*notes.making, name)))
    limit(connection, source)
    create(connection, name, like)
    write_mark(connection, name, new_mark(c, "building", digest=want.fingerprint.digest))
    began = time.monotonic()
    with connected(c, name) as inside:
        with connected(c, name) as beside:
            load_by_two((inside, beside), contents, source, c)
        pace = want.size / max(time.monotonic() - began, 0.001) if want.size > LEAST_FOR_A_PACE else None
        give(connection, name, like)
        limit(inside, source)
        with meanwhile(inside, "ANALYZE", source):
            alias = require_equal(c, name, source, want)
    allow(connection, name, allowed=False)
    since = utc_now().isoformat(timespec="seconds")
    mark = new_mark(c, "staged", digest=want.fingerprint.digest, since=since, comment=like.comment)
    write_mark(connection, name, mark)
    notes = recall(c)
    spelled = {**notes.spelled, alias: want.fingerprint.digest} if alias != want.fingerprint.digest else notes.spelled
    remember(c, msgspec.structs.replace(notes, making=(), spelled=spelled, pace=pace or notes.pace))
    (oid,) = row_of(connection, "SELECT oid::bigint FROM pg_database WHERE datname = %s", name)
    return Beside(oid, name, open=False, mark=mark)


def require_equal(c: Component, name: str, source: BlobSource, want: Capture) -> str:
    """Read a database back; return the identity it has, which is the capture's but for the server's spelling.

    Raises:
        IntegrityError: it differs.
    """
    different, identity, _ = differences(c, name, source, want)
    if different:
        what = ", ".join(different[:3]) + (f" and {len(different) - 3} more" if len(different) > 3 else "")
        raise IntegrityError("postgresql.staged_differs", component=c.name, what=what)
    return identity


def differing(c: Component, live: Beside, source: BlobSource, want: Capture) -> list[str]:
    """Return the names of what differs between the live database and a capture.

    Nothing is read when it was found equal and nobody has written anything on the server since: in the outage
    of a rollback that has nothing to restore here, reading all of it would be all of the outage.
    """
    if is_known_equal(c, live, want):
        return []
    different, _, moment = differences(c, live.name, source, want)
    if not different:
        know_equal(c, want.fingerprint.digest, moment.instant, moment.counted)
    return different


def is_known_equal(c: Component, live: Beside, want: Capture) -> bool:
    """Tell whether a database was found equal to a capture, and nobody has written anything on the server since."""
    known = recall(c).equal
    if known is None or known[:2] != (live.oid, want.fingerprint.digest):
        return False
    with connected(c, live.name) as inside:
        return known[2] == instant_of(inside)


def know_equal(c: Component, digest: str, instant: str, counted: Counted) -> None:
    """Note that a database was equal to a capture at an instant."""
    equal = (counted.oid, digest, instant) if is_quiet(instant) else None
    notes = recall(c)
    unequal = notes.unequal if notes.unequal != (counted.oid, digest) else None
    with suppress(OSError):  # it only spares work later, and a full disk must not stand in a checkpoint's way
        remember(c, msgspec.structs.replace(notes, equal=equal, counted=(digest, counted), unequal=unequal))


def know_unequal(c: Component, pair: tuple[int, str], *, certain: bool) -> None:
    """Note whether a database differs for certain from the capture with this digest.

    All of it was read to say what will be lost: to stage what it is to become, it need not be read again.
    """
    notes = recall(c)
    if certain != (notes.unequal == pair):
        with suppress(OSError):  # as above
            remember(c, msgspec.structs.replace(notes, unequal=pair if certain else None))


def differences(c: Component, name: str, source: BlobSource, want: Capture) -> tuple[list[str], str, Held]:
    """Return the names of what differs between a database and a capture, its identity, and the moment it was read."""
    like = msgspec.convert(want.meta["database"], Database)
    with dumped(c, name, source) as (moment, dump):
        # The comment of one that is staged tells that it is.
        comment = like.comment if name != place_of(c).database else moment.database.comment
        database = msgspec.structs.replace(moment.database, comment=comment)
        digest = Digest(plain(database))
        found = _outline(dump, digest)
    identity = digest.fingerprint()
    if identity == want.fingerprint:
        return [], identity.digest, moment
    wanted = _outline(Contents(want, source).pieces(), None)
    names = {key for key in {*found, *wanted} if found.get(key) != wanted.get(key)}
    names |= {
        f"database {field}" for field in database.__struct_fields__ if getattr(database, field) != getattr(like, field)
    }
    return sorted(names), identity.digest, moment


def _outline(dump: Iterable[Piece], digest: Digest | None) -> dict[str, object]:
    """Return the hash of each object, in no particular spelling, and of each table's rows, in no particular order.

    A server puts rows where there is room, also those of a table that is filled for the first time.
    """
    hashes: dict[str, Any] = {}
    rows: dict[str, int] = {}
    table = ""
    for piece in dump:
        if digest is not None:
            digest.add(piece)
        match piece:
            case Statements(name, text) if name != PREAMBLE:
                hashes.setdefault(name, blake3()).update(_SPELLING.sub(b"", text))
            case Table(header):
                table = f"rows of {header}"
                rows.setdefault(table, 0)
            case Rows(text):
                # A sum, as an exclusive or would not see a row that is there twice.
                rows[table] += sum(map(hash, text.removesuffix(b"\n").split(b"\n")))
    return {**rows, **{name: each.digest() for name, each in hashes.items()}}
