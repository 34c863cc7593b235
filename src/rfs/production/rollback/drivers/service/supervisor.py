"""Units under supervisor (supervisord.org): looked at, stopped and started over its XML-RPC interface.

A unit that is about to be restarted by itself (BACKOFF) is stopped like a running one, but does
not count as running: what could not start then will not start after a rollback either.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from rfs.production.rollback.driver import Finding, Pulse
from rfs.production.rollback.drivers.service import supervisor_rpc as rpc
from rfs.production.rollback.drivers.service.family import Family, ancestry, end_family, process_table, with_environment
from rfs.production.rollback.drivers.service.manager import Manager, Places, Survey
from rfs.production.rollback.drivers.service.options import ServiceOptions
from rfs.production.rollback.drivers.service.supervisor_config import LastUsable, SupervisorConfig, read_config
from rfs.production.rollback.drivers.service.supervisor_rpc import AbsentError, RefusedError, Rpc
from rfs.production.rollback.errors import NotFoundError, RollbackError, UsageError
from rfs.production.rollback.http_request import Address, parse_url
from rfs.production.rollback.model import Component
from rfs.production.rollback.secret import resolve_secret

STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL = 0, 10, 20, 30, 40, 100, 200
_ALIVE = (STARTING, RUNNING, BACKOFF)
_POLL_SECONDS = 0.05
# How long a look waits for a unit that is just starting to be up or to fail.
_SETTLE_SECONDS = 3.0
# supervisord restarts an ended unit, and starts an added one, within a round of its loop: a second.
_ROUND_SECONDS = 2.0


class Unit(msgspec.Struct, frozen=True):
    """One process as supervisord describes it.

    Attributes:
        name: "group:name", or "name" when both are equal.
        spawned: whether it was ever started since supervisord knows it.
        ended_ago: seconds since it last ended.
    """

    name: str
    group: str
    process: str
    state: int
    statename: str
    pid: int
    spawned: bool
    ended_ago: int
    exitstatus: int
    error: str
    log: str


class _RefusedDefinitionsError(RollbackError):
    """supervisord does not take the definitions over, and goes on with those that it has."""


class SupervisorManager(Manager):
    """Args: c: the component. options: its table."""

    def __init__(self, c: Component, options: ServiceOptions) -> None:
        self._c = c
        self._options = options
        self._config_path = (
            os.path.normpath(os.path.join(c.home, os.path.expanduser(options.config))) if options.config else None
        )
        self._last = LastUsable(c, self._config_path or "")

    # — looking —

    def places(self) -> Places:
        """See Manager. The main configuration, and included files that define a unit or cannot be parsed."""
        config = self._config()
        if config is None:
            return Places()
        ours = [
            path
            for path, groups in config.groups.items()
            if path == config.path or groups is None or any(self._owns_group(group) for group in groups)
        ]
        folders = {*config.folders, *map(os.path.dirname, config.groups)}
        return Places(files=tuple(sorted(ours)), folders=tuple(sorted(folders)))

    def survey(self) -> Survey:
        """See Manager. While supervisord itself is stopped, nothing runs: that is a state like any other."""
        server = self._rpc()
        try:
            units = self._settled(server)
        except AbsentError:
            self._refuse_if_alive(server)
            config = self._config()
            groups = [group for group in config.all_groups() if self._owns_group(group)] if config else []
            text = f"The supervisor of {self._c.name} is not running: its units are recorded as stopped."
            orphans = self._orphans(server)
            if orphans:
                numbers = ", ".join(map(str, orphans))
                text = (
                    f"The supervisor of {self._c.name} is gone, but its units' processes {numbers} run on without it."
                )
            return Survey(dict.fromkeys(groups, False), (text, *self._noted_config()))
        warnings = self._noted_config()
        warnings += [
            f"The unit {unit.name} does not start ({unit.statename}): it is recorded as stopped."
            for unit in units
            if unit.state in (BACKOFF, FATAL)
        ]
        warnings += [f"supervisor knows no unit {name}." for name in self._unknown(units)]
        if self._config_path is None:
            warnings.append(f"The definitions of {self._c.name} are not recorded: rfs.toml gives no config.")
        return Survey({unit.name: unit.state in (STARTING, RUNNING) for unit in units}, tuple(warnings))

    def _noted_config(self) -> list[str]:
        """Note what the configuration says, in case that it breaks; return what is to be said of one that did."""
        config = self._config()
        if config is None:
            return []
        self._last.note(config)
        return [self._broken(config)] if config.broken else []

    @staticmethod
    def _broken(config: SupervisorConfig) -> str:
        return f"{config.path} cannot be parsed, or does not say where supervisor listens: what it said last counts."

    def contains_caller(self) -> bool:
        """See Manager. False for a supervisord of another machine or PID namespace."""
        server = self._rpc()
        if not server.local:
            return False
        try:
            pids = [unit.pid for unit in self._units(server) if unit.pid]
            parent = server.call("getPID")
        except AbsentError:
            return False
        table = process_table()
        return not ancestry().isdisjoint(pid for pid in pids if pid in table and table[pid].parent == parent)

    def examine(self) -> Iterator[Finding]:
        """See Manager."""
        if self._config_path is not None and not os.access(self._config_path, os.R_OK):
            text = f"The configuration {self._config_path} of {self._c.name} cannot be read."
            yield Finding(
                "error", text, "Correct config in rfs.toml, or make the file readable for the user who runs rfs."
            )
        try:
            config = self._config()
            if config is not None and config.broken:
                hint = "Mend it: supervisord cannot take it over, and would not start with it."
                yield Finding("error", self._broken(config), hint)
            server = self._rpc()
            every = self._all_units(server)
        except AbsentError:
            text = f"The supervisor of {self._c.name} is not running."
            yield Finding("warning", text, "Start it; until then checkpoints record its units as stopped.")
            return
        except RollbackError as error:
            yield Finding("error", str(error), error.hint)
            return
        units = [unit for unit in every if self._owns_unit(unit)]
        for name in self._unknown(units):
            unknown = self._unknown_unit(name, every)
            yield Finding("error", str(unknown), unknown.hint)
        yield from (
            Finding("warning", f"The unit {unit.name} does not start ({unit.statename}).", f"See its log: {unit.log}.")
            for unit in units
            if unit.state in (BACKOFF, FATAL)
        )

    # — stopping —

    def stop(self, pulse: Pulse) -> None:
        """See Manager."""
        until = time.monotonic() + min(self._options.stop_seconds, pulse.remaining())
        server = self._rpc()
        try:
            family = self._family(server)
            self._stop_units(server, pulse, until, self._owns_unit)
        except AbsentError:
            self._refuse_if_alive(server)
            family = Family(self._orphans(server), self._memory())
        end_family(family, self._c.name, pulse, until)

    def _family(self, server: Rpc) -> Family:
        units = self._units(server)
        leaders = {unit.pid for unit in units if unit.pid} if server.local else set()
        family = Family(leaders, self._memory(), parent=server.call("getPID") if leaders else None)
        family.remember()
        return family

    def _stop_units(self, server: Rpc, pulse: Pulse, until: float, which: Callable[[Unit], bool]) -> None:
        order = _priorities(server)
        watch = _Watch(order)
        while True:
            units = [unit for unit in self._all_units(server) if which(unit)]
            for unit in sorted(units, key=order.last_first):
                if unit.state in _ALIVE:
                    _ask(server, "stopProcess", unit.name)
            left = [unit for unit in units if not watch.rests(unit)]
            if not left:
                return
            if time.monotonic() > until:
                raise _too_slow(left[0], stopping=True)
            _nap(pulse)

    # — starting —

    def start(self, wanted: Collection[str], pulse: Pulse, *, as_it_was: bool = False) -> list[str]:
        """See Manager.

        A unit that supervisor starts by itself and whose definition changed is started by it for a
        moment, also when it was stopped at the checkpoint: it is stopped again at once. Groups that
        hold no unit of the component are not touched.
        """
        until = time.monotonic() + min(self._options.start_seconds, pulse.remaining())
        server = self._rpc()
        # rfs.toml may name fewer units than it did at the checkpoint; the others are no more our business.
        ours = {name for name in wanted if self._owns(*_split(name))}
        said: list[str] = []
        others: set[str] = set()
        try:
            try:
                others = self._update(server, pulse, until)
            except _RefusedDefinitionsError as error:
                if not as_it_was or not ours <= {unit.name for unit in self._all_units(server)}:
                    raise
                said = [f"{error} Its units run as supervisor last took them over."]
            self._converge(server, ours, others, pulse, until)
        except AbsentError as error:
            self._refuse_if_alive(server)
            if wanted:
                raise server.unreachable(str(error)) from error
        return said

    def _update(self, server: Rpc, pulse: Pulse, until: float) -> set[str]:
        """Make the files' definitions supervisord's own; return other units that ran in groups it replaced."""
        config = self._config()
        # What it cannot read it does not take over. A state before that was so comes back so, with what runs.
        if config is None or not config.readable:
            return set()
        try:
            ((added, changed, removed),) = server.call("reloadConfig")
        except RefusedError as error:
            raise _RefusedDefinitionsError(
                "service.definitions", manager="supervisor", component=self._c.name, why=error
            ) from error
        leaving = {group for group in [*changed, *removed] if self._owns_group(group)}
        coming = [group for group in [*changed, *added] if self._owns_group(group)]
        members = [unit for unit in self._all_units(server) if unit.group in leaving]
        others = {
            unit.name
            for unit in members
            if unit.group in changed and not self._owns_unit(unit) and unit.state in (STARTING, RUNNING)
        }
        self._stop_units(server, pulse, until, lambda unit: unit.group in leaving)
        for group in sorted(leaving):
            _ask(server, "removeProcessGroup", group)
        for group in coming:
            _ask(server, "addProcessGroup", group)
        return others

    def _converge(self, server: Rpc, wanted: set[str], others: set[str], pulse: Pulse, until: float) -> None:
        """Start the units in `wanted` and `others`, and stop the component's other ones."""
        order = _priorities(server)
        watch = _Watch(order)
        asked: set[str] = set()
        while True:
            every = self._all_units(server)
            units = sorted((u for u in every if self._owns_unit(u) or u.name in others), key=order.first_first)
            missing = sorted(wanted - {unit.name for unit in units})
            if missing:
                raise self._unknown_unit(missing[0], every)
            left = []
            for unit in units:
                if unit.name in wanted or unit.name in others:
                    if unit.state != RUNNING:
                        self._bring_up(server, unit, asked, watch)
                        left.append(unit)
                elif not watch.rests(unit):
                    if unit.state in _ALIVE:
                        _ask(server, "stopProcess", unit.name)
                    left.append(unit)
            if not left:
                return
            if time.monotonic() > until:
                raise _too_slow(left[0], stopping=left[0].name not in wanted | others)
            _nap(pulse)

    def _bring_up(self, server: Rpc, unit: Unit, asked: set[str], watch: _Watch) -> None:
        """Start a unit once; a second time it is down, that is an error."""
        if unit.state in (STARTING, BACKOFF, STOPPING):
            return
        if unit.name not in asked:
            asked.add(unit.name)
            try:
                server.call("startProcess", unit.name, False)
            except RefusedError as error:
                # What ended at once is tried again by supervisord itself, and its state will tell why it gave up.
                if error.code not in (rpc.ALREADY_STARTED, rpc.SPAWN_ERROR):
                    raise RollbackError("service.no_start", unit=unit.name, why=error, log=unit.log) from error
        elif watch.rests(unit):
            why = unit.error or f"it is {unit.statename} after ending with status {unit.exitstatus}"
            raise RollbackError("service.no_start", unit=unit.name, why=why, log=unit.log)

    # — talking to supervisord —

    def _config(self) -> SupervisorConfig | None:
        return read_config(self._config_path, self._last.read()) if self._config_path is not None else None

    def _rpc(self) -> Rpc:
        return Rpc(self._address(), self._c.name)

    def _address(self) -> Address:
        config = self._config()
        url = resolve_secret(self._options.url, self._c.home) if self._options.url else config.server if config else ""
        if not url:
            why = "it has neither [unix_http_server] nor [inet_http_server]"
            raise UsageError("config.invalid", path=self._config_path, format="a supervisor configuration", why=why)
        try:
            address = parse_url(url)
        except ValueError as error:
            raise RollbackError(
                "service.unreachable", manager="supervisor", component=self._c.name, where="its url", why=error
            ) from error
        if address.user is None and config is not None and config.user:
            return msgspec.structs.replace(address, user=config.user, password=config.password)
        return address

    def _refuse_if_alive(self, server: Rpc) -> None:
        """A socket that is gone does not mean that supervisord is: then its units run on, out of reach.

        Raises:
            RollbackError: service.unreachable.
        """
        config = self._config()
        if config is None or not server.local:
            return
        try:
            with open(config.pidfile, encoding="ascii") as file:
                pid = int(file.read())
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                alive = b"supervisord" in file.read()
        except (OSError, ValueError):
            return
        if alive:
            why = f"nobody listens there, but supervisord runs with process id {pid}"
            raise server.unreachable(why)

    def _orphans(self, server: Rpc) -> list[int]:
        """Return the units' processes that outlived a supervisord which was killed; it marks what it starts."""
        if server.address.scheme != "unix":
            return []
        marked = with_environment({"SUPERVISOR_ENABLED": "1", "SUPERVISOR_SERVER_URL": str(server.address)})
        names = ("SUPERVISOR_GROUP_NAME", "SUPERVISOR_PROCESS_NAME")
        return [
            pid
            for pid, variables in marked.items()
            if pid != os.getpid() and self._owns(*(variables.get(name, "") for name in names))
        ]

    def _settled(self, server: Rpc) -> list[Unit]:
        until = time.monotonic() + _SETTLE_SECONDS
        while True:
            units = self._units(server)
            if all(unit.state != STARTING for unit in units) or time.monotonic() > until:
                return units
            time.sleep(_POLL_SECONDS)  # supervisor tells of changes to its own listeners only

    def _units(self, server: Rpc) -> list[Unit]:
        return [unit for unit in self._all_units(server) if self._owns_unit(unit)]

    def _all_units(self, server: Rpc) -> list[Unit]:
        return [_unit(info) for info in server.call("getAllProcessInfo")]

    def _owns(self, group: str, process: str) -> bool:
        patterns = self._options.units
        return not patterns or any(_matches(group, process, pattern) for pattern in patterns)

    def _owns_group(self, group: str) -> bool:
        patterns = [pattern.partition(":")[0] for pattern in self._options.units]
        return not patterns or any(fnmatchcase(group, pattern) for pattern in patterns)

    def _owns_unit(self, unit: Unit) -> bool:
        return self._owns(unit.group, unit.process)

    def _unknown(self, units: Collection[Unit]) -> list[str]:
        return [
            pattern
            for pattern in self._options.units
            if not any(_matches(unit.group, unit.process, pattern) for unit in units)
        ]

    def _unknown_unit(self, name: str, units: Collection[Unit]) -> NotFoundError:
        known = ", ".join(unit.name for unit in units) or "none"
        return NotFoundError(
            "service.unknown_unit", manager="supervisor", unit=name, component=self._c.name, known=known
        )

    def _memory(self) -> str:
        return os.path.join(self._c.work, "stopping.json")


