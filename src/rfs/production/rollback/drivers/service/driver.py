"""The driver of kind "service": which units exist and run, and the files that define them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, ClassVar

import msgspec

from rfs.production.rollback.driver import BlobSink, BlobSource, Driver, Finding, Pulse
from rfs.production.rollback.drivers.service import definitions as files
from rfs.production.rollback.drivers.service.definitions import Definition, Recorded
from rfs.production.rollback.drivers.service.family import ancestry
from rfs.production.rollback.drivers.service.manager import Manager
from rfs.production.rollback.drivers.service.options import ServiceOptions
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Capture, Change, ChangeKind, Component, Fingerprint, Ref, Restored

# Putting a main configuration back may include other files than before, so one round may not be enough.
_ROUNDS = 4


class Body(msgspec.Struct, frozen=True):
    """A capture's manifest: whether each unit ran, and its definition files, in the order of their blobs."""

    units: dict[str, bool]
    definitions: tuple[Recorded, ...] = ()


class State(msgspec.Struct, frozen=True):
    """A component's state: which units run, and the definition files by absolute path."""

    units: dict[str, bool]
    definitions: dict[str, Definition]

    @property
    def running(self) -> list[str]:
        return sorted(name for name, runs in self.units.items() if runs)

    def fingerprint(self) -> Fingerprint:
        """Over the definitions and the names of the running units; process ids come and go."""
        ordered = [self.definitions[path] for path in sorted(self.definitions)]
        facts = [(each.path.encode(errors="surrogateescape"), each.meta, each.data) for each in ordered]
        digest = sha256(msgspec.msgpack.encode((facts, self.running))).hexdigest()
        return Fingerprint(digest, len(self.units), sum(len(each.data) for each in ordered))


class ServiceDriver(Driver):
    """Units under supervisor or behind plain commands.

    The engine calls `stop`, then `restore` and `verify` while everything is stopped, and `start` last.
    So `restore` and `verify` are about the definition files alone; which units run is brought about by
    `start`, which also makes the manager take the definitions over: before that, a unit that starts by
    itself would run on half-restored data.
    """

    kind: ClassVar[str] = "service"
    options: ClassVar[type[msgspec.Struct]] = ServiceOptions
    runs: ClassVar[bool] = True

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        """See Driver. A manager that is itself stopped is recorded with all units stopped, and a warning.

        Raises:
            RollbackError: service.unreachable, the manager is there but does not answer.
        """
        survey = _manager(c).survey()
        state = State(survey.units, _definitions(c))
        blobs, recorded = files.record(state.definitions, sink)
        body = Body(state.units, tuple(recorded))
        part = sink.put_part(blobs, msgspec.msgpack.encode(body))
        sink.tick(len(state.units))
        fingerprint = state.fingerprint()
        return Capture(
            component=c.name,
            kind=self.kind,
            fingerprint=fingerprint,
            parts=(part,),
            entries=fingerprint.entries,
            size=fingerprint.size,
            warnings=survey.warnings,
        )

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        """See Driver."""
        return _live(c).fingerprint()

    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        """See Driver. There is nothing to prepare; but what could not be started later is refused now.

        Raises:
            RollbackError: service.unreachable, units are to run and their manager does not.
        """
        if _recorded(c, source, want).running and (absent := _manager(c).survey().absent) is not None:
            raise absent

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        """See Driver: put the definition files back exactly, and remove those that define units otherwise.

        Of a link that led elsewhere, what it led to is left alone: without the link it defines nothing.
        """
        wanted = _recorded(c, source, want).definitions
        _tidy(c, wanted)
        changed: set[str] = set()
        for _ in range(_ROUNDS):
            paths = _manager(c).definition_paths()
            different = list(files.differing(wanted, files.read_definitions(c, paths)))
            if not different:
                break
            for path in different:
                if path not in wanted and path not in paths:
                    continue
                files.put_back(c, path, wanted.get(path))
                changed.add(path)
                source.tick(1)
        return Restored(len(changed))

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        """See Driver. The units are still stopped, so that only their definitions are compared."""
        return list(_definition_changes(c.name, _recorded(c, source, want).definitions, _definitions(c)))

    def release(self, c: Component) -> None:
        """See Driver: remove the temporary files of a restore that was killed."""
        _tidy(c, ())

    def stop(self, c: Component, pulse: Pulse) -> None:
        """See Driver. On return the units' processes and their children are gone.

        Raises:
            RollbackError: service.no_stop, or service.unreachable.
        """
        _manager(c).stop(pulse)

    def start(self, c: Component, source: BlobSource, want: Capture) -> None:
        """See Driver: start the units that ran at `want`, stop the others, and wait until it is so.

        Raises:
            RollbackError: service.no_start, service.definitions, or service.unreachable.
        """
        _manager(c).start(_recorded(c, source, want).running, source)

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        """See Driver. Keys are the names of units, and the paths of definition files."""
        before = _recorded(c, source, a)
        after = _recorded(c, source, b) if b is not None else _live(c)
        found = [*_unit_changes(c.name, before, after)]
        found += _definition_changes(c.name, before.definitions, after.definitions)
        yield from sorted(found, key=lambda change: change.key)

    def outline(self, c: Component) -> Any:
        """See Driver: whether each unit runs."""
        return {name: "running" if runs else "stopped" for name, runs in sorted(_live(c).units.items())}

    def owns(self, c: Component) -> tuple[str, ...]:
        """See Driver: the definition files that a capture would record."""
        try:
            return tuple(files.expand_links(_manager(c).definition_paths()))
        except RollbackError:
            return ()  # a configuration that cannot be understood is told of by examine and capture

    def examine(self, c: Component) -> Iterator[Finding]:
        """See Driver."""
        yield from _manager(c).examine()

    def contains_caller(self, c: Component) -> bool:
        """Tell whether this process belongs to a unit of the component, so that `stop` would end it.

        False when the manager does not answer, or (for commands without a pidfile) cannot tell.
        """
        try:
            leaders = _manager(c).leaders()
        except RollbackError:
            return False
        return not leaders.isdisjoint(ancestry())


