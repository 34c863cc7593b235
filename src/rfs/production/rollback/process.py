"""Run a command that the user named, so that it can neither hang us nor leave anything behind.

No shell, a process group of its own, no standard input, a deadline, and the end of its
output. Used by health checks, service commands and reloads.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.errors import RollbackError, TimedOutError

if TYPE_CHECKING:
    import subprocess

TAIL_BYTES = 4096
_POLL_SECONDS = 0.05
# A command that ran out of time may still remove its temporary files.
_GRACE_SECONDS = 1.0


class Ended(msgspec.Struct, frozen=True):
    """How a command ended.

    Attributes:
        status: its exit status; the negative number of the signal that ended it.
        output: the last of what it wrote to standard output and standard error.
        seconds: how long it ran.
    """

    status: int
    output: str
    seconds: float

    @property
    def reason(self) -> str:
        """The status as words: "status 3" or "signal 9"."""
        return f"status {self.status}" if self.status >= 0 else f"signal {-self.status}"


def run(
    command: Sequence[str],
    *,
    cwd: str,
    timeout: float,
    pulse: Pulse | None = None,
    log: str | None = None,
    keep_children: bool = False,
    tail: int = TAIL_BYTES,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command to its end and return how it ended.

    Args:
        command: program and arguments; never given to a shell.
        cwd: the folder it runs in.
        timeout: seconds until its whole process group is ended: SIGTERM, and SIGKILL a second later.
        pulse: asked all the while; when it raises, the command is ended and the error goes on.
        log: a file for the output, written anew. What keeps running may go on writing to it,
            where a pipe without a reader would end it with SIGPIPE.
        keep_children: leave alone what the command left running in its process group;
            otherwise that is killed when the command has ended.
        tail: how many bytes of the output are kept, 4 KiB unless told.
        env: what its environment has beside this process's.

    Raises:
        RollbackError: `command.missing`, it could not be started.
        TimedOutError: `command.slow`, it did not end in time; or what `pulse` raised.
    """
    began = time.monotonic()
    output = _Tail(log, tail)
    try:
        child = _start(command, cwd, output.writer, env)
    except (OSError, ValueError) as error:
        output.close()
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RollbackError("command.missing", command=_named(command), why=why) from error
    try:
        output.started(child.pid)
        while not has_ended(child.pid):
            if time.monotonic() - began >= timeout:
                raise TimedOutError("command.slow", command=_named(command), seconds=f"{timeout:g}")
            if pulse is not None:
                pulse.tick()
            output.wait(min(_POLL_SECONDS, max(0.0, timeout - (time.monotonic() - began))))
        # Before the leader is reaped its group's number cannot be given to anybody else.
        if not keep_children:
            signal_group(child.pid, signal.SIGKILL)
        return Ended(child.wait(), output.text(), time.monotonic() - began)
    except BaseException:  # whatever ends the wait, the command must not go on without us
        _end(child)
        raise
    finally:
        output.close()


def _start(command: Sequence[str], cwd: str, output: int, env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    import subprocess  # 6 ms of start-up, and most calls of rfs run no command

    return subprocess.Popen(
        list(command),
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def has_ended(pid: int) -> bool:
    """Tell whether a child has ended, without reaping it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group, if there is still one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # Gone already, or all that is left of it belongs to somebody else.
        return


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.returncode is not None:
        return
    signal_group(child.pid, signal.SIGTERM)
    until = time.monotonic() + _GRACE_SECONDS
    while not has_ended(child.pid) and time.monotonic() < until:
        time.sleep(0.01)  # waiting by waitpid would reap the leader, and free its group's number
    signal_group(child.pid, signal.SIGKILL)
    child.wait()


def _named(command: Sequence[str]) -> str:
    return command[0] if command else "(empty)"


class _Tail:
    """Where a command writes to, and the last of what it wrote."""

    def __init__(self, log: str | None, size: int) -> None:
        self._size = size
        self._kept = bytearray()
        self._pipe = self._log = self._exit = -1
        if log is None:
            self._pipe, self.writer = os.pipe()
            os.set_blocking(self._pipe, False)
        else:
            self.writer = self._log = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def started(self, pid: int) -> None:
        """The child has its own copy of the writing end; only without ours does the pipe end."""
        if self._pipe >= 0:
            os.close(self.writer)
        self.writer = -1
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # an old kernel, or a sandbox without it: then it is polled
                self._exit = os.pidfd_open(pid)

    def wait(self, seconds: float) -> None:
        """Wait for output or the command's end, for `seconds` at most."""
        watch = select.poll()  # not select(), which cannot be used in a server that has a thousand files open
        for descriptor in (self._pipe, self._exit):
            if descriptor >= 0:
                watch.register(descriptor, select.POLLIN)
        ready = watch.poll(1000 * (seconds if self._exit >= 0 else min(seconds, _POLL_SECONDS / 5)))
        if any(descriptor == self._pipe for descriptor, _ in ready) and not self._drain():
            # Nobody writes any more, but the command runs on: there is nothing left to read.
            os.close(self._pipe)
            self._pipe = -1

    def text(self) -> str:
        if self._log >= 0:
            size = os.fstat(self._log).st_size
            return os.pread(self._log, self._size, max(0, size - self._size)).decode(errors="replace").strip()
        if self._pipe >= 0:
            self._drain()
        return bytes(self._kept).decode(errors="replace").strip()

    def _drain(self) -> bool:
        """Read what is there; return whether more may come. Bounded, as a writer may outrun us for ever."""
        for _ in range(64):
            try:
                data = os.read(self._pipe, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._kept += data
            del self._kept[: -self._size]
        return True

    def close(self) -> None:
        for descriptor in {self._pipe, self._log, self._exit, self.writer} - {-1}:
            os.close(descriptor)