class _Priorities:
    """What supervisord tells of each process's definition: in which order, and whether it starts by itself."""

    def __init__(self, infos: list[dict[str, Any]]) -> None:
        self._order: dict[str, tuple[int, int]] = {}
        self.autostart: set[str] = set()
        for info in infos:
            name = _name(info["group"], info["name"])
            self._order[name] = (info["group_prio"], info["process_prio"])
            if info["autostart"]:
                self.autostart.add(name)

    def first_first(self, unit: Unit) -> tuple[int, int, str]:
        return (*self._order.get(unit.name, (999, 999)), unit.name)

    def last_first(self, unit: Unit) -> tuple[int, int, str]:
        group, process, name = self.first_first(unit)
        return -group, -process, name


class _Watch:
    """Tells a unit that is down from one that is only between an end and its next start."""

    def __init__(self, priorities: _Priorities) -> None:
        self._priorities = priorities
        self._since: dict[tuple[str, int], float] = {}

    def rests(self, unit: Unit) -> bool:
        if unit.state in (*_ALIVE, STOPPING):
            return False
        pending = unit.state == EXITED and unit.ended_ago < _ROUND_SECONDS
        pending |= unit.state == STOPPED and not unit.spawned and unit.name in self._priorities.autostart
        if not pending:
            return True
        since = self._since.setdefault((unit.name, unit.state), time.monotonic())
        return time.monotonic() - since > _ROUND_SECONDS


