"""Units that plain commands start, stop and tell the status of."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence

from rfs.production.rollback.driver import Finding, Pulse
from rfs.production.rollback.drivers.service.family import Family, ancestry, end_family
from rfs.production.rollback.drivers.service.manager import Manager, Places, Survey
from rfs.production.rollback.drivers.service.options import ServiceOptions
from rfs.production.rollback.errors import RollbackError, TimedOutError
from rfs.production.rollback.model import Component
from rfs.production.rollback.process import Ended, run

_STATUS_SECONDS = 10.0
_POLL_SECONDS = 0.1
# LSB: the program is not running. Other statuses are taken the same way, but doctor mentions them.
_LSB_STOPPED = 3


class CommandManager(Manager):
    """Args: c: the component. options: its table."""

    def __init__(self, c: Component, options: ServiceOptions) -> None:
        self._c = c
        self._options = options
        self._units = options.units or (c.name,)

    def places(self) -> Places:
        """See Manager: what defines these units is rfs.toml itself."""
        return Places()

    def survey(self) -> Survey:
        """See Manager."""
        return Survey({unit: self._runs(unit) for unit in self._units})

    def contains_caller(self) -> bool:
        """See Manager: by what the pid files say."""
        return not ancestry().isdisjoint(pid for pid in map(self._pid, self._units) if pid is not None)

    def examine(self) -> Iterator[Finding]:
        """See Manager."""
        for unit in self._units:
            try:
                ended = self._status(unit)
            except RollbackError as error:
                yield Finding("error", str(error), error.hint)
                continue
            if ended.status not in (0, _LSB_STOPPED):
                text = f"The status command of {unit} ended with {ended.reason}, which is taken as stopped."
                yield Finding("warning", text, "Let it end with 0 when the unit runs and with 3 when it does not.")

    def stop(self, pulse: Pulse) -> None:
        """See Manager."""
        until = time.monotonic() + min(self._options.stop_seconds, pulse.remaining())
        for unit in reversed(self._units):
            memory = os.path.join(self._c.work, f"stopping-{self._units.index(unit)}.json")
            pid = self._pid(unit)
            family = Family(() if pid is None else (pid,), memory)
            family.remember()
            if self._runs(unit):
                self._stop(unit, pulse, until)
            end_family(family, unit, pulse, until)

    def _stop(self, unit: str, pulse: Pulse, until: float) -> None:
        said = "it still runs"
        try:
            ended = self._run(self._options.stop, unit, until - time.monotonic(), pulse)
            if ended.status != 0:
                said += f", and its stop command ended with {ended.reason}: {ended.output}"
        except TimedOutError as error:
            if error.key != "command.slow":
                raise
            said += ", and its stop command did not end"
        while self._runs(unit):
            if time.monotonic() > until:
                raise RollbackError("service.no_stop", unit=unit, why=said)
            pulse.tick()
            time.sleep(_POLL_SECONDS)  # only its status command can tell

    def start(self, wanted: Collection[str], pulse: Pulse, *, as_it_was: bool = False) -> list[str]:
        """See Manager. There are no definitions that could be refused."""
        until = time.monotonic() + min(self._options.start_seconds, pulse.remaining())
        for unit in self._units:
            runs = self._runs(unit)
            if unit in wanted and not runs:
                self._start(unit, pulse, until)
            elif unit not in wanted and runs:
                self._stop(unit, pulse, until)
        return []

    def _start(self, unit: str, pulse: Pulse, until: float) -> None:
        os.makedirs(self._c.work, exist_ok=True)
        log = os.path.join(self._c.work, f"start-{self._units.index(unit)}.log")
        try:
            ended = self._run(self._options.start, unit, until - time.monotonic(), pulse, log)
        except TimedOutError as error:
            if error.key != "command.slow":
                raise
            why = "its start command did not end; it must leave the unit in the background"
            raise RollbackError("service.no_start", unit=unit, why=why, log=log) from error
        if ended.status != 0:
            why = f"its start command ended with {ended.reason}"
            raise RollbackError("service.no_start", unit=unit, why=why, log=log)
        while not self._runs(unit):
            if time.monotonic() > until:
                why = "its start command ended, but its status command says that it does not run"
                raise RollbackError("service.no_start", unit=unit, why=why, log=log)
            pulse.tick()
            time.sleep(_POLL_SECONDS)  # only its status command can tell

    def _runs(self, unit: str) -> bool:
        return self._status(unit).status == 0

    def _status(self, unit: str) -> Ended:
        return self._run(self._options.status, unit, _STATUS_SECONDS)

    def _run(
        self, command: Sequence[str], unit: str, timeout: float, pulse: Pulse | None = None, log: str | None = None
    ) -> Ended:
        words = [word.replace("{unit}", unit) for word in command]
        return run(
            words, cwd=self._c.home, timeout=max(0.1, timeout), pulse=pulse, log=log, keep_children=log is not None
        )

    def _pid(self, unit: str) -> int | None:
        if self._options.pidfile is None:
            return None
        path = os.path.join(self._c.home, self._options.pidfile.replace("{unit}", unit))
        try:
            with open(path, encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            return None  # not there while the unit is stopped, or being written
