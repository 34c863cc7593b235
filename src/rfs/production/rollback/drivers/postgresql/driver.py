"""The driver of PostgreSQL databases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSink, BlobSource, BlobStore, Driver, Finding, together
from rfs.production.rollback.drivers.postgresql import aside, bouncer, compare, doctor, inplace, mixing, rights
from rfs.production.rollback.drivers.postgresql.connect import PostgresqlOptions, administering, connected, place_of
from rfs.production.rollback.drivers.postgresql.content import FORMAT, Contents, before, fingerprint_of, store
from rfs.production.rollback.drivers.postgresql.facts import (
    Database,
    counted_in,
    instant_of,
    opened_at,
    plain,
    read,
    system_of,
)
from rfs.production.rollback.drivers.postgresql.marks import Beside, allow, databases
from rfs.production.rollback.drivers.postgresql.notes import recall, remember
from rfs.production.rollback.drivers.postgresql.staging import (
    build,
    differing,
    dumped,
    is_known_equal,
    know_equal,
    know_unequal,
    staged,
    unstage,
)
from rfs.production.rollback.drivers.postgresql.swap import swap
from rfs.production.rollback.drivers.postgresql.unwritten import written_in
from rfs.production.rollback.errors import ConflictError, IntegrityError
from rfs.production.rollback.model import (
    Capture,
    Change,
    ChangeKind,
    Component,
    Effort,
    Fingerprint,
    Loss,
    Ref,
    Restored,
)

if TYPE_CHECKING:
    from psycopg import Connection

# Two cores, a server that fsyncs: for the estimate of a first rollback; afterwards the pace of the last one counts.
USUAL_PACE = 15e6
READ_PACE = 60e6
OBJECTS_PER_SECOND = 100.0
SWAP_SECONDS = 0.3


class PostgresqlDriver(Driver):
    """A database of a PostgreSQL server, captured online and restored by a change of names.

    A checkpoint is what pg_dump writes of one moment, and what it does not write: the database's own
    privileges, settings, owner and comment. To restore, that is built beside the live database while it
    serves, and read back; in the outage two names change places. What was live stays beside it, closed:
    so the state before a rollback is kept at no cost, and the safety capture of a rollback only refers to it.
    """

    kind = "postgresql"
    options = PostgresqlOptions
    tables = True

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        name = place_of(c).database
        like = before(previous, sink)
        with dumped(c, name, sink) as (moment, dump):
            database = plain(moment.database)
            fingerprint, parts, patched = store(database, dump, sink, like)
        know_equal(c, fingerprint.digest, moment.instant, moment.counted)
        notes = recall(c)
        if fingerprint.digest in notes.spelled:
            # From now on this spelling is a state of its own, with a checkpoint.
            spelled = {raw: meant for raw, meant in notes.spelled.items() if raw != fingerprint.digest}
            remember(c, msgspec.structs.replace(notes, spelled=spelled))
        keys = [[schema, table, list(columns)] for (schema, table), columns in moment.keys.items()]
        form = FORMAT if patched else 1
        meta = {"format": form, "state": "dump", "database": database, "keys": keys, "version": moment.version}
        return Capture(
            component=c.name,
            kind=self.kind,
            fingerprint=fingerprint,
            parts=parts,
            entries=fingerprint.entries,
            size=fingerprint.size,
            meta=meta,
        )

    def salvage(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        """See Driver: a reference to the live database, which the rollback will set aside and keep.

        Where it cannot be set aside, a copy.
        """
        with administering(c) as connection:
            live = _named(databases(connection), place_of(c).database)
            if live is not None and inplace.required(connection):
                inplace.reclaim(connection, c, live)
                return self._copy(c, live, sink, previous)
            meta = {
                "format": 1,
                "state": "reference",
                "system": system_of(connection),
                "oid": live.oid if live is not None else 0,
                "counted": counted_in(connection, live.name).written if live is not None else 0,
            }
        identity = blake3(msgspec.msgpack.encode((meta["system"], meta["oid"]))).hexdigest()
        return Capture(component=c.name, kind=self.kind, fingerprint=Fingerprint(identity), meta=meta)

    def _copy(self, c: Component, live: Beside, sink: BlobSink, previous: Capture | None) -> Capture:
        """Return a capture for a restore in place: the previous one, if nobody has written since."""
        with connected(c) as connection:
            written = written_in(connection)
        known = previous is not None and not _is_reference(previous) and is_known_equal(c, live, previous)
        taken = previous if previous is not None and known else self.capture(c, sink, previous)
        inplace.copied(c, taken.fingerprint.digest, written)
        return taken

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        with dumped(c, place_of(c).database, _Unhurried()) as (moment, dump):
            found = fingerprint_of(plain(moment.database), dump)
        return msgspec.structs.replace(found, digest=recall(c).spelled.get(found.digest, found.digest))

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        with mixing.explaining(c, source, want):
            return self._restore(c, source, want)

    def _restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        _require_known(want)
        bouncer.resume(c)
        with administering(c) as connection:
            every = databases(connection)
            live = _named(every, place_of(c).database)
            if live is not None and not _is_reference(want) and inplace.required(connection):
                return inplace.restore(connection, c, live, source, want)
            reopened = live is not None and not live.open
            if live is not None and reopened:
                # Closed by a run that was killed before it could change the names.
                allow(connection, live.name, allowed=True)
            if _is_reference(want):
                oid = want.meta["oid"]
                if (live.oid if live is not None else 0) == oid and system_of(connection) == want.meta["system"]:
                    return Restored(int(reopened))
                incoming = _displaced(connection, c, every, want) if oid else None
            else:
                incoming = staged(connection, c, want)
                if incoming is None:
                    if live is not None and not differing(c, live, source, want):
                        return Restored(int(reopened))
                    incoming = build(connection, c, source, want)
            found = (incoming.oid, want.fingerprint.digest) if incoming is not None else None
            remember(c, msgspec.structs.replace(recall(c), swapped=found, aside=True, unequal=None))
            opened = swap(connection, c, live, incoming, source)
            if found is not None:
                _know_swapped(c, found[1], opened)
        return Restored(1)

    def outline(self, c: Component) -> Any:
        """See Driver: the names of what is in the database, with the number of each table's rows."""
        with dumped(c, place_of(c).database, _Unhurried()) as (_, dump):
            return compare.outline(dump)

    def examine(self, c: Component) -> Iterator[Finding]:
        yield from doctor.examine(c)

    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        with mixing.explaining(c, source, want):
            self._stage(c, source, want)

    def _stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        _require_known(want)
        with administering(c) as connection:
            every = databases(connection)
            live = _named(every, place_of(c).database)
            if _is_reference(want):
                if want.meta["oid"] and (live is None or live.oid != want.meta["oid"]):
                    _displaced(connection, c, every, want)
                return
            if live is not None and inplace.required(connection):
                inplace.reclaim(connection, c, live)
                inplace.prepare(connection, c, live, source, want)
                return
            unstage(connection, c, but=want.fingerprint.digest)
            if staged(connection, c, want) is not None:
                return
            known = live is not None and recall(c).unequal == (live.oid, want.fingerprint.digest)
            if live is None or known or differing(c, live, source, want):
                build(connection, c, source, want)

    def release(self, c: Component) -> None:
        bouncer.resume(c)
        with administering(c) as connection:
            unstage(connection, c)
        notes = recall(c)
        if notes.copied is not None or notes.late:
            remember(c, msgspec.structs.replace(notes, copied=None, late=False))

    def discard(self, c: Component, kept: Sequence[Capture], gone: Sequence[Capture], *, dry_run: bool) -> list[str]:
        return aside.discard(c, kept, gone, dry_run=dry_run)

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        _require_known(want)
        with administering(c) as connection:
            live = _named(databases(connection), place_of(c).database)
            if _is_reference(want):
                right = (live.oid if live is not None else 0) == want.meta["oid"]
                return [] if right else [_other(c, want, live)]
            if live is None:
                return [_other(c, want, None)]
            if inplace.is_left_alone(c, want):
                return []
            notes = recall(c)
            remember(c, msgspec.structs.replace(notes, swapped=None))
            if notes.swapped != (live.oid, want.fingerprint.digest):
                return [_changed(c, name) for name in differing(c, live, source, want)]
            # Its content was read back when it was staged, and nobody could reach it until its name changed.
            like, database = msgspec.convert(want.meta["database"], Database), read(connection, live.name)
            fields = [field for field in like.__struct_fields__ if getattr(like, field) != getattr(database, field)]
            return [_changed(c, f"database {field}") for field in fields]

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        found = list(compare.changes(c, source, a, b))
        oid = None if b is None else b.meta["oid"] if _is_reference(b) else inplace.oid_of(c, b)
        if oid is not None:
            know_unequal(c, (oid, a.fingerprint.digest), certain=any(map(compare.is_plain, found)))
        yield from found

    def late(
        self, c: Component, source: BlobSource, want: Capture, safety: Capture, told: Sequence[Loss]
    ) -> Iterator[Change]:
        """See Driver: what was written to the displaced database from when its rows were counted until its end.

        It is read once more only when the server has counted more writes in it than it had by then.
        """
        if not _is_reference(safety) or not safety.meta["oid"]:
            return
        with administering(c) as connection:
            every = databases(connection)
            aside = next((each for each in every if each.oid == safety.meta["oid"]), None)
            if aside is None or aside.name == place_of(c).database:
                return
            if counted_in(connection, aside.name).written == safety.meta.get("counted"):
                return
        yield from compare.beyond(c.name, compare.changes(c, source, want, safety), told)

    def effort(self, c: Component, want: Capture, changes: Sequence[Change]) -> Effort | None:
        if not changes or _is_reference(want):
            return Effort(0.0, SWAP_SECONDS if changes else 0.0)
        pace = recall(c).pace or USUAL_PACE
        reading = want.size / READ_PACE
        building = want.entries / OBJECTS_PER_SECOND + want.size / pace + reading
        with administering(c) as connection:
            if inplace.required(connection):
                return Effort(2 * reading, building + reading)
        return Effort(building + reading, SWAP_SECONDS)

    def caveats(self, c: Component, want: Capture, changes: Sequence[Change]) -> Iterator[str]:
        if not changes:
            return
        name = place_of(c).database
        with connected(c) as connection:
            role = rights.role_of(connection)
            foreign, untrusted = rights.foreign(connection), rights.untrusted(connection)
            roles = rights.of_settings(connection)
        if not role.creates:
            effort = self.effort(c, want, changes)
            seconds = effort.outage if effort is not None else 0.0
            yield (
                f"The role {role.name} may not create databases: {name} is restored in place, in one transaction,"
                f" and the outage grows with the data: about {seconds:,.0f} s for {want.size / 1e6:,.0f} MB."
            )
        if foreign and not role.superuser:
            named = rights.some(foreign)
            yield f"Objects in {name} belong to other roles, and {role.name} cannot restore them: {named}."
        if roles and role.creates:
            named = rights.some(roles)
            yield f"{role.name} may not restore what these roles have set for themselves in {name}: {named}."
        if untrusted and role.creates and not role.superuser:
            yield f"Only a superuser may create these extensions of {name}: {rights.some(untrusted)}."

    def stands(self, c: Component, want: Capture) -> tuple[bool | None, str]:
        _require_known(want)
        name = place_of(c).database
        with connected(c) as connection:
            counted = counted_in(connection, name)
            if _is_reference(want):
                return counted.oid == want.meta["oid"] and system_of(connection) == want.meta["system"], ""
            if read(connection, name) != msgspec.convert(want.meta["database"], Database):
                return False, "the database's own privileges, settings or comment"
            digest, instant = want.fingerprint.digest, instant_of(connection)
        notes = recall(c)
        if notes.equal == (counted.oid, digest, instant):
            return True, ""
        how = "`rfs diff` reads it"
        if notes.counted is None or notes.counted[0] != digest:
            return None, f"not compared since; {how}"
        then = notes.counted[1]
        if (then.oid, then.since) != (counted.oid, counted.since) or counted.written < then.written:
            return None, f"written to, or made anew; {how}"
        rows = counted.written - then.written
        return None, f"the server has counted {rows:,} rows written since, in its catalogs and elsewhere; {how}"

    def select(self, c: Component, blobs: BlobStore, want: Capture, onto: Capture, keys: Sequence[str]) -> Capture:
        """See Driver: a dump of `onto` with the tables `keys` as in `want`, which is then built as any other."""
        _require_known(want)
        if not _is_there(want) or not _is_there(onto):
            raise ConflictError("select.absent", component=c.name)
        chosen = frozenset(map(mixing.named, keys))
        theirs = self._of_tables(c, blobs, want, chosen)
        wanted = mixing.Wanted(Contents(theirs, blobs), chosen)
        with compare.pieces_of(c, blobs, onto) as (meta, dump):
            # What is in pieces of the live database now is mostly in the store already.
            found = store(meta["database"], mixing.mixed(dump, wanted, chosen, c.name), blobs, before(want, blobs))
        fingerprint, parts, patched = found
        others = [key for key in meta["keys"] if (key[0], key[1]) not in chosen]
        known = [*others, *(key for key in theirs.meta["keys"] if (key[0], key[1]) in chosen)]
        meta |= {"format": FORMAT if patched else 1, "state": "dump", "keys": known, "chosen": list(keys)}
        return Capture(
            component=c.name,
            kind=self.kind,
            fingerprint=fingerprint,
            parts=parts,
            entries=fingerprint.entries,
            size=fingerprint.size,
            meta=meta,
        )

    @staticmethod
    def _of_tables(c: Component, blobs: BlobStore, want: Capture, chosen: frozenset[mixing.Name]) -> Capture:
        """Return a capture in the store that has the rows of some tables at least."""
        if not _is_reference(want):
            return want
        with compare.pieces_of(c, blobs, want) as (meta, dump):
            fingerprint, parts, _ = store(meta["database"], mixing.only(dump, chosen), blobs, None)
        return msgspec.structs.replace(want, fingerprint=fingerprint, parts=parts, meta={**want.meta, **meta})

    def among(self, changes: Sequence[Change], keys: Sequence[str]) -> list[Change]:
        """Return the changes of these tables: of their rows, their columns, and of what is called after them."""
        chosen = frozenset(map(mixing.named, keys))
        return [change for change in changes if mixing.is_of(change.key, chosen)]

    def splits(
        self, c: Component, source: BlobSource, want: Capture, changes: Sequence[Change], keys: Sequence[str]
    ) -> Iterator[str]:
        """Yield sentences about what a rollback of some tables costs, and which others belong to them."""
        if _is_reference(want):
            return
        effort = self.effort(c, want, changes)
        if changes and effort is not None:
            yield (
                f"Tables of {c.name} go back in a copy of the whole database, which is made before the services are "
                f"stopped, and again in the outage when anything was written meanwhile: about {effort.staging:,.0f} s."
            )
        chosen = [mixing.named(key) for key in keys]
        differing = [
            mixing.shown(name)
            for name in mixing.belonging(Contents(want, source), chosen)
            if self.among(changes, [mixing.shown(name)])
        ]
        if differing:
            yield together(c, keys, differing)

    def losses(self, c: Component, source: BlobSource, want: Capture, changes: Sequence[Change]) -> Iterator[Loss]:
        yield from compare.losses(c.name, changes)


