"""Talking to systemd: systemctl and what it shows of units, the journal, and control groups.

Only `systemctl show` is read, which prints properties for programs. Through the D-Bus interface the same
properties would come without a process for each question, but only with a library for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.errors import RollbackError, TimedOutError
from rfs.production.rollback.model import Component
from rfs.production.rollback.process import Ended, run

_BOOTED = "/run/systemd/system"
_LOOK_SECONDS = 30.0
_JOURNAL_SECONDS = 3.0
# A unit's properties take less than a kilobyte; a machine may have some thousands of units.
_OUTPUT_BYTES = 1 << 24
_CGROUPS = "/sys/fs/cgroup"
_DENIED = ("Access denied", "Interactive authentication required", "Permission denied", "Operation not permitted")

# By whether it is the user's systemd. It is compiled in, or was given to systemd when that was started.
_folders: dict[bool, list[str]] = {}

_DEPENDENTS = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")
_PROPERTIES = (
    "Id", "Names", "LoadState", "ActiveState", "SubState", "UnitFileState", "SourcePath", "Type", "MainPID",
    "ControlGroup", "TriggeredBy", "Triggers", "UpheldBy", "NeedDaemonReload", "Transient", "CanStart", "CanStop",
    "Result", "ExecMainStatus", "ExecMainStartTimestampMonotonic", "ConditionResult",
    "ConditionTimestampMonotonic", "DropInPaths", "NRestarts",
    "ActiveEnterTimestampMonotonic", "TimeoutStopUSec", *_DEPENDENTS,
)  # fmt: skip


class Unit(msgspec.Struct, frozen=True):
    """What systemd knows of one unit.

    Attributes:
        name: as it was asked for, which may be an alias.
        id: its own name.
        load: "loaded", "not-found", "masked", "bad-setting", …
        active, sub: the states, "active" and "running" say.
        enabled: "enabled", "static", "masked", "generated", …; empty when there is no such file.
        source: what it was generated from, or empty.
        pid: of its main process, 0 when it has none.
        group: its control group, below the root of them all, or empty.
        triggered_by: sockets, timers and paths that start it.
        triggers: what this one starts.
        dependents: what systemd stops along with it.
        upheld_by: what starts it again whenever it is stopped, while that is active itself.
        edited: whether systemd knows that its files were changed since they were read.
        transient: whether it was made by a program, without a file of its own.
        returns: whether it can be started (again).
        result, status: how it, or its main process, ended.
        conditions: whether those in its unit file were met, as far as `conditions_known`.
        drop_ins: as they were read.
        restarts: how often systemd started it by itself since it was started.
        up: seconds since it became active, 0 when it is not.
        began: when its main process was started, in seconds of the monotonic clock.
    """

    name: str
    id: str
    load: str
    active: str
    sub: str
    enabled: str
    source: str
    type: str
    pid: int
    group: str
    triggered_by: tuple[str, ...]
    triggers: tuple[str, ...]
    dependents: tuple[str, ...]
    upheld_by: tuple[str, ...]
    edited: bool
    transient: bool
    returns: bool
    can_stop: bool
    result: str
    status: int
    conditions: bool
    conditions_known: bool
    drop_ins: tuple[str, ...]
    restarts: int
    up: float
    began: float
    stop_timeout: str

    @property
    def kind(self) -> str:
        return self.id.rpartition(".")[2]

    @property
    def rests(self) -> bool:
        """Whether nothing of it is active, nor about to be."""
        return self.active in ("inactive", "failed")

    @property
    def is_up(self) -> bool:
        return self.active in ("active", "reloading", "refreshing")

    @property
    def moves(self) -> bool:
        """Whether it is between two states."""
        return not self.rests and self.active != "active"

    @property
    def job(self) -> bool:
        """Whether it does something once, and is at it now: what a timer starts, mostly."""
        return self.type == "oneshot" and self.active == "activating"

    @property
    def state(self) -> str:
        return f"{self.active} ({self.sub})"


class Systemctl:
    """One systemd: the system's, or the user's own.

    Args:
        c: the component, for errors.
        user: whether it is the user's.
    """

    def __init__(self, c: Component, *, user: bool) -> None:
        self._c = c
        self._user = user
        self._words = [*_session(), "systemctl", "--user"] if user else ["systemctl"]
        self._words += ["--no-pager", "--no-ask-password"]

    @property
    def title(self) -> str:
        """What a person would write."""
        return "systemctl --user" if self._user else "systemctl"

    def log(self, unit: str) -> str:
        """Return the command that shows a unit's log."""
        return f"journalctl {'--user -u' if self._user else '-u'} {unit}"

    def folders(self) -> list[str]:
        """Return the folders that systemd reads units from, the most important first."""
        if self._user not in _folders:
            _folders[self._user] = self._show("--property=UnitPath").partition("=")[2].split()
        return _folders[self._user]

    def stamp(self) -> str:
        """Return what changes whenever units are read anew; empty where systemd does not tell (before 250)."""
        names = ("UserspaceTimestampMonotonic", "UnitsLoadFinishTimestampMonotonic", "UnitsLoadTimestampMonotonic")
        lines = self._show(f"--property={','.join(names)}").splitlines()
        return " ".join(sorted(lines)) if len(lines) == len(names) else ""

    def units(self, names: Collection[str]) -> list[Unit]:
        """Return what systemd knows of these units, in this order; also of those that are not there."""
        if not names:
            return []
        found = self._blocks("--", *names)
        if len(found) != len(names):
            raise self._unreachable("it did not tell of each unit")
        now = time.monotonic()
        return [_unit(name, facts, now) for name, facts in zip(names, found, strict=True)]

    def loaded(self, patterns: Sequence[str]) -> list[str]:
        """Return the names of the units in memory that match shell patterns."""
        if not patterns:
            return []
        text = self._show("--all", "--property=Id", "--", *patterns)
        return [line.partition("=")[2] for line in text.splitlines() if line.startswith("Id=")]

    def ask(self, verb: str, names: Sequence[str], pulse: Pulse, until: float) -> str:
        """Make systemd do something and wait for it; return what it said when it could not, else nothing.

        Args:
            verb: of systemctl.
            names: of units.
            until: on the monotonic clock; then it is no longer waited for, and systemd goes on.

        Raises:
            RollbackError: service.denied.
        """
        if not names and verb != "daemon-reload":
            return ""
        words = [*self._words, verb, *(["--", *names] if names else [])]
        try:
            ended = self._run(words, max(0.1, until - time.monotonic()), pulse)
        except TimedOutError as error:
            if error.key != "command.slow":
                raise
            return "systemd was not done in time"
        if ended.status == 0:
            return ""
        said = " ".join(ended.output.split())
        if any(word in said for word in _DENIED):
            what = f"{self.title} {verb}"
            raise RollbackError("service.denied", component=self._c.name, what=what, user=_user(), why=said)
        return said or f"systemctl ended with {ended.reason}"

    def last_words(self, unit: str, since: float) -> list[str]:
        """Return the last lines that a unit wrote to the journal; none where that cannot be read.

        Args:
            since: on the clock of the day.
        """
        field = "_SYSTEMD_USER_UNIT" if self._user else "_SYSTEMD_UNIT"
        journal = [*(_session() if self._user else ()), "journalctl", *(["--user"] if self._user else [])]
        try:
            # What ended a moment ago may have written what the journal has not taken in yet.
            run([*journal, "--sync"], cwd="/", timeout=_JOURNAL_SECONDS)
            words = [*journal, "--quiet", "--no-pager", "--output=cat", "--lines=3", f"--since=@{int(since)}"]
            ended = run([*words, f"{field}={unit}"], cwd="/", timeout=_JOURNAL_SECONDS)
        except RollbackError:
            return []
        return [line.strip() for line in ended.output.splitlines() if line.strip()][-3:] if ended.status == 0 else []

    def _blocks(self, *words: str) -> list[dict[str, str]]:
        text = self._show(f"--property={','.join(_PROPERTIES)}", *words)
        blocks = [block.splitlines() for block in text.split("\n\n")]
        return [{name: value for name, _, value in (line.partition("=") for line in block)} for block in blocks]

    def _show(self, *words: str) -> str:
        ended = self._run([*self._words, "show", *words], _LOOK_SECONDS)
        if ended.status != 0:
            raise self._unreachable(" ".join(ended.output.split()) or f"systemctl ended with {ended.reason}")
        return ended.output

    def _run(self, words: Sequence[str], timeout: float, pulse: Pulse | None = None) -> Ended:
        if not self._user and not os.path.isdir(_BOOTED):
            raise self._unreachable("it is not what this machine or container was booted with")
        try:
            return run(words, cwd="/", timeout=timeout, pulse=pulse, tail=_OUTPUT_BYTES)
        except RollbackError as error:
            if error.key != "command.missing":
                raise
            raise self._unreachable("there is no systemctl") from error

    def _unreachable(self, why: str) -> RollbackError:
        why = why.removesuffix(".")
        if self._user:
            return RollbackError("service.no_user_systemd", component=self._c.name, user=_user(), why=why)
        return RollbackError("service.no_systemd", component=self._c.name, why=why)


