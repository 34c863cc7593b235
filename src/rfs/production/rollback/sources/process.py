"""Figures of processes, each with its children."""

from __future__ import annotations

import os
import re
import time
from typing import Any, Literal

import msgspec

from rfs.production.rollback.secret import absolute
from rfs.production.rollback.sources.base import Figure, NoFigureError, Source, SourceContext
from rfs.production.rollback.sources.host import load_psutil

_SYSTEMCTL_SECONDS = 5.0


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure of processes, each with its children, all together. That none is there is no data.

    Attributes:
        process: "memory_mb" (resident, in 1,000,000 bytes; pages that several share count for each),
            "memory_percent" (of the machine's), "cpu_percent" (100 is one processor, since the measurement before),
            "open_files" (descriptors) or "count" (how many there are).
        pid_file: a file that holds the number of the process.
        pattern: regular expression that is searched for in the command lines of all processes.
        unit: a systemd unit, with all that runs in it.
    """

    process: Literal["memory_mb", "memory_percent", "cpu_percent", "open_files", "count"]
    pid_file: str | None = None
    pattern: str | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if sum(key is not None for key in (self.pid_file, self.pattern, self.unit)) != 1:
            raise ValueError("it takes exactly one of pid_file, pattern and unit")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                why = f"pattern {self.pattern!r} is no regular expression: {error}"
                raise ValueError(why) from None

    def open(self, context: SourceContext) -> Source:
        """See SourceSpec."""
        return _Family(context, self)


class _Family(Source):
    def __init__(self, context: SourceContext, spec: Process) -> None:
        super().__init__(context)
        self._spec = spec
        self._psutil = load_psutil()
        self._pattern = None if spec.pattern is None else re.compile(spec.pattern)
        self._cpu: dict[tuple[int, float], float] = {}
        self._measured = 0.0

    def figure(self) -> Figure:
        members = self._members()
        kind = self._spec.process
        if kind == "count":
            return Figure(float(len(members)))
        if not members:
            self._cpu = {}
            return Figure(None)
        if kind == "cpu_percent":
            return self._cpu_since(members)
        found = [value for member in members if (value := self._ask(member)) is not None]
        if not found:
            return Figure(None)
        total = sum(found)
        if kind == "memory_mb":
            total /= 1e6
        elif kind == "memory_percent":
            total *= 100 / self._psutil.virtual_memory().total
        return Figure(total)

    def _ask(self, member: Any) -> float | None:
        """Return one process's share; None when it went."""
        try:
            if self._spec.process == "open_files":
                return float(member.num_fds())
            return float(member.memory_info().rss)
        except self._psutil.NoSuchProcess:
            return None
        except self._psutil.AccessDenied as error:
            why = f"process {member.pid} belongs to somebody else, who must be asked"
            raise NoFigureError(why) from error

    def _cpu_since(self, members: list[Any]) -> Figure:
        now, times = time.monotonic(), {}
        for member in members:
            try:
                used = member.cpu_times()
                times[member.pid, member.create_time()] = used.user + used.system
            except self._psutil.NoSuchProcess:
                continue
        before, self._cpu = self._cpu, times
        elapsed, self._measured = now - self._measured, now
        if not before or elapsed <= 0:
            return Figure(None)
        # Who came meanwhile used all of its time meanwhile.
        return Figure(100 * sum(used - before.get(key, 0.0) for key, used in times.items()) / elapsed)

    # — which —

    def _members(self) -> list[Any]:
        """Return the processes and their descendants, each once."""
        found: dict[int, Any] = {}
        for leader in self._leaders():
            try:
                for member in (leader, *leader.children(recursive=True)):
                    found[member.pid] = member
            except self._psutil.NoSuchProcess:
                continue
        return list(found.values())

    def _leaders(self) -> list[Any]:
        if self._pattern is not None:
            return self._matching(self._pattern)
        pids = self._in_unit(self._spec.unit) if self._spec.unit is not None else self._in_file()
        found = []
        for pid in pids:
            try:
                found.append(self._psutil.Process(pid))
            except self._psutil.NoSuchProcess:
                continue
        return found

    def _matching(self, pattern: re.Pattern[str]) -> list[Any]:
        # Not ourselves and who called us, whose command lines may hold the pattern.
        own = {os.getpid(), *(each.pid for each in self._psutil.Process().parents())}
        found = []
        for process in self._psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
            except (self._psutil.NoSuchProcess, self._psutil.AccessDenied):
                continue
            if process.pid not in own and pattern.search(line):
                found.append(process)
        return found

    def _in_file(self) -> list[int]:
        path = absolute(self._spec.pid_file or "", self.context.home)
        try:
            with open(path, encoding="ascii") as file:
                return [int(file.read(32))]
        except FileNotFoundError:
            return []
        except ValueError:
            why = f"{path} holds no process number"
            raise NoFigureError(why) from None

    def _in_unit(self, unit: str) -> list[int]:
        from rfs.production.rollback.process import run

        seconds = min(self.context.timeout, _SYSTEMCTL_SECONDS)
        command = ("systemctl", "show", "--property=ControlGroup", "--value", "--", unit)
        ended = run(command, cwd="/", timeout=seconds, pulse=self)
        if ended.status:
            why = f"systemctl show {unit} ended with {ended.reason}"
            raise NoFigureError(why)
        group = ended.output.strip()
        found: list[int] = []
        for folder, _, _ in os.walk(f"/sys/fs/cgroup{group}") if group else ():
            try:
                with open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as file:
                    found += map(int, file.read().split())
            except FileNotFoundError:
                continue
        return found