def _too_slow(unit: Unit, *, stopping: bool) -> RollbackError:
    why = f"it is still {unit.statename}" + (f": {unit.error}" if unit.error else "")
    return RollbackError("service.no_stop" if stopping else "service.no_start", unit=unit.name, why=why, log=unit.log)


def _priorities(server: Rpc) -> _Priorities:
    return _Priorities(server.call("getAllConfigInfo"))


def _ask(server: Rpc, method: str, name: str) -> None:
    """Make a call whose refusal only says that things have moved on; the next look shows where to."""
    arguments = (name, False) if method == "stopProcess" else (name,)
    try:
        server.call(method, *arguments)
    except RefusedError as error:
        if error.code not in (rpc.NOT_RUNNING, rpc.BAD_NAME, rpc.ALREADY_ADDED):
            why = f"{method} of {name} was refused: {error}"
            raise server.unreachable(why) from error


def _nap(pulse: Pulse) -> None:
    pulse.tick()
    time.sleep(_POLL_SECONDS)  # supervisor tells of changes to its own listeners only


def _matches(group: str, process: str, pattern: str) -> bool:
    return fnmatchcase(f"{group}:{process}" if ":" in pattern else group, pattern)


def _split(name: str) -> tuple[str, str]:
    group, _, process = name.partition(":")
    return group, process or group


def _name(group: str, name: str) -> str:
    return name if group == name else f"{group}:{name}"


def _unit(info: Mapping[str, Any]) -> Unit:
    return Unit(
        name=_name(info["group"], info["name"]),
        group=info["group"],
        process=info["name"],
        state=info["state"],
        statename=info["statename"],
        pid=info["pid"],
        spawned=info["start"] > 0,
        ended_ago=info["now"] - info["stop"],
        exitstatus=info["exitstatus"],
        error=info["spawnerr"],
        log=info["stderr_logfile"] or info["stdout_logfile"] or "supervisord's own",
    )