def _session() -> list[str]:
    """Return what gives a command the way to the user's own systemd, which cron and daemons do not have."""
    place = f"/run/user/{os.getuid()}"
    if os.environ.get("XDG_RUNTIME_DIR") or not os.path.isdir(place):
        return []
    return ["env", f"XDG_RUNTIME_DIR={place}"]


def _user() -> str:
    import pwd  # only for an error's text

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _unit(name: str, facts: Mapping[str, str], now: float) -> Unit:
    active = facts.get("ActiveState", "")
    since = _seconds(facts.get("ActiveEnterTimestampMonotonic", ""))
    return Unit(
        name=name,
        id=facts.get("Id", name),
        load=facts.get("LoadState", ""),
        active=active,
        sub=facts.get("SubState", ""),
        enabled=facts.get("UnitFileState", ""),
        source=facts.get("SourcePath", ""),
        type=facts.get("Type", ""),
        pid=_number(facts.get("MainPID", "")),
        group=facts.get("ControlGroup", ""),
        triggered_by=tuple(facts.get("TriggeredBy", "").split()),
        triggers=tuple(facts.get("Triggers", "").split()),
        dependents=tuple(word for each in _DEPENDENTS for word in facts.get(each, "").split()),
        upheld_by=tuple(facts.get("UpheldBy", "").split()),
        edited=facts.get("NeedDaemonReload") == "yes",
        transient=facts.get("Transient") == "yes",
        returns=facts.get("CanStart", "yes") == "yes",
        can_stop=facts.get("CanStop", "yes") == "yes",
        result=facts.get("Result", ""),
        status=_number(facts.get("ExecMainStatus", "")),
        conditions=facts.get("ConditionResult", "yes") == "yes",
        conditions_known=_seconds(facts.get("ConditionTimestampMonotonic", "")) > 0,
        drop_ins=tuple(facts.get("DropInPaths", "").split()),
        restarts=_number(facts.get("NRestarts", "")),
        up=max(0.0, now - since) if active == "active" and since else 0.0,
        began=_seconds(facts.get("ExecMainStartTimestampMonotonic", "")),
        stop_timeout=facts.get("TimeoutStopUSec", ""),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _seconds(text: str) -> float:
    return _number(text) / 1_000_000


def members(groups: Iterable[str]) -> set[int]:
    """Return the numbers of the processes in these control groups and those below them."""
    found: set[int] = set()
    # With the unified hierarchy at the root, beside older ones, or with systemd's own of the old kind.
    for top in (_CGROUPS, f"{_CGROUPS}/unified", f"{_CGROUPS}/systemd"):
        for group in groups:
            if group.strip("/"):
                for folder, _, files in os.walk(top + group):
                    if "cgroup.procs" in files:
                        found |= _pids(os.path.join(folder, "cgroup.procs"))
    return found


def _pids(path: str) -> set[int]:
    try:
        with open(path, encoding="ascii") as file:
            # 0 stands for a process of another namespace.
            return {int(line) for line in file} - {0}
    except OSError:
        return set()  # the last of them just ended


def own_groups() -> list[str]:
    """Return the control group of this process in each hierarchy that systemd may count in."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    return [group for _, controllers, group in lines if controllers in ("", "name=systemd")]


def within(group: str, outer: str) -> bool:
    """Tell whether a control group is another one or lies in it. The root of them all is no unit's."""
    return outer.strip("/") != "" and (group == outer or group.startswith(outer.rstrip("/") + "/"))
