"""A drill: a checkpoint brought back in a scratch folder, read back and timed. Nothing live is touched.

A checkpoint that was never restored is a hope. This tells whether one can be, and how long it takes, on any day.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.capturing import Part
from rfs.production.rollback.driver import overrides
from rfs.production.rollback.errors import (
    ConflictError,
    IntegrityError,
    InterruptedByUserError,
    LockedError,
    RollbackError,
    TimedOutError,
    UsageError,
)
from rfs.production.rollback.model import Capture, DeploymentCheckpoint
from rfs.production.rollback.plan import select
from rfs.production.rollback.rehearsal import KINDS, place_in, scratch_settings
from rfs.production.rollback.store import storage_error
from rfs.production.rollback.wiring import inside, load_parts

RESTORED, STAGED, READ = "restored", "staged", "read"


class Drilled(msgspec.Struct, frozen=True):
    """What came of one component.

    Attributes:
        how: "restored" in the scratch folder and read back; "staged", everything done that a restore does before
            its outage, and taken away again; or "read": its content is whole, and was not brought anywhere.
        why: the reason, where it is only read.
        seconds: that this took.
        size: bytes of the state.
        problem: what is wrong, in a sentence; empty when all is well.
        damaged: whether that is what is stored, and not the place where it was tried.
    """

    component: str
    kind: str
    how: str
    why: str
    seconds: float
    size: int
    problem: str = ""
    damaged: bool = False


class Drill(msgspec.Struct, frozen=True):
    """What `drill` found. `folder` is where the state was brought, when it was to stay."""

    checkpoint: DeploymentCheckpoint
    components: tuple[Drilled, ...]
    seconds: float
    folder: str | None

    @property
    def problems(self) -> tuple[Drilled, ...]:
        """The components of which something is wrong."""
        return tuple(each for each in self.components if each.problem)


def drill(
    app: Application,
    selector: str,
    *,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    into: str | None = None,
) -> Drill:
    """Bring a checkpoint back in a scratch folder, as far as that can be done beside the live application.

    Files, configuration, environment and SQLite are restored and read back. Other databases are staged beside the
    live one and dropped again, for which the application's lock is held. Services are not started: what is stored of
    them is read. What fails is told; the other components are tried all the same.

    Args:
        only, without: names of components.
        into: a new or empty folder in which the state stays, PATH at `tree/PATH`; None for a folder beside the
            store that is removed again.

    Raises:
        NotFoundError: no such checkpoint or component.
        UsageError: the folder is not empty, or lies in a component.
        LockedError: another drill is going on.
        ConflictError: the disk has no room for another copy.
    """
    target = app.find(selector)
    names = select(list(target.captures), only, without)
    began = time.monotonic()
    with app.beat.call(), _scratch(app, into) as folder:
        live = {name: app.parts[name] for name in names if name in app.parts and app.parts[name].driver.kind in KINDS}
        _require_room(folder, target, live)
        parts = load_parts(scratch_settings(app, live, folder), os.path.join(folder, "work"))
        found: dict[str, Drilled] = {}
        # In the order of a restore, so that what lies in another component's folder comes after it.
        for name in (*parts, *(name for name in names if name not in parts)):
            found[name] = _one(app, target.captures[name], name, folder, parts.get(name))
        if into is not None:
            shutil.rmtree(os.path.join(folder, "work"), ignore_errors=True)
    seconds = round(time.monotonic() - began, 3)
    return Drill(target, tuple(found[name] for name in names), seconds, into)


def _one(app: Application, want: Capture, name: str, folder: str, part: Part | None) -> Drilled:
    began = time.monotonic()
    how, why = _way(app, name, want, part)
    problem, damaged = "", False
    try:
        if part is None:
            _require_whole(app, want)
        if how == STAGED:
            _stage(app, app.parts[name], want)
        if part is not None:
            _restore(app, part, want, place_in(app.parts[name], folder))
    except (InterruptedByUserError, TimedOutError):
        raise
    except RollbackError as error:
        problem, damaged = str(error), error.code == IntegrityError.code
    except OSError as error:
        # Of the place in which it was tried: the disk filled up meanwhile, or takes no such names or attributes.
        problem = str(storage_error(error, folder))
    seconds = round(time.monotonic() - began, 3)
    return Drilled(name, want.kind, how, why, seconds, want.fingerprint.size, problem, damaged)


def _way(app: Application, name: str, want: Capture, part: Part | None) -> tuple[str, str]:
    """Return how it is tried, and why it is only read."""
    live = app.parts.get(name)
    if live is None or live.driver.kind != want.kind:
        return READ, f"rfs.toml names no component {name} of the kind {want.kind} any more"
    if part is not None:
        return RESTORED, ""
    if live.driver.runs:
        return READ, "services are not started in a drill"
    if overrides(live.driver, "stage"):
        return STAGED, ""
    return READ, "its kind has no place beside the live one"


def _require_whole(app: Application, want: Capture) -> None:
    with app.beat.doing("reading what is stored"):
        found = app.store.verify(app.beat.tick, {*want.parts, *app.store.reachable(want.parts)})
    if found:
        raise IntegrityError("drill.damaged", count=len(found.blobs) + len(found.packs))


def _stage(app: Application, part: Part, want: Capture) -> None:
    """Do all that a restore does before its outage; nobody else may have something staged there meanwhile."""
    with app.exclusively("drill"), app.beat.doing(f"staging {part.component.name}"):
        try:
            part.driver.stage(part.component, app.engine.blobs, want)
        finally:
            part.driver.release(part.component)


def _restore(app: Application, part: Part, want: Capture, place: str) -> None:
    with app.beat.doing(f"restoring {part.component.name}"):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.makedirs(part.component.work, exist_ok=True)
        blobs = app.engine.blobs
        try:
            part.driver.stage(part.component, blobs, want)
            part.driver.restore(part.component, blobs, want)
            differences = part.driver.verify(part.component, blobs, want)
        finally:
            part.driver.release(part.component)
    if differences:
        raise IntegrityError("drill.differs", count=len(differences), first=differences[0].key or place)


def _require_room(folder: str, target: DeploymentCheckpoint, live: Mapping[str, Part]) -> None:
    needed = sum(target.captures[name].fingerprint.size for name in live)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConflictError("drill.no_room", needed=megabytes(needed), free=megabytes(free), folder=folder)


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


@contextmanager
def _scratch(app: Application, into: str | None) -> Iterator[str]:
    """Yield an empty folder that only its user may enter, and that is held by nobody else."""
    folder = os.path.abspath(into) if into is not None else os.path.join(app.work, "_drill")
    if into is not None:
        _require_apart(app, folder)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise storage_error(error, folder) from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError("drill.locked", folder=folder) from None
        if into is None:
            empty(folder)  # a drill that was killed left something
        elif os.listdir(folder):
            raise UsageError("drill.not_empty", folder=folder)
        yield folder
    finally:
        if into is None:
            empty(folder)
        os.close(held)


def _require_apart(app: Application, folder: str) -> None:
    """A copy in the folder of a component would be part of it."""
    for name, part in app.parts.items():
        for place in (part.driver.root(part.component), *part.driver.owns(part.component)):
            if place is not None and inside(os.path.realpath(folder), os.path.realpath(place)):
                raise UsageError("drill.inside", folder=folder, component=name)


def empty(folder: str) -> None:
    """Remove everything in a folder, also what its own mode protects."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
            continue
        for at, _, _ in os.walk(path):
            os.chmod(at, 0o700)
        shutil.rmtree(path)
