"""The fork server: one child for each point, each dying or failing at another call.

A `Sweep` runs inside a process that carries the shim (see `__main__.py`). It imports
everything once and forks for each stage, so that a point costs a few milliseconds:

    prepare ─ copy ─┬─ act, armed ─ recover ─ judge ─ recover ─ compare
                    └─ … the next point, from the same copy

The verdict on each point is "old", "new", or what is wrong.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from tests.crash.shim import Control, Fault, Kind

from rfs.production.rollback.errors import RevertedError, RollbackError

PROBLEMS = ("mixed", "lost", "corrupt", "stuck", "unclear", "unfired")


class Scenario(ABC):
    """One operation to be broken off. `world` is a folder of its own, always at the same path.

    `live` names what, under `world`, a second recovery must leave untouched.
    `seconds` is how long a stage may take before it counts as stuck.
    `drop_syncfs` makes syncfs do nothing: a negative control.
    """

    live: Sequence[str] = ("live",)
    seconds = 20.0
    drop_syncfs = False

    @abstractmethod
    def prepare(self, world: Path) -> None:
        """Make the state before."""

    @abstractmethod
    def act(self, world: Path) -> None:
        """Do the operation that is under fault."""

    def recover(self, world: Path) -> None:
        """Do what a user does after a crash. The default is nothing."""

    def live_on(self, world: Path) -> None:
        """Do what happens between a crash and its recovery. The default is nothing."""

    @abstractmethod
    def judge(self, world: Path) -> str:
        """Return "old", "new", or a problem: "mixed: …", "lost: …", "corrupt: …"."""


@dataclass
class Outcome:
    """How one stage ended: "ok", "refused" (a RollbackError), "raised", "killed" or "stuck"."""

    how: str
    text: str = ""
    seconds: float = 0.0


class SweepError(Exception):
    """The scenario itself does not work, so that nothing can be said about faults in it."""

    def __init__(self, what: str, outcome: Outcome) -> None:
        super().__init__(f"{what} {outcome.how}: {outcome.text}")


@dataclass
class Report:
    """What a sweep found; `line` is the one line to show.

    `until` are the kinds of problem of which the first ends it: a negative control is caught then.
    """

    name: str
    until: Sequence[str] = ()
    tried: int = 0
    fired: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, where: str, verdict: str) -> None:
        self.tried += 1
        if verdict in ("old", "new"):
            self.verdicts[verdict] += 1
        else:
            self.problems.append((_kind(verdict), f"{where}: {verdict}"))

    def count(self, kind: str) -> int:
        return sum(1 for found, _ in self.problems if found == kind)

    @property
    def enough(self) -> bool:
        return any(kind in self.until for kind, _ in self.problems)

    @property
    def line(self) -> str:
        counts = ", ".join(f"{self.count(kind)} {kind}" for kind in PROBLEMS[:4])
        rest = "".join(f", {self.count(kind)} {kind}" for kind in PROBLEMS[4:] if self.count(kind))
        ends = f"{self.verdicts['old']} old, {self.verdicts['new']} new"
        done = f"{self.tried} points tried, {self.fired} faults fired"
        return f"{self.name}: {done}, {counts}{rest} ({ends}; {self.seconds:.1f} s)"

    def to_json(self) -> str:
        return json.dumps(
            {
                "line": self.line,
                "tried": self.tried,
                "fired": self.fired,
                "problems": self.problems,
                "verdicts": dict(self.verdicts),
                "seconds": self.seconds,
            }
        )


class Bench:
    """Runs the stages of one scenario in children, in a private folder.

    Args:
        base: a folder that may be emptied; the world is `base/world`.
    """

    def __init__(self, scenario: Scenario, control: Control, base: Path) -> None:
        self.scenario = scenario
        self.control = control
        self.base = base
        self.world = base / "world"
        self.template = base / "template"

    def prepare(self) -> None:
        """Make the initial world once; `reset` returns to it."""
        shutil.rmtree(self.base, ignore_errors=True)
        self.world.mkdir(parents=True)
        outcome = self.stage(lambda: self.scenario.prepare(self.world))
        if outcome.how != "ok":
            raise SweepError("prepare", outcome)
        self.world.rename(self.template)

    def reset(self) -> None:
        """Put the world back to the initial one."""
        self.clear()
        subprocess.run(["cp", "-a", str(self.template), str(self.world)], check=True)

    def clear(self) -> None:
        if self.world.exists():
            shutil.rmtree(self.world)

    def act(self, fault: Fault | None = None, at: int = 0, **options: object) -> Outcome:
        return self.stage(lambda: self.scenario.act(self.world), fault, at, **options)

    def broken(self, fault: Fault, at: int) -> tuple[Outcome, int]:
        """Act on a fresh world with a fault at call `at`; return also at which call it really was.

        The number of calls differs by a few from run to run, because times do. Where this run was
        done before call `at`, its last call is taken.
        """
        self.reset()
        outcome = self.act(fault, at)
        while outcome.how == "ok" and 0 < self.control.count < at:
            at = self.control.count
            self.reset()
            outcome = self.act(fault, at)
        return outcome, at

    def recover(self, fault: Fault | None = None, at: int = 0, **options: object) -> Outcome:
        return self.stage(lambda: self.scenario.recover(self.world), fault, at, **options)

    def verdict(self, *, must_be: str | None = None) -> str:
        """Recover, judge, recover again, and return what came of it."""
        outcome = self.stage(self._recover_and_judge)
        if outcome.how != "ok":
            return f"stuck: recovering or judging {outcome.how}: {outcome.text}"
        if outcome.text in ("old", "new") and must_be not in (None, outcome.text):
            return f"lost: it was acknowledged as {must_be}, and the state is {outcome.text}"
        return outcome.text

    def _recover_and_judge(self) -> str:
        # In one process, which is quicker; recover and judge open everything anew, and share nothing.
        self.scenario.recover(self.world)
        first = self._look()
        found = self.scenario.judge(self.world)
        self.scenario.recover(self.world)
        second = self._look()
        if found in ("old", "new") and first != second:
            return f"mixed: judging and a second recover changed something: {_difference(first, second)}"
        return found

    def _look(self) -> dict[str, str]:
        return {name: facts for part in self.scenario.live for name, facts in look(self.world / part).items()}

    def stage(self, work: Callable[[], object], fault: Fault | None = None, at: int = 0, **options: object) -> Outcome:
        """Run `work` in a child, armed as told, and return how it ended."""
        self.control.set(fault, at, drop_syncfs=self.scenario.drop_syncfs, **options)
        began = time.monotonic()
        reader, writer = os.pipe()
        # A collection in the child would touch, and so copy, every page that it shares with the server.
        gc.freeze()
        child = os.fork()
        if child == 0:
            self._in_child(work, writer)
        os.close(writer)
        handle = os.pidfd_open(child)
        try:
            ended = bool(select.select([handle], [], [], self.scenario.seconds)[0])
            # Also workers that outlived the child: the group is the child's own.
            _kill_group(child)
            _, status = os.waitpid(child, 0)
            self.control.disarm()
            text = _drain(reader)
        finally:
            os.close(handle)
            os.close(reader)
        seconds = time.monotonic() - began
        if not ended:
            return Outcome("stuck", f"no end within {self.scenario.seconds:g} s", seconds)
        if os.WIFSIGNALED(status):
            return Outcome("killed", f"signal {os.WTERMSIG(status)}", seconds)
        how, said, modules = json.loads(text)
        _import_once(modules)
        return Outcome(how, said, seconds)

    def _in_child(self, work: Callable[[], object], writer: int) -> None:
        os.setpgid(0, 0)
        known = set(sys.modules)
        try:
            self.control.arm(os.getpid())
            value = work()
            said = ("ok", str(value))
        except RollbackError as error:
            said = ("refused", f"{type(error).__name__} {error.key}: {error}")
        except BaseException:  # whatever it is, the parent must hear of it
            said = ("raised", traceback.format_exc(limit=-6))
        self.control.disarm()
        # Less than a pipe holds: the parent reads when the child has ended.
        os.write(writer, json.dumps([said[0], said[1][-10_000:], sorted(set(sys.modules) - known)]).encode())
        # Not sys.exit: the parent's buffers and exit handlers are not the child's to run.
        os._exit(0)


class Sweep:
    """Breaks a scenario's act off at every call, or at a sample of them.

    Args:
        faults: which; TORN is tried at writes only, elsewhere it equals KILL one call later.
        limit: at most this many (point, fault) pairs, chosen by `seed`; None is all.
        until: see Report.
    """

    def __init__(
        self,
        bench: Bench,
        faults: Sequence[Fault] = (Fault.KILL, Fault.TORN, Fault.ENOSPC, Fault.EIO),
        *,
        limit: int | None = None,
        seed: int = 1,
        until: Sequence[str] = (),
    ) -> None:
        self.bench = bench
        self.until = until
        self.faults = faults
        self.limit = limit
        self.random = random.Random(seed)

    def run(self) -> Report:
        report = Report(type(self.bench.scenario).__name__, self.until)
        began = time.monotonic()
        self.bench.prepare()
        for fault, at in self._points(self._count(report)):
            self._point(report, fault, at)
            if report.enough:
                break
        report.seconds = time.monotonic() - began
        return report

    def nested(self, pairs: int) -> Report:
        """Kill the act, then kill its recovery, at `pairs` sampled places; then recover and judge."""
        report = Report(f"{type(self.bench.scenario).__name__} nested")
        began = time.monotonic()
        self.bench.prepare()
        calls = len(self._count(report))
        for _ in range(pairs):
            at = self.random.randint(1, calls)
            self._nest(report, at)
        report.seconds = time.monotonic() - began
        return report

    def reboots(self, rounds: int) -> Report:
        """Kill the act; then several times over let the scenario live on for a moment, and kill its recovery."""
        report = Report(f"{type(self.bench.scenario).__name__} with reboots", self.until)
        began = time.monotonic()
        self.bench.prepare()
        calls = len(self._count(report))
        for _ in range(rounds):
            self._reboot(report, calls)
            if report.enough:
                break
        report.seconds = time.monotonic() - began
        return report

    def _reboot(self, report: Report, calls: int) -> None:
        bench = self.bench
        outcome, at = bench.broken(Fault.KILL, self.random.randint(1, calls))
        where = f"kill at call {at}"
        if outcome.how != "killed":
            report.add(where, f"unfired: {outcome.how} {outcome.text}")
            return
        report.fired += 1
        for _ in range(self.random.randint(0, 3)):
            self._live_on()
            inner = self.random.randint(1, calls // 2)
            outcome = bench.recover(Fault.KILL, inner)
            if outcome.how not in ("killed", "ok"):
                report.add(where, f"stuck: recover {outcome.how}: {outcome.text}")
                return
            where += f", then in its recovery at call {inner}" if outcome.how == "killed" else ", recovered"
        self._live_on()
        report.add(where, bench.verdict())

    def _live_on(self) -> None:
        outcome = self.bench.stage(lambda: self.bench.scenario.live_on(self.bench.world))
        if outcome.how != "ok":
            raise SweepError("living on", outcome)

    def _count(self, report: Report) -> list[Kind]:
        """Run it without a fault, which must end in "new"; return the sort of each call."""
        self.bench.reset()
        outcome = self.bench.act()
        if outcome.how != "ok":
            raise SweepError("without any fault, act", outcome)
        kinds = self.bench.control.kinds()
        verdict = self.bench.verdict(must_be="new")
        if verdict != "new":
            report.problems.append((_kind(verdict), f"without any fault: {verdict}"))
        if not kinds:
            raise SweepError("act made no call that the shim counts:", outcome)
        return kinds

    def _points(self, kinds: Sequence[Kind]) -> list[tuple[Fault, int]]:
        points = [
            (fault, at)
            for fault in self.faults
            for at, kind in enumerate(kinds, 1)
            if fault is not Fault.TORN or kind is Kind.WRITE
        ]
        if self.limit is not None and self.limit < len(points):
            points = sorted(self.random.sample(points, self.limit))
        return points

    def _point(self, report: Report, fault: Fault, at: int) -> None:
        bench = self.bench
        outcome, at = bench.broken(fault, at)
        fired, what = bench.control.fired, bench.control.what
        where = f"{fault} at call {at} ({what or 'not reached'})"
        report.fired += bool(fired)
        if not fired:
            report.add(where, f"unfired: the act ended at call {bench.control.count}: {outcome.how} {outcome.text}")
            return
        report.add(where, self._settle(fault, outcome))

    def _settle(self, fault: Fault, outcome: Outcome) -> str:
        if outcome.how == "stuck":
            return f"stuck: {outcome.text}"
        if fault.deadly and outcome.how != "killed":
            return f"unfired: the process survived: {outcome.how} {outcome.text}"
        must_be = "new" if outcome.how == "ok" else None
        if outcome.text.startswith(RevertedError.__name__):
            must_be = "old"
        verdict = self.bench.verdict(must_be=must_be)
        if outcome.how == "raised" and verdict in ("old", "new"):
            return f"unclear: it ended with a traceback: {outcome.text}"
        if outcome.how == "killed" and not fault.deadly:
            return f"stuck: it was killed by {outcome.text}"
        return verdict

    def _nest(self, report: Report, at: int) -> None:
        bench = self.bench
        outcome, at = bench.broken(Fault.KILL, at)
        if outcome.how != "killed":
            report.add(f"kill at call {at}", "unfired: the process survived")
            return
        outcome = bench.recover()
        calls = bench.control.count
        if outcome.how != "ok":
            report.add(f"kill at call {at}", f"stuck: recover {outcome.how}: {outcome.text}")
            return
        report.fired += 1
        if not calls:
            report.add(f"kill at call {at}", bench.verdict())
            return
        # Killed again from the start: a copy of the broken world would have other inode numbers.
        inner = self.random.randint(1, calls)
        bench.broken(Fault.KILL, at)
        outcome = bench.recover(Fault.KILL, inner)
        where = f"kill at call {at}, then in its recovery at call {inner} ({bench.control.what})"
        if outcome.how == "ok" and bench.control.count < inner:
            # This recovery had less to do than the one that was counted, and came to its end.
            report.add(where, bench.verdict())
            return
        if outcome.how != "killed":
            report.add(where, f"unfired: {outcome.how} {outcome.text}")
            return
        report.fired += 1
        report.add(where, bench.verdict())


def look(root: Path) -> dict[str, str]:
    """Return everything that can be seen of a tree but inode numbers and access and change times."""
    found: dict[str, str] = {}
    pending = [root] if root.is_symlink() or root.exists() else []
    while pending:
        path = pending.pop()
        st = path.lstat()
        facts = [f"{st.st_mode:o}", str(st.st_uid), str(st.st_gid), str(st.st_mtime_ns), str(st.st_nlink)]
        if stat.S_ISLNK(st.st_mode):
            facts.append(os.readlink(path))
        elif stat.S_ISREG(st.st_mode):
            facts.append(path.read_bytes().hex())
        elif stat.S_ISDIR(st.st_mode):
            facts[-1] = ""
            pending += path.iterdir()
        if not stat.S_ISLNK(st.st_mode):
            facts += [f"{name}={os.getxattr(path, name).hex()}" for name in sorted(os.listxattr(path))]
        found[str(path.relative_to(root.parent))] = " ".join(facts)
    return found


def _kind(verdict: str) -> str:
    kind = verdict.partition(":")[0]
    return kind if kind in PROBLEMS else "mixed"


def _difference(first: dict[str, str], second: dict[str, str]) -> str:
    names = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    return ", ".join(names[:5])


def _import_once(modules: Sequence[str]) -> None:
    """Import in the server what a child had to import by itself, so that the next ones need not."""
    for name in modules:
        with suppress(ImportError):
            importlib.import_module(name)
    if modules:
        _warm_up(msgspec.Struct)


def _warm_up(struct: type[msgspec.Struct]) -> None:
    """Let msgspec look at every structure of rfs here, or each child would have to."""
    for each in struct.__subclasses__():
        _warm_up(each)
        if each.__module__.startswith("rfs."):
            # Some hold what is never decoded, such as an array, or what only a type checker knows.
            with suppress(TypeError, NameError):
                msgspec.json.Decoder(each)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _drain(reader: int) -> bytes:
    os.set_blocking(reader, False)
    parts = []
    while True:
        try:
            part = os.read(reader, 65536)
        except BlockingIOError:
            return b"".join(parts)
        if not part:
            return b"".join(parts)
        parts.append(part)
