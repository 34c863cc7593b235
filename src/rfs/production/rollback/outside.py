"""Carries a call on outside the services that it has to stop: the caller's side.

A rollback stops the application's services, and with them the process that asked for it when that is
one of theirs. So the call is made again by a process of its own, the carrier (carrier.py), and this one
listens to it for as long as it lives. The carrier is no child of this process, has a session and a
process group of its own and none of its descriptors; where systemd counts by control group, it is moved
into a scope of its own. It takes the lock itself: nothing is held here meanwhile.

Between the two is a socket with one JSON object on each line: the request, then what the carrier has to
tell, and from here that the caller was asked to stop. Once the services are being stopped that is no more
heeded, since stopping them is what makes the caller cancel.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback import errors
from rfs.production.rollback.errors import ConflictError, GoingOnError, RollbackError
from rfs.production.rollback.model import Consent, new_id
from rfs.production.rollback.plan import Plan
from rfs.production.rollback.pulse import Beat
from rfs.production.rollback.settings import Settings

if TYPE_CHECKING:
    import subprocess

# Before anything else a second fork: the carrier must be nobody's child, and never get a terminal.
# The caller's sys.path comes last: where its folders hold modules named like those of Python, those of Python win.
_BOOT = """\
# rfs: does what a service asked for, outside that service
import os, sys
if os.fork(): os._exit(0)
sys.path += [path for path in sys.argv[1:] if path not in sys.path]
from rfs.production.rollback.carrier import main
sys.exit(main())
"""
_START_SECONDS = 60.0
_POLL_SECONDS = 0.05
_LOG_BYTES = 1 << 20
_SYSTEMD = "/run/systemd/system"
# What a manager of processes tells a unit about itself. The carrier is no unit, nor is what it starts.
# SUPERVISOR_SERVER_URL stays: rfs.toml may name it as the supervisor's url.
_OF_THE_UNIT = re.compile(
    r"SUPERVISOR_(ENABLED|PROCESS_NAME|GROUP_NAME)|NOTIFY_SOCKET|WATCHDOG_(PID|USEC)|LISTEN_(PID|FDS|FDNAMES)"
    r"|INVOCATION_ID|JOURNAL_STREAM|MAINPID|MANAGERPID|SYSTEMD_EXEC_PID|PYTHONINSPECT"
)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the carrier is to do.

    Attributes:
        settings: as the caller has them; rfs.toml is not read again.
        method: of Application.
        arguments: of it, JSON-like.
        expected: of a rollback.
        inside: the components whose services the caller belongs to.
        caller: its process id.
        wait: seconds to wait for the lock.
        consent: who asks, and what they have for it.
    """

    settings: Settings
    method: str
    arguments: dict[str, Any]
    expected: Plan | None = None
    inside: tuple[str, ...]
    caller: int
    wait: float = 0.0
    consent: Consent = Consent()


class Channel:
    """One end of the socket. What cannot be sent because nobody reads any more is dropped."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._unsent = bytearray()
        self._received = bytearray()

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()

    def say(self, event: str, *, wait: float = 0.0, **facts: Any) -> None:
        """Send one object.

        Args:
            event: what it tells.
            wait: seconds to let the other end read. What it did not read goes with the next object.
            facts: JSON-like.
        """
        # Not msgspec's: a path that is no UTF-8 holds surrogates, which only this spells out.
        self._unsent += json.dumps({"event": event, **facts}).encode("ascii") + b"\n"
        until = time.monotonic() + wait
        while self._unsent:
            try:
                del self._unsent[: self._end.send(self._unsent, socket.MSG_NOSIGNAL)]
            except BlockingIOError:
                if not self._ready(select.POLLOUT, until):
                    return
            except OSError:
                self._unsent.clear()  # the other end is gone; the catalog has everything that matters

    @property
    def behind(self) -> bool:
        """Whether the other end has not read all that was said."""
        return bool(self._unsent)

    def hear(self, wait: float) -> dict[str, Any] | None:
        """Return the next object, or None when none came within `wait` seconds.

        Raises:
            EOFError: the other end is gone.
        """
        until = time.monotonic() + wait
        while b"\n" not in self._received:
            try:
                data = self._end.recv(1 << 16)
            except BlockingIOError:
                if not self._ready(select.POLLIN, until):
                    return None
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._received += data
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        found: dict[str, Any] = json.loads(line)
        return found

    def _ready(self, what: int, until: float) -> bool:
        """Wait for the socket. Not select(), which servers with a thousand connections cannot use."""
        poll = select.poll()
        poll.register(self._end, what)
        return bool(poll.poll(max(0.0, until - time.monotonic()) * 1000))


def carry(request: Request, log: str, beat: Beat, notices: list[str]) -> list[str]:
    """Have a call made outside this process's service, and wait until it ended or this process is stopped.

    Args:
        request: the call.
        log: file for what the carrier writes that nobody hears; made when missing, readable by its owner alone.
        beat: told of its progress; when it is interrupted, the carrier is asked to stop.
        notices: its notices are added to them.

    Returns:
        The ids of the operations that the call returned.

    Raises:
        GoingOnError: the service of this process is being stopped now.
        ConflictError: `rollback.inside`, the call cannot be made outside; nothing was changed.
        RollbackError: what the call raised; `outside.lost` when the carrier died.
    """
    reasons = []
    with beat.doing("leaving the service"):
        for prefix in (*_scopes(), ()):
            try:
                with closing(_start(prefix, request, log)) as channel:
                    return _follow(channel, beat, log, notices)
            except _NotOutsideError as error:
                reasons.append(str(error))
    why = "; ".join(dict.fromkeys(reasons))
    raise ConflictError("rollback.inside", component=", ".join(request.inside), why=why)


class _NotOutsideError(Exception):
    """A carrier could not be started, or belongs to the caller's unit all the same."""


