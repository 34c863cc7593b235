"""Units under systemd, the system's or a user's own.

To the units that rfs.toml names come the sockets, timers and paths that start them: with a socket left
listening, the first connection would start a service in the middle of a restore. Units that depend on those
(Requires=, BindsTo=, PartOf=) are stopped by systemd along with them, and those that uphold them have to be stopped,
too; they are written down and started again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from rfs.production.rollback.driver import Finding, Pulse
from rfs.production.rollback.drivers.service import systemd_call as call
from rfs.production.rollback.drivers.service.definitions import shown
from rfs.production.rollback.drivers.service.family import Family, end_family
from rfs.production.rollback.drivers.service.manager import Manager, Places, Survey
from rfs.production.rollback.drivers.service.options import ServiceOptions
from rfs.production.rollback.drivers.service.systemd_call import Systemctl, Unit
from rfs.production.rollback.drivers.service.systemd_files import TRIGGERS, UnitFiles, full_name, is_pattern
from rfs.production.rollback.drivers.service.systemd_notes import Notes, environment_of, shown_words
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.model import Component

_POLL_SECONDS = 0.05
# How long a look waits for units that are between two states.
_SETTLE_SECONDS = 3.0
# A simple unit counts as started as soon as its process was forked; one that ends at once is seen within this.
_STEADY_SECONDS = 0.5
_SIMPLE = ("simple", "exec", "idle")
# A unit that systemd had to start again by itself is believed to stay up after this.
_STABLE_SECONDS = 2.0
# Something may start units again while they are being stopped: a boot that is still going on, say.
_ROUNDS = 5


class SystemdManager(Manager):
    """Args: c: the component. options: its table."""

    def __init__(self, c: Component, options: ServiceOptions) -> None:
        self._c = c
        self._options = options
        self._user = options.scope == "user"
        self._systemctl = Systemctl(c, user=self._user)
        names = [full_name(unit) for unit in options.units]
        self._exact = [name for name in names if not is_pattern(name)]
        self._patterns = [name for name in names if is_pattern(name)]
        self._notes = Notes(c)
        self._last: list[Unit] = []

    # — looking —

    def places(self) -> Places:
        """See Manager. Unit files and drop-ins, the links that enable, alias or mask, and environment files."""
        disk = self._disk()
        # What systemd has in memory adds names only, and those were just asked for in most cases.
        units = self._last or self._units(disk)
        names = {*self._exact, *disk.matching(self._patterns)}
        names |= {unit.name for unit in units if self._is_named(unit.name)}
        names |= {each for name in names if name.endswith(TRIGGERS) for each in disk.started_by(name)}
        # In memory may be what was true before a restore: so the disk has to agree.
        names |= {name for unit in units for name in unit.triggered_by if disk.started_by(name) & names}
        places = disk.places({*names, *disk.beside(names)})
        # What a generator made comes back by itself from what it was made of.
        made = {unit.source for unit in units if unit.source and unit.enabled == "generated" and unit.name in names}
        return Places(tuple(sorted({*places.files, *made})), places.links, places.shared, places.folders)

    def _is_named(self, name: str) -> bool:
        return name in self._exact or any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def survey(self) -> Survey:
        """See Manager.

        A service behind a socket that listens is recorded as stopped unless it is enabled itself: it is for
        the next connection to start it. So is what could not be started again, with a warning.
        """
        units, restarted = self._settled()
        listening = {unit.id for unit in units if unit.kind == "socket" and not unit.rests}
        states: dict[str, bool] = {}
        warnings: list[str] = []
        for unit in units:
            states[unit.name] = False
            wrong = _no_return(unit)
            if unit.load == "not-found" and unit.rests:
                warnings.append(f"systemd knows no unit {unit.name}.")
            elif unit.active == "failed":
                warnings.append(f"The unit {unit.name} failed ({unit.result}): it is recorded as stopped.")
            elif unit.sub == "auto-restart" or unit.id in restarted:
                warnings.append(f"systemd keeps restarting the unit {unit.name}: it is recorded as stopped.")
            elif wrong and not unit.rests:
                text = (
                    f"The unit {unit.name} runs, but could not be started again: {wrong[0]}. It is recorded as stopped."
                )
                warnings.append(text)
            elif not _on_demand(unit, listening):
                states[unit.name] = unit.is_up or (unit.active == "activating" and not unit.job)
        environments = {unit.name: environment_of(unit.pid) for unit in units if states[unit.name] and unit.pid}
        return Survey(
            states,
            tuple(warnings),
            {unit.name: unit.enabled for unit in units if unit.enabled},
            {name: each for name, each in environments.items() if each is not None},
        )

    def contains_caller(self) -> bool:
        """See Manager: by control groups, that of a slice or of a unit which is stopped along included."""
        own = call.own_groups()
        units = self._units(self._disk())
        stopped = [*units, *self._dependents(units)]
        return any(call.within(group, unit.group) for unit in stopped for group in own)

    def examine(self) -> Iterator[Finding]:
        """See Manager."""
        try:
            disk = self._disk()
            units = self._units(disk)
        except RollbackError as error:
            yield Finding("error", str(error), error.hint)
            return
        for unit in units:
            yield from self._examine(unit, disk)
        if os.geteuid() != 0 and not self._user:
            text = f"rfs does not run as root: whether it may stop and start {self._c.name} is for polkit to say."
            hint = "Run rfs as root (sudo), or allow org.freedesktop.systemd1.manage-units in a polkit rule."
            yield Finding("warning", text, hint)

    def _examine(self, unit: Unit, disk: UnitFiles) -> Iterator[Finding]:
        wrong = _no_return(unit)
        if unit.load == "not-found" and unit.rests:
            unknown = self._unknown(unit.name, disk)
            yield Finding("error", str(unknown), unknown.hint)
        elif wrong and (not unit.rests or unit.load != "masked"):
            yield Finding("error", f"The unit {unit.name} could not be started again: {wrong[0]}.", wrong[1])
        elif not unit.can_stop:
            text = f"The unit {unit.name} cannot be stopped by hand: its unit file forbids it (RefuseManualStop=)."
            yield Finding("error", text, "Take that out of its unit file.")
        if _is_edited(unit, disk):
            text = f"The files of the unit {unit.name} were changed after systemd had read them."
            yield Finding(
                "warning", text, f"Run `{self._systemctl.title} daemon-reload`; until then the old ones count."
            )
        if unit.active == "failed":
            text = f"The unit {unit.name} failed ({unit.result})."
            yield Finding("warning", text, f"See its log: {self._systemctl.log(unit.id)}.")
        if unit.began and not unit.rests:
            yield from self._examine_environment(unit, disk)

    def _examine_environment(self, unit: Unit, disk: UnitFiles) -> Iterator[Finding]:
        started = time.time() - (time.monotonic() - unit.began)
        for path in disk.environment_files(unit.id):
            try:
                newer = os.stat(path).st_mtime > started
            except OSError:
                continue  # it may be missing by intention, or be readable for root only
            if newer:
                text = f"The unit {unit.name} runs with an older environment than {shown(path)} now says."
                yield Finding("warning", text, f"`{self._systemctl.title} restart {unit.id}` makes it take effect.")

    # — stopping —

    def expect(self, mended: Collection[str]) -> None:
        """See Manager."""
        self._notes.expect(mended)

    def forget(self) -> None:
        """See Manager."""
        self._notes.forget()

    def stop(self, pulse: Pulse) -> None:
        """See Manager. What does not stop is killed by systemd, when and if its own settings say so."""
        until = time.monotonic() + min(self._options.stop_seconds, pulse.remaining())
        disk = self._disk()
        units = self._units(disk)
        along = self._dependents(units)
        for unit in [*units, *along]:
            wrong = _no_return(unit)
            mended = unit.load != "loaded" and {unit.name, unit.id} & {*self._notes.mended}
            if wrong and not unit.rests and not mended:
                raise RollbackError("service.no_return", unit=unit.name, why=wrong[0], hint=wrong[1])
        edited = any(_is_edited(unit, disk) for unit in units)
        self._notes.stopping([unit.id for unit in along], "" if edited else self._loaded())
        groups = {unit.group for unit in units}
        self._bring_down([*units, *along], pulse, until)
        left = Family(call.members(groups), os.path.join(self._c.work, "stopping.json"))
        end_family(left, self._c.name, pulse, until)

    def _bring_down(self, units: Collection[Unit], pulse: Pulse, until: float) -> None:
        """Stop units, those first that start others."""
        said = ""
        left = [unit for unit in units if not unit.rests]
        for _ in range(_ROUNDS):
            if not left or time.monotonic() > until:
                break
            upholders = {name for unit in left for name in unit.upheld_by}
            starters = [unit.id for unit in left if f".{unit.kind}" in TRIGGERS or unit.id in upholders]
            others = [unit.id for unit in left if unit.id not in starters]
            answers = [self._systemctl.ask("stop", names, pulse, until) for names in (starters, others)]
            said = " ".join(filter(None, answers))
            left = [unit for unit in self._systemctl.units([unit.id for unit in units]) if not unit.rests]
            pulse.tick()
        if left:
            unit = left[0]
            why = said or "something starts it again and again"
            if unit.active == "deactivating":
                why = f"it is still {unit.state}, and its unit file allows it {unit.stop_timeout}"
            raise RollbackError("service.no_stop", unit=unit.name, why=why)

    # — starting —

    def start(self, wanted: Collection[str], pulse: Pulse, *, as_it_was: bool = False) -> list[str]:
        """See Manager. Units that were stopped along with these are started again, too.

        systemd forgets the definitions of what it has stopped, so that it can do without none.
        """
        until = time.monotonic() + min(self._options.start_seconds, pulse.remaining())
        disk = self._disk()
        units = self._units(disk)
        if not self._notes.loaded or self._notes.loaded != self._loaded():
            said = self._systemctl.ask("daemon-reload", (), pulse, until)
            if said:
                raise RollbackError("service.definitions", manager="systemd", component=self._c.name, why=said)
            units = self._units(disk)
        ours = self._wanted(wanted, units, disk)
        along = [unit for unit in self._systemctl.units(self._notes.along) if unit.load == "loaded"]
        self._bring_up([*ours, *along], pulse, until)
        meant = {unit.id for unit in ours}
        unwanted = [
            unit
            for unit in self._units(disk)
            if not unit.rests and unit.id not in meant and meant.isdisjoint(unit.triggered_by)
        ]
        self._bring_down(unwanted, pulse, until)
        self._notes.forget()
        return []

    def _wanted(self, names: Iterable[str], units: Iterable[Unit], disk: UnitFiles) -> list[Unit]:
        """Return the units that are to run. rfs.toml may name fewer than it did at the checkpoint."""
        ours = {name: unit for unit in units for name in (unit.id, unit.name)}
        others = self._systemctl.units(sorted({*names} - ours.keys()))
        found = []
        for unit in [*(ours[name] for name in sorted(names) if name in ours), *others]:
            known = {unit.name, unit.id} & ours.keys() or ours.keys() & {*unit.triggers}
            if not known and not self._is_named(unit.name):
                continue
            if unit.load == "not-found":
                raise self._unknown(unit.name, disk)
            found.append(unit)
        return found

    def _bring_up(self, meant: list[Unit], pulse: Pulse, until: float) -> None:
        ids = [unit.id for unit in meant]
        down = [unit for unit in meant if not unit.is_up]
        # A socket cannot be had while its service runs without it.
        in_the_way = sorted({name for unit in _sockets(down) for name in unit.triggers})
        if in_the_way:
            self._bring_down(self._systemctl.units(in_the_way), pulse, until)
            down = [unit for unit in self._systemctl.units(ids) if not unit.is_up]
        # What failed, or was started often lately, would be refused. It is no error when there is nothing to forget.
        self._systemctl.ask("reset-failed", [unit.id for unit in down], pulse, until)
        at, began = time.time(), time.monotonic()
        said = [
            self._systemctl.ask("start", [unit.id for unit in group], pulse, until)
            for group in (_sockets(down), _others(down), [unit for unit in _triggers(down) if unit.kind != "socket"])
        ]
        started = {unit.id for unit in down}
        steady = began + (_STEADY_SECONDS if any(unit.type in _SIMPLE for unit in down) else 0)
        while True:
            units = self._systemctl.units(ids)
            for unit in units:
                if unit.rests or (unit.id in started and (unit.restarts or unit.sub == "auto-restart")):
                    raise self._no_start(unit, " ".join(filter(None, said)), at)
            left = [unit for unit in units if not unit.is_up]
            if not left and time.monotonic() >= steady:
                return
            if left and time.monotonic() > until:
                raise self._no_start(left[0], "", at)
            while True:
                pulse.tick()
                time.sleep(_POLL_SECONDS)  # only D-Bus tells of changes
                if left or time.monotonic() >= steady:
                    break

    def _no_start(self, unit: Unit, said: str, at: float) -> RollbackError:
        why = _how_it_ended(unit, said)
        lines = self._systemctl.last_words(unit.id, at)
        if lines:
            secrets = self._disk().environment_files(unit.id)
            why += f"; its last words were: {shown_words(' / '.join(lines), secrets)}"
        return RollbackError("service.no_start", unit=unit.name, why=why, log=self._systemctl.log(unit.id))

    # — what belongs to it —

    def _disk(self) -> UnitFiles:
        return UnitFiles(self._systemctl.folders(), user=self._user)

    def _loaded(self) -> str:
        """Return what becomes another when systemd reads the units anew, or their files are changed."""
        stamp = self._systemctl.stamp()
        return f"{stamp} {self._notes.digest(self.places())}" if stamp else ""

    def _units(self, disk: UnitFiles) -> list[Unit]:
        """Return the units that rfs.toml names, what starts them, and what they start when they are for that."""
        on_disk = [name for name in disk.matching(self._patterns) if "@." not in name]
        matching = {*on_disk, *self._systemctl.loaded(self._patterns)}
        named = [*self._exact, *sorted(matching - set(self._exact))]
        found: dict[str, Unit] = {}
        left = [*named, *disk.beside(named)]
        while left:
            for unit in self._systemctl.units(left):
                # Loaded is also what others only mention.
                if unit.load != "not-found" or not unit.rests or unit.name in self._exact:
                    found.setdefault(unit.id, unit)
            more = {name for unit in found.values() for name in unit.triggered_by if name.endswith(TRIGGERS)}
            more |= {name for unit in found.values() if f".{unit.kind}" in TRIGGERS for name in unit.triggers}
            left = sorted(more - found.keys() - set(left))
        self._last = list(found.values())
        return self._last

    def _dependents(self, units: Iterable[Unit]) -> list[Unit]:
        """Return the other units that systemd stops when it stops these, and those that would have it start them."""
        found: list[Unit] = []
        seen = {unit.id for unit in units}
        left = [unit for unit in units if not unit.rests]
        while left:
            names = sorted({name for unit in left for name in (*unit.dependents, *unit.upheld_by)} - seen)
            seen.update(names)
            left = [unit for unit in self._systemctl.units(names) if not unit.rests]
            found += left
        return found

    def _settled(self) -> tuple[list[Unit], set[str]]:
        """Return the units once they are not between two states, and the ids of those restarted meanwhile."""
        until = time.monotonic() + _SETTLE_SECONDS
        first: dict[str, int] = {}
        while True:
            units = self._units(self._disk())
            for unit in units:
                first.setdefault(unit.id, unit.restarts)
            moving = any(
                (unit.moves and not unit.job) or (unit.restarts and unit.is_up and unit.up < _STABLE_SECONDS)
                for unit in units
            )
            if not moving or time.monotonic() > until:
                return units, {unit.id for unit in units if unit.restarts > first[unit.id]}
            time.sleep(_POLL_SECONDS)  # only D-Bus tells of changes

    def _unknown(self, name: str, disk: UnitFiles) -> NotFoundError:
        like = ", ".join(get_close_matches(name, disk.known(), n=5)) or "none of a similar name"
        return NotFoundError("service.unknown_unit", manager="systemd", unit=name, component=self._c.name, known=like)


def _triggers(units: Iterable[Unit]) -> list[Unit]:
    return [unit for unit in units if f".{unit.kind}" in TRIGGERS]


def _sockets(units: Iterable[Unit]) -> list[Unit]:
    return [unit for unit in units if unit.kind == "socket"]


def _others(units: Iterable[Unit]) -> list[Unit]:
    return [unit for unit in units if f".{unit.kind}" not in TRIGGERS]


def _is_edited(unit: Unit, disk: UnitFiles) -> bool:
    """Tell whether a unit's files changed since systemd read them. Of drop-ins that came, it takes no notice itself."""
    if unit.load != "loaded":
        return False
    on_disk, read = disk.drop_ins(unit.id), unit.drop_ins
    return (
        unit.edited
        or not {*map(os.path.basename, on_disk)} <= {*map(os.path.basename, read)}
        or not all(map(os.path.exists, read))
    )


