"""The driver of SQLite databases."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from rfs.production.rollback.driver import BlobSink, BlobSource, BlobStore, Driver, Finding, together
from rfs.production.rollback.drivers import displaced
from rfs.production.rollback.drivers.meta import refused
from rfs.production.rollback.drivers.sqlite import holders, room, rows
from rfs.production.rollback.drivers.sqlite.direct import SIDES, Patience
from rfs.production.rollback.drivers.sqlite.live import (
    lacks_bytes,
    live_size,
    observe_bytes,
    observed,
    opened_as_database,
    private_file,
    soundness,
    standing,
    status,
    touch,
)
from rfs.production.rollback.drivers.sqlite.pages import (
    Facts,
    assemble,
    differing,
    facts_of,
    fingerprint_of,
    store_runs,
)
from rfs.production.rollback.drivers.sqlite.place import (
    move_aside,
    put_database,
    put_raw,
    require_permission,
    set_ownership,
    sync_folder,
)
from rfs.production.rollback.drivers.sqlite.seen import COPIED_BYTES, Seen, seen
from rfs.production.rollback.drivers.sqlite.unchanged import glance, recall, remember
from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import ConflictError, IntegrityError, RollbackError
from rfs.production.rollback.migrating import MigrationsTable
from rfs.production.rollback.model import (
    Capture,
    Change,
    ChangeKind,
    Component,
    Fingerprint,
    Loss,
    Ref,
    Restored,
)

# Up to here a copy is checked when it is captured, and its indexes against their tables; above,
# that would cost more than the capture itself. What fails is recorded byte by byte: of that there is always a copy.
CHECKED_BYTES = COPIED_BYTES
LISTED = 20
DOCTOR_SECONDS = 2.0
_STAGED = "staged-"
_ODD = {"absent": "was missing", "other": "was no file"}


class SqliteOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a sqlite component.

    Attributes:
        path: the database file; relative to the folder of rfs.toml.
        busy_timeout: how long to wait for other programs' locks.
        migrations: what migrates it: alembic.ini, manage.py, or a folder of SQL; or a table, see MigrationsTable.
    """

    path: str
    busy_timeout: Duration = "30s"
    migrations: str | MigrationsTable | None = None

    def __post_init__(self) -> None:
        parse_duration(self.busy_timeout)


