"""Tracking: what is changed outside of rfs becomes an operation of the log, with the states before and after it.

The state before is the one in which the component was last seen: in a checkpoint that tracking took, or that a
rollback went to. So whatever was missed, by a daemon that was killed or a notice that was lost, is found by the next
comparison, and recorded as one edit. Nothing is kept in memory that this needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from threading import Lock
from typing import Any

import msgspec

from rfs.production.rollback import keypath
from rfs.production.rollback.application import Application
from rfs.production.rollback.capturing import Part
from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.edits import (
    NOTE,
    Burst,
    Expected,
    Standing,
    TrackTable,
    parse_track,
    remembered,
    standing,
    told,
)
from rfs.production.rollback.errors import (
    InterruptedByUserError,
    LockedError,
    NotFoundError,
    RollbackError,
    TimedOutError,
)
from rfs.production.rollback.model import (
    Capture,
    Change,
    CheckpointType,
    DeploymentCheckpoint,
    OperationStatus,
    new_id,
    utc_now,
)
from rfs.production.rollback.noticing import Noticer, Place
from rfs.production.rollback.operation import EDIT, Operation
from rfs.production.rollback.operationlog import AnyOperation
from rfs.production.rollback.plan import Plan
from rfs.production.rollback.wiring import inside

# While rfs itself is at work, and when it has just begun to be.
_LATER_SECONDS = 1.0
# So many operations are gone through for what rfs did itself; after more the components are taken as they are.
_LOOKED_BACK = 1_000
_MIB = 1 << 20


class _MovedError(Exception):
    """Somebody did something with rfs meanwhile: everything is to be looked at again."""


class Tracker:
    """Args:
    say: told (what, text, subject) of an edit that was recorded, and that they are from now on.
    complain: given (about, error), and (about, None) when it is over.
    wake: called, in another thread, when there is something new to wait for.
    """

    def __init__(
        self,
        say: Callable[[str, str, str], None],
        complain: Callable[[str, RollbackError | None], None],
        wake: Callable[[], None],
    ) -> None:
        self._say = say
        self._complain = complain
        self._wake = wake
        self._noticer: Noticer | None = None
        self._followed: object = None
        self._guard = Lock()
        self._bursts: dict[str, Burst] = {}
        self._compare: dict[str, datetime] = {}

    def close(self) -> None:
        """Notice nothing any longer."""
        if self._noticer is not None:
            self._noticer.stop()
        self._noticer = self._followed = None

    def turn(self, app: Application, *, once: bool = False) -> float:
        """Record what is due; return how many seconds until the next turn.

        Args:
            once: compare everything now, and notice nothing.

        Raises:
            UsageError: `[track]` cannot be used.
        """
        table = parse_track(app.settings, {name: part.component.kind for name, part in app.parts.items()})
        if table is None:
            self.close()
            return float("inf")
        if not once:
            self._follow(app, table)
        if app.is_worked_on() or app.catalog.open_operation() is not None or app.deployments.open() is not None:
            # What is written now belongs to that.
            return _LATER_SECONDS
        for name in table.components:
            if once or self._is_due(name, table):
                self._look(app, table, name)
        return 0.0 if once else self._wait(table)

    # — when —

    def _noticed(self, name: str) -> None:
        now = utc_now()
        with self._guard:
            burst = self._bursts.get(name)
            self._bursts[name] = Burst(now, now) if burst is None else msgspec.structs.replace(burst, last=now)
        if burst is None:
            self._wake()

    def _due(self, name: str, table: TrackTable) -> datetime:
        with self._guard:
            burst = self._bursts.get(name)
        compare = self._compare.get(name) or datetime.min.replace(tzinfo=utc_now().tzinfo)
        if burst is None:
            return compare
        return min(compare, burst.due(parse_duration(table.quiet), parse_duration(table.at_most)))

    def _is_due(self, name: str, table: TrackTable) -> bool:
        return self._due(name, table) <= utc_now()

    def _wait(self, table: TrackTable) -> float:
        return max(0.0, min((self._due(name, table) - utc_now()).total_seconds() for name in table.components))

    def _follow(self, app: Application, table: TrackTable) -> None:
        """Have what is tracked noticed; begin anew when rfs.toml or a folder is another one."""
        tracked = {name: app.parts[name] for name in table.components}
        places = {name: place for name, part in tracked.items() if (place := _place(part)) is not None}
        followed = [
            (name, place, _identity(place.folder), repr(tracked[name].component)) for name, place in places.items()
        ]
        if followed != self._followed:
            self.close()
            self._noticer = Noticer(places, _counting(tracked), self._noticed)
            self._noticer.start()
            self._followed = followed
            # What was written before it was noticed is to be found as well.
            self._compare.clear()
            self._say("tracking", f"Edits of {', '.join(table.components)} are recorded.", "")
        why = self._noticer.why if self._noticer is not None else {}
        if why:
            soon = utc_now() + timedelta(seconds=parse_duration(table.at_most))
            self._compare.update({name: min(soon, self._compare[name]) for name in why.keys() & self._compare.keys()})
            seconds = round(parse_duration(table.at_most))
            facts = {"components": ", ".join(sorted(why)), "why": next(iter(why.values())), "seconds": seconds}
            self._complain("track", RollbackError("track.blind", **facts))

    def _again(self, name: str, table: TrackTable) -> datetime:
        noticed = self._noticer is not None and name in self._noticer.places and name not in self._noticer.why
        return utc_now() + timedelta(seconds=parse_duration(table.every if noticed else table.at_most))

    # — what —

    def _look(self, app: Application, table: TrackTable, name: str) -> None:
        with self._guard:
            burst = self._bursts.pop(name, None)
        self._compare[name] = self._again(name, table)
        try:
            with app.beat.call():
                self._compared(app, table, name, burst)
            self._complain(f"track {name}", None)
        except (LockedError, _MovedError):
            # Somebody was quicker; it is looked at again soon, as if nothing had been noticed: nobody knows what was.
            self._compare[name] = utc_now() + timedelta(seconds=_LATER_SECONDS)
            if burst is not None:
                with self._guard:
                    later = self._bursts.get(name, burst)
                    self._bursts[name] = Burst(burst.first, later.last)
        except RollbackError as error:
            self._complain(f"track {name}", error)

    def _compared(self, app: Application, table: TrackTable, name: str, burst: Burst | None) -> None:
        part, now, newest = app.parts[name], utc_now(), _newest(app)
        expected = remembered(app.catalog.noted(NOTE)).get(name)
        since = None if expected is None else _since(app, expected.newest)
        if expected is None or since is None:
            self._take_as_it_is(app, name, newest)
            return
        stands = standing(expected.checkpoint, name, since, _inner(app, part, since))
        before = _captured(app, part, stands.checkpoint)
        if stands.checkpoint is None or before is None:
            self._take_as_it_is(app, name, newest)
            return
        changes = list(part.driver.changes(part.component, app.engine.blobs, before.captures[name], None))
        edited = _edited(part, changes, stands)
        if not edited and changes:
            self._take_as_it_is(app, name, newest)
            return
        if edited and _too_large(edited, table):
            before, edited = self._from_checkpoint(app, part, before, table, edited)
        if not edited:
            _remember(app, name, Expected(before.checkpoint_id, now, newest))
            return
        noticed = burst is not None and now - expected.at <= timedelta(seconds=2 * parse_duration(table.every))
        made = (burst.first, burst.last) if burst is not None and noticed else (expected.at, now)
        keys = [change.key for change in edited]
        selection = {name: tuple(_keys(part, keys))} if stands.but else {}
        reason = told(keys, *made, noticed=noticed)
        self._record(app, part, before, newest, reason=reason, made=made, selection=selection)

    def _from_checkpoint(
        self, app: Application, part: Part, before: DeploymentCheckpoint, table: TrackTable, edited: Sequence[Change]
    ) -> tuple[DeploymentCheckpoint, list[Change]]:
        """Go on from a checkpoint that was taken since, where an edit is too large to be recorded.

        Raises:
            RollbackError: track.large.
        """
        name = part.component.name
        latest = app.catalog.latest(safety=False)
        if latest is not None and latest.created_at > before.created_at and name in latest.captures:
            found = list(part.driver.changes(part.component, app.engine.blobs, latest.captures[name], None))
            if not _too_large(found, table):
                return latest, found
        size = _size(edited) // _MIB
        raise RollbackError("track.large", component=name, size=size, largest=table.largest)

    def _take_as_it_is(self, app: Application, name: str, newest: str) -> None:
        """Go on from what is there now: nobody knows what led to it, or rfs itself did."""
        with app.exclusively("tracking"):
            _require_still(app, newest)
            taken = _checkpoint(app, name, f"{name} is tracked from here")
            _remember(app, name, Expected(taken.checkpoint_id, taken.created_at, newest))

    def _record(
        self,
        app: Application,
        part: Part,
        before: DeploymentCheckpoint,
        newest: str,
        *,
        reason: str,
        made: tuple[datetime, datetime],
        selection: dict[str, tuple[str, ...]],
    ) -> None:
        name, operation_id = part.component.name, new_id()
        with app.exclusively("tracking"):
            _require_still(app, newest)
            after = _checkpoint(app, name, f"after edit {operation_id}", operation_id)
            now = utc_now()
            if after.captures[name].fingerprint == before.captures[name].fingerprint:
                _remember(app, name, Expected(before.checkpoint_id, now, newest))
                return
            operation = Operation(
                operation_id=operation_id,
                kind=EDIT,
                plan=Plan(
                    target=after.checkpoint_id,
                    target_created_at=after.created_at,
                    created_at=now,
                    components=(name,),
                    steps=(),
                    selection=selection,
                ),
                reason=reason,
                actor="",
                created_at=now,
                finished_at=now,
                made=made,
                safety=before.checkpoint_id,
                components=tuple(each.component for each in app.parts.values()),
                status=OperationStatus.COMPLETED,
            )
            with app.store.batch():
                app.store.put_record("operation", msgspec.json.encode(operation))
            app.catalog.put_operation(operation)
            # Killed before this, the next look finds the operation in the log, and that it led to where things are.
            _remember(app, name, Expected(after.checkpoint_id, now, operation_id))
        self._say("edit", f"An edit of {name} is recorded: {reason}.", operation_id)


def _checkpoint(app: Application, name: str, message: str, operation_id: str | None = None) -> DeploymentCheckpoint:
    facts: dict[str, Any] = {"message": message, "operation_id": operation_id, "deployment_id": ""}
    kind = CheckpointType.SAFETY
    try:
        # As an ordinary capture, which leaves an index by which the next one is quick.
        return app.engine.checkpoint([name], kind, in_place=[name], health=lambda: None, **facts)
    except (InterruptedByUserError, TimedOutError):
        raise
    except RollbackError:
        # What is missing, or something else than it should be, is a state as well.
        return app.engine.checkpoint([name], kind, health=lambda: None, **facts)


def _remember(app: Application, name: str, expected: Expected) -> None:
    known = {**remembered(app.catalog.noted(NOTE)), name: expected}
    app.catalog.note(NOTE, msgspec.json.encode(known).decode())


def _newest(app: Application) -> str:
    return next((each.operation_id for each in app.log.history()), "")


def _require_still(app: Application, newest: str) -> None:
    if _newest(app) != newest:
        raise _MovedError


def _since(app: Application, newest: str) -> list[AnyOperation] | None:
    """Return what was done after an operation, oldest first; None when it is no longer among the last ones."""
    found: list[AnyOperation] = []
    for each in islice(app.log.history(), _LOOKED_BACK):
        if each.operation_id == newest:
            return found[::-1]
        found.append(each)
    return found[::-1] if not newest and len(found) < _LOOKED_BACK else None


def _captured(app: Application, part: Part, checkpoint: str | None) -> DeploymentCheckpoint | None:
    try:
        found = app.catalog.checkpoint(checkpoint or "")
    except NotFoundError:
        return None
    capture: Capture | None = found.captures.get(part.component.name)
    return found if capture is not None and capture.kind == part.driver.kind else None


def _edited(part: Part, changes: Sequence[Change], stands: Standing) -> list[Change]:
    """Return the changes that are none of rfs itself."""
    if not stands.but:
        return list(changes)
    own = {change.key for change in part.driver.among(changes, stands.but)}
    return [change for change in changes if change.key not in own and _keys(part, [change.key])]


def _keys(part: Part, keys: Sequence[str]) -> list[str]:
    """Return keys as a part of the component is called by them; what is of the whole has none."""
    if part.driver.root(part.component) is not None:
        return [key for key in keys if key != "."]
    named = (keypath.table_of(key) for key in keys if not key.startswith("file:"))
    return [key for key in dict.fromkeys(named) if key]


def _size(changes: Sequence[Change]) -> int:
    return sum(change.after.size for change in changes if change.after is not None)


def _too_large(changes: Sequence[Change], table: TrackTable) -> bool:
    return _size(changes) > table.largest * _MIB


def _inner(app: Application, part: Part, since: Sequence[AnyOperation]) -> dict[str, str]:
    """Return where the files that programs changed by rfs lie in a component, by the name the log has for them."""
    found: dict[str, str] = {}
    for each in since:
        if isinstance(each, Operation) or each.component != "file":
            continue
        path = os.path.normpath(os.path.join(app.settings.home, each.what))
        for owned in part.driver.owns(part.component):
            if inside(path, owned):
                found[each.what] = os.path.relpath(path, owned)
    return found


def _place(part: Part) -> Place | None:
    """Return what of a component is to be watched; None where it is not there."""
    (path, *_) = part.driver.owns(part.component)
    if part.driver.root(part.component) is not None:
        real = os.path.realpath(path)
        return Place(real) if os.path.isdir(real) else None
    folder = os.path.realpath(os.path.dirname(path))
    return Place(folder, os.path.basename(path)) if os.path.isdir(folder) else None


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _counting(tracked: dict[str, Part]) -> Callable[[str, str], bool]:
    """Return what tells whether a path in the folder of a component is of it: what is left out is not."""
    from rfs.production.rollback.drivers.files.options import Rules, root_of

    rules, roots = {}, {}
    for name, part in tracked.items():
        if part.driver.root(part.component) is not None:
            path = root_of(part.component)
            roots[name] = os.path.realpath(path)
            rules[name] = Rules(part.component, (path, roots[name]))

    def counts(name: str, path: str) -> bool:
        folder = ""
        words = os.path.relpath(path, roots[name]).split("/")
        for number, word in enumerate(words):
            # Of what has gone nobody knows whether it was a folder.
            kinds = (True,) if number < len(words) - 1 else (True, False)
            if any(rules[name].left_out(folder, word, is_folder=is_folder) for is_folder in kinds):
                return False
            folder = f"{folder}/{word}" if folder else word
        return True

    return counts
