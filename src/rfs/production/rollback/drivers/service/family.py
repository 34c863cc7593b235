"""The processes of a unit, children included, told apart from whoever is given their numbers later.

A manager knows only the process it started. Its children may outlive it and go on writing
into what is about to be restored, so they are waited for, and ended when they do not go.
A process is known by its number and its start time together. Linux; elsewhere nothing is seen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Mapping

import msgspec

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.errors import RollbackError

_POLL_SECONDS = 0.02
# What a unit's leader left behind is sent SIGTERM; this much later SIGKILL.
_GRACE_SECONDS = 5.0
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Process(msgspec.Struct, frozen=True):
    """One line of the process table. `started`: in clock ticks since boot."""

    parent: int
    group: int
    started: int


class _Memory(msgspec.Struct, frozen=True):
    """A family as it is written down: numbers mean nothing after a reboot."""

    boot: str
    known: dict[int, int]
    groups: list[int]


def process_table() -> dict[int, Process]:
    """Return every living process by its number, zombies left out."""
    table: dict[int, Process] = {}
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return table
    for name in names:
        if name.isascii() and name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    text = file.read()
            except OSError:
                continue  # it ended meanwhile, or /proc hides it from us
            # The second field is the program's name and may itself hold spaces and brackets.
            words = text[text.rindex(b")") + 2 :].split()
            if words[0] not in (b"Z", b"X"):
                table[int(name)] = Process(int(words[1]), int(words[2]), int(words[19]))
    return table


def ancestry() -> frozenset[int]:
    """Return this process, its ancestors, and the leaders of its process group and session."""
    table = process_table()
    found = {os.getpid(), os.getpgrp(), os.getsid(0)}
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.add(pid)
        pid = table[pid].parent if pid in table else 0
    return frozenset(found)


def with_environment(wanted: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """Return the environments of the living processes that were started with all of these variables, by number."""
    words = [os.fsencode(f"{name}={value}") for name, value in wanted.items()]
    found: dict[int, dict[str, str]] = {}
    for pid in process_table():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
        if all(word in variables for word in words):
            pairs = (os.fsdecode(variable).partition("=") for variable in variables)
            found[pid] = {name: value for name, _, value in pairs}
    return found


class Family:
    """Some units' processes and their descendants.

    Args:
        leaders: numbers of the processes that the units were started as.
        parent: when given, leaders that are not its children are left out: they are numbers of another
            PID namespace, or somebody else's.
        memory: file that remembers the family, so that a stop that was killed is carried on knowing it.
    """

    def __init__(self, leaders: Collection[int], memory: str, parent: int | None = None) -> None:
        self._memory = memory
        self._known: dict[int, int] = {}
        self._groups: set[int] = set()
        table = process_table()
        self._recall(table)
        for pid in leaders:
            process = table.get(pid)
            if process is not None and (parent is None or process.parent == parent):
                self._known[pid] = process.started
                if process.group == pid:
                    self._groups.add(pid)
        self.living()

    def living(self) -> list[int]:
        """Look again, and return the numbers of those that live.

        When this process belongs to the unit itself, it and what it started are left out.
        """
        table = process_table()
        alive = {pid for pid, started in self._known.items() if pid in table and table[pid].started == started}
        # A group's number is not given away while one of its members lives, and looks follow each other closely:
        # so a child is found whose parent ended before the child was ever seen.
        alive |= {pid for pid, process in table.items() if process.group in self._groups}
        children: dict[int, list[int]] = {}
        for pid, process in table.items():
            children.setdefault(process.parent, []).append(pid)
        alive |= _descendants(alive, children)
        if os.getpid() in alive:
            alive -= {os.getpid()} | _descendants({os.getpid()}, children)
        self._known = {pid: table[pid].started for pid in alive}
        self._groups &= {table[pid].group for pid in alive}
        return sorted(alive)

    def signal(self, number: int) -> None:
        """Send a signal to those that live.

        Raises:
            PermissionError: one of them belongs to somebody else.
        """
        for pid in self.living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def remember(self) -> None:
        """Write the family down."""
        if not self._known:
            return
        os.makedirs(os.path.dirname(self._memory), exist_ok=True)
        facts = _Memory(_boot_id(), dict(self._known), sorted(self._groups))
        temporary = self._memory + ".new"
        with open(temporary, "wb") as file:
            file.write(msgspec.json.encode(facts))
        os.replace(temporary, self._memory)

    def forget(self) -> None:
        """Remove what `remember` wrote."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._memory)

    def _recall(self, table: dict[int, Process]) -> None:
        try:
            with open(self._memory, "rb") as file:
                facts = msgspec.json.decode(file.read(), type=_Memory)
        except (OSError, msgspec.MsgspecError):
            return  # there is none, or it was cut short: it only makes a resumed stop more thorough
        if facts.boot == _boot_id():
            self._known = {pid: s for pid, s in facts.known.items() if pid in table and table[pid].started == s}
            self._groups = set(facts.groups) & {table[pid].group for pid in self._known}


def _descendants(pids: Collection[int], children: dict[int, list[int]]) -> set[int]:
    found: set[int] = set()
    left = list(pids)
    while left:
        for pid in children.get(left.pop(), ()):
            if pid not in found:
                found.add(pid)
                left.append(pid)
    return found


def _boot_id() -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def end_family(family: Family, unit: str, pulse: Pulse, until: float) -> None:
    """Wait for what a stopped unit had started, and end it when it does not go: it may still be writing.

    Args:
        unit: for the error's text.
        until: on the monotonic clock.

    Raises:
        RollbackError: service.no_stop.
    """
    asked: float | None = None
    while alive := family.living():
        now = time.monotonic()
        numbers = ", ".join(map(str, alive))
        if now > until:
            raise RollbackError("service.no_stop", unit=unit, why=f"its processes {numbers} do not end")
        try:
            if asked is None:
                asked = now
                family.signal(signal.SIGTERM)
            elif now - asked > min(_GRACE_SECONDS, (until - asked) / 2):
                family.signal(signal.SIGKILL)
        except PermissionError:
            why = f"its processes {numbers} belong to another user"
            raise RollbackError("service.no_stop", unit=unit, why=why) from None
        pulse.tick()
        time.sleep(_POLL_SECONDS)  # they are not our children: nothing tells of their end
    family.forget()