class SqliteDriver(Driver):
    """A SQLite database, captured online and restored in place.

    Capture copies it under readers and writers: through SQLite's backup API, or where nobody can write into it
    meanwhile as a file. Restore goes back through that API, as one transaction in the live file: connections
    that other programs hold open stay correct, and a crash is rolled back by SQLite itself. The log and the
    journal of a database are SQLite's: they are never copied, written or removed here.

    Where a database is wanted and something else stands, that is moved into the component's
    work folder (`displaced/`), and the database is made anew; what is no file, and could not be copied
    there, is moved aside beside it.
    """

    kind = "sqlite"
    options = SqliteOptions
    tables = True

    def __init__(self) -> None:
        # Digests of what was assembled here and found sound: the same bytes need no second check.
        self._sound: set[str] = set()

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        return self._capture(c, sink, previous, strict=True)

    def salvage(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        return self._capture(c, sink, previous, strict=False)

    def _capture(self, c: Component, sink: BlobSink, previous: Capture | None, *, strict: bool) -> Capture:
        path = _path(c)
        known = recall(c, path)
        if previous is not None and known == previous.fingerprint and _may_stand(c, facts_of(previous), strict=strict):
            facts = _salvaged(facts_of(previous), strict=strict)
            return msgspec.structs.replace(previous, stored=0, meta=msgspec.to_builtins(facts))
        before, file, patience = glance(path), standing(c, path), _patience(c, sink)
        with seen(c, path, patience, strict=strict) as found:
            facts, warnings = _checked(path, found, strict=strict)
            odd = facts.state == "database" and (facts.damaged or lacks_bytes(path, facts, file))
            if found.copy and odd and not strict:
                raw = observe_bytes(c, path, found.copy, found.fd, patience)
                facts = msgspec.structs.replace(raw, damaged=facts.damaged, exact=True)
            fingerprint, parts = store_runs(found.fd, facts, sink)
        if not facts.exact:
            remember(c, path, before, fingerprint)
        return Capture(
            component=c.name,
            kind=self.kind,
            fingerprint=fingerprint,
            parts=parts,
            entries=facts.pages,
            size=facts.length,
            warnings=warnings,
            meta=msgspec.to_builtins(facts),
        )

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        path = _path(c)
        known = None if rehash else recall(c, path)
        if known is not None:
            return known
        before = glance(path)
        with seen(c, path, _patience(c)) as found:
            fingerprint = fingerprint_of(found.fd, found.facts)
        remember(c, path, before, fingerprint)
        return fingerprint

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        path, wanted, patience = _path(c), facts_of(want), _patience(c, source)
        with seen(c, path, patience, exact=wanted.exact) as now:
            live, stretches = now.facts, differing(now.fd, now.facts, want, source)
        if wanted.exact and stretches:
            with observed(c, path, patience) as (_, _, live):
                pass  # how it is to be moved aside
        require_permission(path, live, wanted)
        changed = sum(last - first + 1 for first, last in stretches)
        warnings: list[str] = []
        if stretches:
            with self._assembled(c, source, want, lasting=True) as staged:
                if live.state == "other":
                    warnings.append(displaced.set_aside(path, c.name))
                elif live.state != "database" or wanted.state != "database":
                    warnings += move_aside(c, path, live, patience)
                if wanted.state == "database":
                    warnings += put_database(c, staged, path, live, patience)
                elif wanted.state == "raw":
                    put_raw(c, path, staged, wanted)
                elif wanted.state == "other":
                    with open(staged, "rb") as file:
                        displaced.put_back(path, file.read(), c.name)
        if wanted.state == "database" and (stretches or live.wal != wanted.wal):
            touch(c, path, "set_journal", patience, wal=wanted.wal)
            changed = changed or 1
        if wanted.is_file and _own(c, path, wanted, patience):
            changed = changed or 1
        if wanted.damaged:
            warnings.append(f"{path} failed SQLite's check when it was captured; it was restored as it was.")
        return Restored(changed, tuple(warnings))

    def outline(self, c: Component) -> Any:
        """See Driver: the schema, as the statements that made it, by name."""
        with observed(c, _path(c), _patience(c)) as (copy, _, facts):
            return rows.schema(copy) if facts.state == "database" else {"state": facts.state}

    def owns(self, c: Component) -> tuple[str, ...]:
        path = _path(c)
        return (path, *(path + side for side in SIDES))

    def examine(self, c: Component) -> Iterator[Finding]:
        path = _path(c)
        patience = Patience(min(DOCTOR_SECONDS, _seconds(c)))
        yield from displaced.left(path)
        try:
            if status(c, path) is None:
                raise RollbackError("path.missing", component=c.name, path=path)
            touch(c, path, "look", patience)
        except RollbackError as error:
            yield Finding("error", str(error), error.hint)
            return
        for needed in (path, os.path.dirname(path)):
            if not os.access(needed, os.W_OK):
                why = "this user may not write there"
                found = RollbackError("path.unwritable", component=c.name, path=needed, why=why)
                yield Finding("warning", str(found), found.hint)

    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        first = not room.there(c)
        # On the way back, what was staged for the way forward takes the space that is needed now.
        _unstage(c, but=_staged_path(c, want))
        if not os.path.exists(_staged_path(c, want)) and self.fingerprint(c, rehash=False) != want.fingerprint:
            with private_file(c, "stage") as copy:
                self._assemble(c, source, want, copy)
                os.fsync(copy[1])
                os.rename(copy[0], _staged_path(c, want))
                sync_folder(c.work)
        if first:
            room.make(c, live_size(_path(c)), facts_of(want).length)

    def release(self, c: Component) -> None:
        _unstage(c)
        room.release(c)

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        path, wanted = _path(c), facts_of(want)
        with seen(c, path, _patience(c, source), exact=wanted.exact) as now:
            live = now.facts
            keys = [f"pages {first}–{last}" for first, last in differing(now.fd, live, want, source)[:LISTED]]
            found = ""
            known = not keys and want.fingerprint.digest in self._sound
            if live.state == "database" and not wanted.as_it_was and not known:
                found = now.soundness(thorough=live.length <= CHECKED_BYTES)
        changes = [Change(c.name, ChangeKind.CHANGED, key) for key in keys]
        changes += rows.facts_changed(c.name, wanted, live)
        if found:
            changes.append(Change(c.name, ChangeKind.CHANGED, "integrity", None, Ref("integrity", label=found)))
        return changes

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        if b is not None:
            if a.fingerprint != b.fingerprint:
                with self._assembled(c, source, b) as after:
                    yield from self._compared(c, source, a, (after, facts_of(b)), b)
            return
        path = _path(c)
        if recall(c, path) == a.fingerprint:
            return
        with observed(c, path, _patience(c, source), exact=facts_of(a).exact) as (after, fd, facts):
            if fingerprint_of(fd, facts) != a.fingerprint:
                readable = facts_of(a).exact and facts.state == "raw"
                yield from self._compared(c, source, a, (after, msgspec.structs.replace(facts, exact=readable)))

    def _compared(
        self, c: Component, source: BlobSource, a: Capture, after: rows.Side, b: Capture | None = None
    ) -> list[Change]:
        """Compare a capture with a private copy; `b` is the capture that it was assembled from, if it was."""
        patience, base = _patience(c, source), None if b is None else (b, after[0])
        with (
            self._assembled(c, source, a, base=base) as before,
            opened_as_database(c, before, facts_of(a), patience) as old,
            opened_as_database(c, *after, patience) as new,
        ):
            return rows.compare(c.name, old, new, source.tick)

    @contextmanager
    def _assembled(
        self,
        c: Component,
        source: BlobSource,
        want: Capture,
        *,
        base: tuple[Capture, str] | None = None,
        lasting: bool = False,
    ) -> Iterator[str]:
        """Yield the path of a private copy of what was captured: the staged one, else one made now.

        Args:
            base: another capture, and its copy.
            lasting: it is for the live one's place, so that the disk must have it.
        """
        staged = _staged_path(c, want)
        if os.path.exists(staged):
            yield staged
            return
        with private_file(c, "whole") as copy:
            self._assemble(c, source, want, copy, base)
            if lasting:
                os.fsync(copy[1])
            yield copy[0]

    def _assemble(
        self,
        c: Component,
        source: BlobSource,
        want: Capture,
        copy: tuple[str, int],
        base: tuple[Capture, str] | None = None,
    ) -> None:
        facts, (path, fd) = facts_of(want), copy
        if base is None:
            assemble(want, source, fd)
        else:
            with open(base[1], "rb", buffering=0) as file:
                assemble(want, source, fd, (base[0], file.fileno()))
        # A database known to be damaged is put back as it was: that may be the state before.
        if facts.state == "database" and not facts.as_it_was and want.fingerprint.digest not in self._sound:
            found = soundness(path, thorough=facts.length <= CHECKED_BYTES)
            if found:
                raise IntegrityError("sqlite.damaged", path=_path(c), why=found)
            self._sound.add(want.fingerprint.digest)

    def select(self, c: Component, blobs: BlobStore, want: Capture, onto: Capture, keys: Sequence[str]) -> Capture:
        """Return the database of `onto` with the tables `keys` as in `want`."""
        from rfs.production.rollback.drivers.sqlite import tables  # few rollbacks choose any

        there = facts_of(onto)
        if facts_of(want).state != "database" or there.state != "database" or there.damaged:
            raise ConflictError("select.absent", component=c.name)
        with self._assembled(c, blobs, want) as wanted, private_file(c, "select") as (copy, fd):
            assemble(onto, blobs, fd)
            tables.put(copy, wanted, keys, c.name)
            facts = msgspec.structs.replace(there, length=os.fstat(fd).st_size)
            fingerprint, parts = store_runs(fd, facts, blobs)
        return msgspec.structs.replace(
            onto,
            fingerprint=fingerprint,
            parts=parts,
            entries=facts.pages,
            size=facts.length,
            meta=msgspec.to_builtins(facts),
        )

    def among(self, changes: Sequence[Change], keys: Sequence[str]) -> list[Change]:
        """Return the changes of these tables: of their rows, their columns and what defines them."""
        names = {*keys, *(f"schema:table.{key}" for key in keys)}
        return [change for change in changes if change.key in names or change.key.rpartition(".")[0] in names]

    def splits(
        self, c: Component, source: BlobSource, want: Capture, changes: Sequence[Change], keys: Sequence[str]
    ) -> Iterator[str]:
        """Yield a sentence about tables that refer to the chosen ones, or are referred to, and would stay as now."""
        from rfs.production.rollback.drivers.sqlite import tables  # few rollbacks choose any

        if facts_of(want).state != "database":
            return
        with self._assembled(c, source, want) as wanted:
            related = tables.belonging(wanted, keys)
        differing = [name for name in related if self.among(changes, [name])]
        if differing:
            yield together(c, keys, differing)

    def losses(self, c: Component, source: BlobSource, want: Capture, changes: Sequence[Change]) -> Iterator[Loss]:
        yield from rows.losses(c.name, changes)

    def caveats(self, c: Component, want: Capture, changes: Sequence[Change]) -> Iterator[str]:
        wanted, keys = facts_of(want), {change.key for change in changes}
        # "" is the whole: nothing is there, or it is no database; then another file takes its place.
        if not changes or "" in keys or wanted.state != "database":
            return
        path, seconds = _path(c), f"{_seconds(c):g} s"
        alone = [what for what in ("page size", "journal") if what in keys]
        wal = wanted.wal != ("journal" in keys)
        if alone and (wal or "journal" in keys):
            now = holders.openers(path) if wal else holders.readers(path)
            what = "page size" if "page size" in keys else "journal mode"
            needs = (
                f"{path} gets back another {what}, for which SQLite needs it alone: no other program may have it open"
            )
        elif wal:
            return
        else:
            now = holders.readers(path)
            needs = f"{path} has a rollback journal, so that SQLite writes to it only while nobody reads"
        has = f" Now {holders.shown(now)} {'have' if len(now) > 1 else 'has'} it." if now else ""
        yield f"{needs}.{has} Whoever does not let go is waited for {seconds} (busy_timeout); then it turns back."


def _options(c: Component) -> SqliteOptions:
    return msgspec.convert(dict(c.options), SqliteOptions)


def _path(c: Component) -> str:
    return os.path.abspath(os.path.join(c.home, _options(c).path))


def _seconds(c: Component) -> float:
    return parse_duration(_options(c).busy_timeout)


def _patience(c: Component, pulse: BlobSink | BlobSource | None = None) -> Patience:
    seconds = _seconds(c)
    return Patience(seconds if pulse is None else min(seconds, pulse.remaining()), pulse)


def _may_stand(c: Component, facts: Facts, *, strict: bool) -> bool:
    """Tell whether what an earlier capture recorded of the same file is what this kind of capture records."""
    if strict:
        return facts.state == "database"
    return not (facts.damaged or lacks_bytes(_path(c), facts, standing(c, _path(c))))


def _salvaged(facts: Facts, *, strict: bool) -> Facts:
    """Return the facts, marked when they are of a state before that is too large to be checked."""
    unchecked = facts.state == "database" and facts.length > CHECKED_BYTES
    return msgspec.structs.replace(facts, salvaged=unchecked and not strict)


def _checked(path: str, found: Seen, *, strict: bool) -> tuple[Facts, tuple[str, ...]]:
    """Return the facts with what SQLite's check found, and the warnings to record."""
    facts = _salvaged(found.facts, strict=strict)
    if facts.state != "database":
        what = _ODD.get(facts.state, "was no usable SQLite database")
        return facts, (f"{path} {what}; that was recorded as it was.",)
    damaged = found.soundness(thorough=False) if facts.length <= CHECKED_BYTES else ""
    if not damaged:
        return facts, ()
    return msgspec.structs.replace(facts, damaged=damaged), (
        f"{path} fails SQLite's check ({damaged}); it was captured as it is.",
    )


def _own(c: Component, path: str, wanted: Facts, patience: Patience) -> bool:
    """Give the live file its owner, group and mode, durably; return whether any was another."""
    try:
        changed = set_ownership(path, wanted)
        if changed:
            touch(c, path, "make_durable", patience)
    except OSError as error:
        raise refused(error, path, c.name) from error
    return changed


def _staged_path(c: Component, want: Capture) -> str:
    return os.path.join(c.work, f"{_STAGED}{want.fingerprint.digest[:32]}.db")


def _unstage(c: Component, but: str = "") -> None:
    for name in os.listdir(c.work) if os.path.isdir(c.work) else ():
        path = os.path.join(c.work, name)
        if name.startswith(_STAGED) and path != but:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise refused(error, path, c.name) from error
