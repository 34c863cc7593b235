"""A restore into the live database itself, in one transaction, for a role that may not create another one.

The copy of the state before is in the store, taken first. While it is restored nobody else is in the database;
whoever is killed, the server takes the transaction back. A database that was written to after its copy was taken is
not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.drivers.postgresql import rights, room
from rfs.production.rollback.drivers.postgresql.clearing import clear
from rfs.production.rollback.drivers.postgresql.connect import connected, limit, row_of
from rfs.production.rollback.drivers.postgresql.content import Contents, Script
from rfs.production.rollback.drivers.postgresql.facts import (
    Database,
    give_again,
    instant_of,
    opened_at,
    read,
)
from rfs.production.rollback.drivers.postgresql.loading import in_order, load
from rfs.production.rollback.drivers.postgresql.marks import Beside, allow
from rfs.production.rollback.drivers.postgresql.notes import recall, remember
from rfs.production.rollback.drivers.postgresql.script import Piece, Statements
from rfs.production.rollback.drivers.postgresql.staging import differences, differing, know_equal
from rfs.production.rollback.drivers.postgresql.swap import LOCK_WAIT, alone, end_session
from rfs.production.rollback.drivers.postgresql.unwritten import Written, is_unwritten
from rfs.production.rollback.errors import ConflictError, IntegrityError
from rfs.production.rollback.model import Capture, Component, Restored

if TYPE_CHECKING:
    from psycopg import Connection

_LISTED = 3
_EXTENSIONS = """
SELECT e.extname, n.nspname, pg_has_role(e.extowner, 'USAGE'), coalesce(cardinality(e.extconfig), 0) > 0
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql'
"""
_CREATABLE = "SELECT DISTINCT name FROM pg_available_extension_versions WHERE trusted OR NOT superuser"
_FIXED = ("owner", "encoding", "collate", "ctype", "provider", "locale", "rules", "tablespace")


def required(connection: Connection[Any]) -> bool:
    """Tell whether this is the only way: the role may not create databases."""
    return not rights.role_of(connection).creates


def reclaim(connection: Connection[Any], c: Component, live: Beside) -> bool:
    """Put right what a run that was killed left: its session, and a closed door. Tell whether it was closed."""
    if (left := recall(c).session) is not None:
        end_session(connection, *left)
        remember(c, msgspec.structs.replace(recall(c), session=None))
    if not live.open:
        allow(connection, live.name, allowed=True)
    return not live.open


def copied(c: Component, digest: str, counted: Written) -> None:
    """Note that a copy was taken, and how the database stood before."""
    remember(c, msgspec.structs.replace(recall(c), copied=(digest, counted), late=False))


def oid_of(c: Component, copy: Capture) -> int | None:
    """Return which database a copy is of, if it is the one that was taken last for a restore in place."""
    copied = recall(c).copied
    return copied[1].oid if copied is not None and copied[0] == copy.fingerprint.digest else None


def is_left_alone(c: Component, want: Capture) -> bool:
    """Tell whether a database was not touched as it was written to after this very copy of it was taken."""
    notes = recall(c)
    return notes.late and notes.copied is not None and notes.copied[0] == want.fingerprint.digest


def prepare(connection: Connection[Any], c: Component, live: Beside, source: BlobSource, want: Capture) -> None:
    """Make sure that it can be done, before anything is stopped for it.

    Raises:
        ConflictError: something stands in the way that this role may not change.
        IntegrityError: the store has not all of it.
        RollbackError: there is too little room.
    """
    contents = Contents(want, source)
    contents.require()
    room.require(connection, c, live.name, want.size)
    with connected(c, live.name) as inside:
        _kept(inside, c, live, contents)
        _require_same_make(c, read(inside, live.name), want)


def restore(connection: Connection[Any], c: Component, live: Beside, source: BlobSource, want: Capture) -> Restored:
    """Converge the live database on a capture; see Driver.restore.

    Args:
        connection: to another database of the server.
    """
    reopened = reclaim(connection, c, live)
    if is_left_alone(c, want):
        text = f"{live.name} was written to after its copy had been taken, and was left as it is."
        return Restored(int(reopened), (text,))
    if recall(c).unequal != (live.oid, want.fingerprint.digest) and not differing(c, live, source, want):
        return Restored(int(reopened))
    with connected(c, live.name) as inside:
        pid, since = row_of(
            inside, "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
        remember(c, msgspec.structs.replace(recall(c), session=(pid, since)))
        with alone(connection, c, live, source, spared=pid) as closed:
            _require_unwritten(inside, c, live, closed)
            _replace(inside, c, live, source, want)
    remember(c, msgspec.structs.replace(recall(c), session=None))
    _read_back(c, live, source, want)
    return Restored(1)


def _require_unwritten(inside: Connection[Any], c: Component, live: Beside, closed: int) -> None:
    """Refuse to write over what is in no copy.

    When closing the door was the next transaction after the copy, and the last one, nobody can have written. Else what
    the server has counted and its catalogs decide: every session has ended, and with it told what it wrote.
    """
    notes = recall(c)
    if notes.copied is None:
        return
    digest, counted = notes.copied
    if notes.equal is not None and notes.equal[:2] == (live.oid, digest):
        next_one = notes.equal[2].startswith(f"{closed}:{closed}: ")
        if next_one and opened_at(closed, instant_of(inside)):
            return
    if is_unwritten(inside, counted, closed):
        return
    remember(c, msgspec.structs.replace(notes, late=True))
    raise ConflictError("postgresql.written", component=c.name, database=live.name)


def _replace(inside: Connection[Any], c: Component, live: Beside, source: BlobSource, want: Capture) -> None:
    contents = Contents(want, source)
    like = msgspec.convert(want.meta["database"], Database)
    limit(inside, source)
    number = "SELECT pg_current_xact_id()::text"
    with inside.transaction():
        inside.execute(LOCK_WAIT)
        before = row_of(inside, number)
        extensions, schemas, strange = _kept(inside, c, live, contents)
        clear(inside, extensions, schemas, source)
        load(inside, _within(in_order(contents), schemas, strange), source, c)
        give_again(inside, live.name, read(inside, live.name), like)
        limit(inside, source)
        inside.execute("ANALYZE")
        if row_of(inside, number) != before:
            raise RuntimeError("a statement of the dump has ended the transaction")
        # From now on what is live is no more what was copied.
        remember(c, msgspec.structs.replace(recall(c), copied=None, unequal=None))


def _kept(
    inside: Connection[Any], c: Component, live: Beside, contents: Contents
) -> tuple[set[str], set[str], set[str]]:
    """Return the extensions that stay, the schemas that stay, and those of the extensions that are others'.

    Raises:
        ConflictError: what is others' would have to be dropped or created.
    """
    wanted = {name.removeprefix("EXTENSION ") for name in _names(contents) if name.startswith("EXTENSION ")}
    rows = inside.execute(_EXTENSIONS).fetchall()
    found = {name for name, *_ in rows}
    creatable = {name for (name,) in inside.execute(_CREATABLE)}
    ways = {
        "they belong to other roles": rights.foreign(inside),
        "extensions that another role has created since": sorted(
            n for n, _, own, _ in rows if not own and n not in wanted
        ),
        "extensions that only a superuser may create": sorted(wanted - found - creatable),
        "extensions with rows of their own": sorted(n for n, _, _, keeps in rows if keeps and n in wanted),
    }
    for why, names in ways.items():
        if names:
            raise ConflictError(
                "postgresql.not_in_place", component=c.name, database=live.name, why=why, names=rights.some(names)
            )
    kept = found & wanted
    return (
        kept,
        {"public", *(where for name, where, *_ in rows if name in kept)},
        {n for n, _, own, _ in rows if not own},
    )


def _names(contents: Contents) -> Iterator[str]:
    for item, _ in contents.items():
        if isinstance(item, Script):
            yield from (name for name, _ in item.objects)


def _within(dump: Iterator[Piece], schemas: set[str], strange: set[str]) -> Iterator[Piece]:
    """Yield a dump for a transaction that is not its own, in a database that is not quite empty."""
    comments = {f"COMMENT EXTENSION {name}" for name in strange}
    made = {f"SCHEMA {name}" for name in schemas}
    for piece in dump:
        if isinstance(piece, Statements):
            if piece.name in comments:
                continue
            text = piece.text
            if piece.name.startswith("BLOBS"):  # their contents come with a transaction of their own
                lines = text.splitlines(keepends=True)
                text = b"".join(line for line in lines if line not in (b"BEGIN;\n", b"COMMIT;\n"))
            elif piece.name in made:
                text = text.replace(b"CREATE SCHEMA ", b"CREATE SCHEMA IF NOT EXISTS ", 1)
            yield Statements(piece.name, text)
        else:
            yield piece


def _require_same_make(c: Component, live: Database, want: Capture) -> None:
    like = msgspec.convert(want.meta["database"], Database)
    other = [field for field in _FIXED if getattr(like, field) != getattr(live, field)]
    if other:
        why = "it was created otherwise than at the checkpoint"
        raise ConflictError(
            "postgresql.not_in_place", component=c.name, database=c.name, why=why, names=", ".join(other)
        )


def _read_back(c: Component, live: Beside, source: BlobSource, want: Capture) -> None:
    different, identity, moment = differences(c, live.name, source, want)
    if different:
        raise IntegrityError("postgresql.restored_differs", component=c.name, what=rights.some(different))
    digest = want.fingerprint.digest
    notes = recall(c)
    spelled = {**notes.spelled, identity: digest} if identity != digest else notes.spelled
    remember(c, msgspec.structs.replace(notes, spelled=spelled))
    know_equal(c, digest, moment.instant, moment.counted)