def _know_swapped(c: Component, digest: str, opened: int) -> None:
    """Note that the database whose name has just changed is still what it was built as, if nobody has written since."""
    with connected(c) as connection:
        counted, instant = counted_in(connection, place_of(c).database), instant_of(connection)
    if opened_at(opened, instant):
        know_equal(c, digest, instant, counted)


class _Unhurried:
    """The pulse of what is only looked at: nobody set it a time."""

    def tick(self, items: int = 0, size: int = 0) -> None:
        pass

    def remaining(self) -> float:
        return 86_400.0


def _named(found: Sequence[Beside], name: str) -> Beside | None:
    return next((each for each in found if each.name == name), None)


def _is_there(capture: Capture) -> bool:
    return not _is_reference(capture) or bool(capture.meta["oid"])


def _is_reference(want: Capture) -> bool:
    return bool(want.meta["state"] == "reference")


def _displaced(connection: Connection[Any], c: Component, found: Sequence[Beside], want: Capture) -> Beside:
    """Return the database that a reference means.

    Raises:
        ConflictError: it is gone, or no longer what it was.
    """
    known = next((each for each in found if each.oid == want.meta["oid"]), None)
    live = place_of(c).database
    if known is None or known.mark.live != live or system_of(connection) != want.meta["system"]:
        raise ConflictError("postgresql.displaced_gone", component=c.name, database=live, oid=want.meta["oid"])
    return known


def _require_known(want: Capture) -> None:
    if want.meta["format"] > FORMAT:
        raise IntegrityError("capture.newer", component=want.component, found=want.meta["format"], known=FORMAT)


def _other(c: Component, want: Capture, live: Beside | None) -> Change:
    if live is None:
        return Change(c.name, ChangeKind.REMOVED, "database", Ref("database"), None)
    return Change(c.name, ChangeKind.CHANGED, "database", Ref("database"), Ref(f"oid {live.oid}"))


def _changed(c: Component, key: str) -> Change:
    return Change(c.name, ChangeKind.CHANGED, key, Ref("captured"), Ref("live"))
