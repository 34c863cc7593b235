"""The driver of kind "service": which units exist and run, and the files that define them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, ClassVar

import msgspec

from rfs.production.rollback.driver import BlobSink, BlobSource, Driver, Finding, Pulse
from rfs.production.rollback.drivers.formats import Value
from rfs.production.rollback.drivers.keys import key_changes
from rfs.production.rollback.drivers.service import definitions as files
from rfs.production.rollback.drivers.service.definitions import Definition, Recorded
from rfs.production.rollback.drivers.service.manager import Manager, Places
from rfs.production.rollback.drivers.service.options import ServiceOptions
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Capture, Change, ChangeKind, Component, Fingerprint, Ref, Restored

# Putting a definition back may include other files than before, so one round may not be enough.
_ROUNDS = 8
# In the meta of a capture: it is of a state before.
_AS_IT_WAS = "as_it_was"


class Body(msgspec.Struct, frozen=True):
    """A capture's manifest, in the order of its blobs.

    Attributes:
        units: whether each ran.
        definitions: their files.
        enabled: as the manager told it.
        environments: the units whose environment was recorded.
    """

    units: dict[str, bool]
    definitions: tuple[Recorded, ...] = ()
    enabled: dict[str, str] = {}
    environments: tuple[str, ...] = ()


class State(msgspec.Struct, frozen=True):
    """A component's state: its units, and the definition files by absolute path.

    What is not in the fingerprint: whether units are enabled, which is what links among the definitions say;
    and what they were started with, which nothing but the definitions brings back.
    """

    units: dict[str, bool]
    definitions: dict[str, Definition]
    enabled: dict[str, str] = {}
    environments: dict[str, bytes] = {}

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
    """Units under supervisor or systemd, or behind plain commands.

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
        state, warnings = _look(c)
        blobs, recorded = files.record(state.definitions, sink)
        units = sorted(state.environments)
        blobs += [sink.put(state.environments[unit]) for unit in units]
        body = Body(state.units, tuple(recorded), state.enabled, tuple(units))
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
            warnings=warnings,
        )

    def salvage(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        """See Driver. What comes back of it need not be better than it was: see `Manager.start`."""
        return msgspec.structs.replace(self.capture(c, sink, previous), meta={_AS_IT_WAS: True})

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        """See Driver."""
        return _look(c)[0].fingerprint()

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        """See Driver: put the definition files back exactly, and remove those that define units otherwise.

        Of a link that led elsewhere, what it led to is left alone: without the link it defines nothing.
        """
        recorded = _recorded(c, source, want).definitions
        _tidy(c, recorded)
        changed: set[str] = set()
        made, manager = files.Made(c), _manager(c)
        for _ in range(_ROUNDS):
            wanted, live, places = _compared(c, manager, recorded)
            paths = files.next_to_change(wanted, live, places)
            paths = paths or made.left(wanted)
            if not paths:
                break
            made.note({path: wanted[path] for path in paths if path in wanted})
            for path in paths:
                files.put_back(c, path, wanted.get(path))
                changed.add(path)
                source.tick(1)
        return Restored(len(changed))

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        """See Driver. The units are still stopped, so that only their definitions are compared."""
        wanted, live, _ = _compared(c, _manager(c), _recorded(c, source, want).definitions)
        return list(_definition_changes(c.name, source, wanted, live))

    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        """See Driver: tell the manager which units get other definitions and are to run again."""
        recorded, manager = _recorded(c, source, want), _manager(c)
        wanted, live, _ = _compared(c, manager, recorded.definitions)
        manager.expect(recorded.running if files.differing(wanted, live) else ())

    def release(self, c: Component) -> None:
        """See Driver: remove the temporary files of a restore that was killed."""
        _manager(c).forget()
        _tidy(c, ())
        files.Made(c).forget()

    def stop(self, c: Component, pulse: Pulse) -> None:
        """See Driver. On return the units' processes and their children are gone.

        Raises:
            RollbackError: service.no_stop, or service.unreachable.
        """
        _manager(c).stop(pulse)

    def start(self, c: Component, source: BlobSource, want: Capture) -> list[str]:
        """See Driver: start the units that ran at `want`, stop the others, and wait until it is so.

        Raises:
            RollbackError: service.no_start, service.definitions, or service.unreachable.
        """
        as_it_was = want.meta.get(_AS_IT_WAS) is True
        return _manager(c).start(_recorded(c, source, want).running, source, as_it_was=as_it_was)

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        """See Driver. Keys are the names of units, and the paths of definition files."""
        before = _recorded(c, source, a)
        if b is not None:
            after = _recorded(c, source, b)
        else:
            after, places = _look(c)[0], _manager(c).places()
            kept = files.without_others(c, before.definitions, places)
            before = msgspec.structs.replace(before, definitions=kept)
        found = [*_unit_changes(c.name, before, after), *_environment_changes(c, source, before, after)]
        found += _definition_changes(c.name, source, before.definitions, after.definitions)
        yield from sorted(found, key=lambda change: change.key)

    def outline(self, c: Component) -> Any:
        """See Driver: whether each unit runs."""
        return {name: "running" if runs else "stopped" for name, runs in sorted(_manager(c).survey().units.items())}

    def owns(self, c: Component) -> tuple[str, ...]:
        """See Driver: the definition files that a capture would record, without those that others may own."""
        try:
            return tuple(files.present(c, msgspec.structs.replace(_manager(c).places(), shared=())))
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
            return _manager(c).contains_caller()
        except RollbackError:
            return False


def _manager(c: Component) -> Manager:
    options = msgspec.convert(c.options, ServiceOptions)
    if options.manager == "command":
        from rfs.production.rollback.drivers.service.command import CommandManager

        return CommandManager(c, options)
    if options.manager == "systemd":
        from rfs.production.rollback.drivers.service.systemd import SystemdManager

        return SystemdManager(c, options)
    from rfs.production.rollback.drivers.service.supervisor import SupervisorManager

    return SupervisorManager(c, options)


def _tidy(c: Component, paths: Iterable[str]) -> None:
    try:
        places = _manager(c).places()
    except RollbackError:
        return  # it is only tidying; whoever needs the configuration says what is wrong with it
    for folder in sorted({*places.folders, *map(os.path.dirname, {*paths, *files.present(c, places)})}):
        files.tidy(folder)


def _look(c: Component) -> tuple[State, tuple[str, ...]]:
    """Return the live state, and what was unclear about it."""
    manager = _manager(c)
    survey = manager.survey()
    definitions = files.read_definitions(c, files.present(c, manager.places()))
    return State(survey.units, definitions, survey.enabled, survey.environments), survey.warnings


def _compared(
    c: Component, manager: Manager, recorded: Mapping[str, Definition]
) -> tuple[dict[str, Definition], dict[str, Definition], Places]:
    """Return the definitions that are wanted, those that are live, and where these lie.

    While not everything is put back, a manager may not count a file yet that is in its place already.
    """
    places = manager.places()
    wanted = files.without_others(c, recorded, places)
    return wanted, files.read_definitions(c, {*wanted, *files.present(c, places)}), places


def _recorded(c: Component, source: BlobSource, capture: Capture) -> State:
    blobs, encoded = source.get_part(capture.parts[0])
    body = msgspec.msgpack.decode(encoded, type=Body)
    count = len(body.definitions)
    definitions = files.recall(c, blobs[:count], body.definitions, source)
    environments = {unit: source.get(blob) for unit, blob in zip(body.environments, blobs[count:], strict=True)}
    return State(body.units, definitions, body.enabled, environments)


def _unit_changes(component: str, before: State, after: State) -> Iterator[Change]:
    for name in sorted(before.units.keys() | after.units.keys()):
        runs = [state.units.get(name, False) for state in (before, after)]
        enabled = [state.enabled.get(name, "") for state in (before, after)]
        words = [["running" if each else "stopped"] for each in runs]
        # Where one side does not tell, as in what older releases recorded, there is nothing to compare.
        if all(enabled) and enabled[0] != enabled[1]:
            words = [[*each, word] for each, word in zip(words, enabled, strict=True)]
        old, new = (", ".join(each) for each in words)
        if old != new:
            yield Change(component, ChangeKind.CHANGED, name, Ref(old, 0, old), Ref(new, 0, new))


def _environment_changes(c: Component, source: BlobSource, before: State, after: State) -> Iterator[Change]:
    """Yield the variables that a unit runs with and did not, or the other way round. No value is ever shown."""
    for unit in sorted(before.environments.keys() & after.environments.keys()):
        old, new = (_variables(state.environments[unit]) for state in (before, after))
        for change in key_changes(c, source, old, new):
            yield msgspec.structs.replace(change, key=f"{unit} environment {change.key}")


def _variables(environment: bytes) -> dict[str, Value]:
    pairs = (word.partition("=") for word in environment.decode("utf-8", "backslashreplace").split("\0"))
    return {name: Value(text, secret=True) for name, equals, text in pairs if equals}


def _definition_changes(
    component: str, source: BlobSource, before: Mapping[str, Definition], after: Mapping[str, Definition]
) -> Iterator[Change]:
    for path in files.differing(before, after):
        old, new = before.get(path), after.get(path)
        kind = ChangeKind.ADDED if old is None else ChangeKind.REMOVED if new is None else ChangeKind.CHANGED
        yield Change(component, kind, _key(old or new), _definition(source, old), _definition(source, new))


def _key(definition: Definition | None) -> str:
    return "" if definition is None else files.shown(definition.path)


def _definition(source: BlobSource, definition: Definition | None) -> Ref | None:
    if definition is None:
        return None
    # Keyed: a file with a password in it may hold nothing else that could not be guessed.
    identity = source.identify(msgspec.msgpack.encode((definition.meta, definition.data)))
    return Ref(identity.hex(), len(definition.data), "link" if definition.is_link else "definition")