def _manager(c: Component) -> Manager:
    options = msgspec.convert(c.options, ServiceOptions)
    if options.manager == "command":
        from rfs.production.rollback.drivers.service.command import CommandManager

        return CommandManager(c, options)
    from rfs.production.rollback.drivers.service.supervisor import SupervisorManager

    return SupervisorManager(c, options)


def _definitions(c: Component) -> dict[str, Definition]:
    return files.read_definitions(c, _manager(c).definition_paths())


def _tidy(c: Component, paths: Iterable[str]) -> None:
    manager = _manager(c)
    try:
        paths = {*paths, *files.expand_links(manager.definition_paths())}
        folders = manager.definition_folders()
    except RollbackError:
        return  # it is only tidying; whoever needs the configuration says what is wrong with it
    for folder in sorted({*folders, *map(os.path.dirname, paths)}):
        files.tidy(folder)


def _live(c: Component) -> State:
    return State(_manager(c).survey().units, _definitions(c))


def _recorded(c: Component, source: BlobSource, capture: Capture) -> State:
    blobs, encoded = source.get_part(capture.parts[0])
    body = msgspec.msgpack.decode(encoded, type=Body)
    return State(body.units, files.recall(c, blobs, body.definitions, source))


def _unit_changes(component: str, before: State, after: State) -> Iterator[Change]:
    for name in sorted(before.units.keys() | after.units.keys()):
        was, now = before.units.get(name, False), after.units.get(name, False)
        if was != now:
            yield Change(component, ChangeKind.CHANGED, name, _running(was), _running(now))


def _running(runs: bool) -> Ref:
    word = "running" if runs else "stopped"
    return Ref(word, 0, word)


def _definition_changes(
    component: str, before: dict[str, Definition], after: dict[str, Definition]
) -> Iterator[Change]:
    for path in files.differing(before, after):
        old, new = before.get(path), after.get(path)
        kind = ChangeKind.ADDED if old is None else ChangeKind.REMOVED if new is None else ChangeKind.CHANGED
        yield Change(component, kind, _key(old or new), _definition(old), _definition(new))


def _key(definition: Definition | None) -> str:
    return "" if definition is None else files.shown(definition.path)


def _definition(definition: Definition | None) -> Ref | None:
    if definition is None:
        return None
    digest = sha256(msgspec.msgpack.encode((definition.meta, definition.data))).hexdigest()
    return Ref(digest, len(definition.data), "definition")