def _on_demand(unit: Unit, listening: Collection[str]) -> bool:
    return not unit.enabled.startswith("enabled") and any(name in listening for name in unit.triggered_by)


def _no_return(unit: Unit) -> tuple[str, str] | None:
    """Return why a unit could not be started once it is stopped, and what to do; None when it could."""
    by_hand = "or stop it by hand first"
    if unit.transient:
        return "it was made by systemd-run and has no unit file", f"Give it a unit file, {by_hand}."
    if unit.load == "masked":
        return "it is masked", f"Run `systemctl unmask {unit.id}`, {by_hand}."
    if unit.load == "not-found":
        return "its unit file is gone", f"Put its unit file back, {by_hand}."
    if unit.load != "loaded":
        return f"systemd cannot use its unit file ({unit.load})", f"Mend the unit file, {by_hand}."
    if not unit.returns:
        why = "its unit file forbids it to be started by hand (RefuseManualStart=)"
        return why, "Take that out of the unit file, or name what starts it instead."
    return None


def _how_it_ended(unit: Unit, said: str) -> str:
    """Return why a unit is not up as the end of a sentence.

    Args:
        said: by systemctl.
    """
    if unit.load == "masked":
        return "it is masked"
    if unit.load != "loaded":
        return f"systemd cannot use its unit file ({unit.load}): {said}"
    if not unit.rests and unit.sub != "auto-restart" and not unit.restarts:
        return f"it is still {unit.state}"
    if not unit.conditions and unit.conditions_known:
        return "a condition in its unit file is not met"
    # systemd forgets at once about a unit that nothing needs and that ended without an error.
    gone = "it ended at once" + ("" if unit.conditions_known else ", or a condition in its unit file is not met")
    reasons = {
        "success": gone if unit.rests else "it does not stay up",
        "exit-code": f"its process ended with status {unit.status}" if unit.status else "a command of it failed",
        "signal": f"its process was ended by signal {unit.status}",
        "core-dump": f"its process crashed with signal {unit.status}",
        "timeout": "it was not ready within the time that its unit file allows",
        "protocol": "its process ended without saying that it is ready",
        "start-limit-hit": "it was started too often in a short time",
        "oom-kill": "the machine has no memory left for it",
        "resources": "systemd could not prepare what it needs",
    }
    return reasons.get(unit.result, f"its result is {unit.result}")