def _scopes() -> list[tuple[str, ...]]:
    """Return what a command begins with that systemd runs in a scope of its own, where this process is in a service.

    Stopping a service ends all of its control group, and whatever the components' services are run by, somebody
    may do that meanwhile. Without the right to start a scope this is done without.
    """
    if not os.path.isdir(_SYSTEMD):
        return []
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        group = file.read()
    if not re.search(r"\.service(/|$)", group, re.MULTILINE):
        return []
    user = ("--user",) if "/user@" in group else ()
    unit = f"--unit=rfs-outside-{new_id()}"
    return [("systemd-run", *user, "--scope", "--quiet", "--collect", "--no-ask-password", unit, "--")]


def _start(prefix: Sequence[str], request: Request, log: str) -> Channel:
    """Start a carrier and give it the request."""
    import subprocess  # 6 ms of start-up, and most calls are made where they are

    flags = {"-P": True, "-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site}
    python = [_interpreter(), *(flag for flag, given in flags.items() if given)]
    command = [*prefix, *python, "-c", _BOOT, *(path for path in sys.path if os.path.isabs(path))]
    environment = {name: value for name, value in os.environ.items() if not _OF_THE_UNIT.fullmatch(name)}
    ours, theirs = socket.socketpair()
    with closing(theirs), open(_opened(log), "wb") as output:
        try:
            first = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=output, stderr=output, env=environment, start_new_session=True
            )
            status = _ended(first)
        except OSError as error:
            ours.close()
            why = f"{command[0]} could not be started: {error.strerror}"
            raise _NotOutsideError(why) from error
    if status != 0:
        ours.close()
        why = f"{os.path.basename(command[0])} ended with status {status}, and what it said is in {log}"
        raise _NotOutsideError(why)
    channel = Channel(ours)
    channel.say("request", wait=_START_SECONDS, request=msgspec.to_builtins(request))
    return channel


def _ended(first: subprocess.Popen[bytes]) -> int:
    """Return the status of a carrier's first process, which ends as soon as it has forked the second."""
    import subprocess

    try:
        return first.wait(_START_SECONDS)
    except subprocess.TimeoutExpired:
        first.kill()
        return first.wait()


def _interpreter() -> str:
    """Return a Python interpreter with this one's packages; in a server that embeds Python, sys.executable is none."""
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    beside = [os.path.join(sys.exec_prefix, "bin", name) for name in (own, "python3")]
    named = [sys.executable] if re.fullmatch(r"python[\d.]*t?", os.path.basename(sys.executable or "")) else []
    for path in (*named, *beside):
        if os.access(path, os.X_OK):
            return path
    raise _NotOutsideError("there is no Python interpreter to do it")


def _opened(log: str) -> int:
    """Return a descriptor to write the log with. Without room for it there is none: recovering must not need room."""
    try:
        os.makedirs(os.path.dirname(log), mode=0o700, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if os.fstat(descriptor).st_size > _LOG_BYTES:
            os.ftruncate(descriptor, 0)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    return descriptor


def _follow(channel: Channel, beat: Beat, log: str, notices: list[str]) -> list[str]:
    out = asked = False
    while True:
        if beat.interrupted and not asked:
            asked = True
            channel.say("stop")
        try:
            told = channel.hear(_POLL_SECONDS)  # as long as an interruption, which wakes nobody, may go unnoticed
        except EOFError:
            raise _died(log, out=out) from None
        except BaseException:  # Ctrl-C in a program that handles it no further: the carrier must hear of that
            channel.say("stop")
            raise
        if told is None:
            continue
        notices += told.get("notices", ())
        match told["event"]:
            case "out":
                out = True
            case "progress":
                beat.relay(told["what"], told["items"], told["size"])
            case "ended":
                operations: list[str] = told["operations"]
                return operations
            case _:
                raise _raised(told)


def _died(log: str, *, out: bool) -> Exception:
    if out:
        return RollbackError("outside.lost", log=log)
    return _NotOutsideError(f"the process for it ended at once, and what it said is in {log}")


def failure(error: Exception) -> dict[str, Any]:
    """Return an error as the facts of a "failed" object."""
    if not isinstance(error, RollbackError):
        return {"bug": f"{type(error).__name__}: {error}"}
    fields = {name: each if isinstance(each, (str, int, float)) else str(each) for name, each in error.fields.items()}
    return {"kind": type(error).__name__, "key": error.key, "fields": fields}


def _raised(told: Mapping[str, Any]) -> Exception:
    if told["event"] == "inside":
        return _NotOutsideError("whatever runs it would stop every process that it starts")
    if told["event"] == "stopping":
        return GoingOnError("outside.going_on", kind=told["kind"], operation=told["operation"])
    if "bug" in told:
        return RuntimeError(told["bug"])
    kind: type[RollbackError] = getattr(errors, told["kind"], RollbackError)
    return kind(told["key"], **told["fields"])
