"""The command that a guard runs: its output goes where ours goes, and it does not begin before it is written down.

It gets a session of its own. So Ctrl-C and a terminal that is closed reach the guard alone, which decides what
becomes of the command; and it cannot ask the terminal anything.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.guarded import MARK
from rfs.production.rollback.process import has_ended, signal_group

_POLL_SECONDS = 0.05
# A deployment that is told to stop may have something to put in order.
GRACE_SECONDS = 10.0
# The shell waits at its gate for a line; when none comes, as we are gone, the command is never run.
_GATED = 'read -r go < "$0" && exec "$@"'


class Passing:
    """A command that waits to be let go.

    Args:
        command: program and arguments; never given to a shell as a line.
        guard_id: by which its processes are known.
        stdout: the descriptor of its standard output; ours when None.

    Attributes:
        group: its process group.

    Raises:
        RollbackError: command.missing, there is no such program.
    """

    def __init__(self, command: Sequence[str], guard_id: str, *, stdout: int | None = None) -> None:
        import subprocess  # 6 ms of start-up, and most calls of rfs run no command

        require_program(command)
        self._guard_id = guard_id
        gate, self._gate = os.pipe()
        try:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", _GATED, f"/dev/fd/{gate}", *command],
                stdin=subprocess.DEVNULL if os.isatty(0) else None,
                stdout=stdout,
                env={**os.environ, MARK: guard_id},
                pass_fds=(gate,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._gate)
            raise
        finally:
            os.close(gate)
        self.group = self._child.pid

    def run(self, tick: Callable[[], None]) -> int:
        """Let it begin, and return its exit status: 128 and the signal's number where one ended it.

        Args:
            tick: called all the while; when it raises, the command is ended and the error goes on.
        """
        try:
            os.write(self._gate, b"\n")
            self.close()
            exit_ = _pidfd(self.group)
            try:
                while not has_ended(self.group):
                    tick()
                    _nap(exit_)
            finally:
                if exit_ >= 0:
                    os.close(exit_)
            status = self._child.wait()
            return status if status >= 0 else 128 - status
        except BaseException:  # whatever ends the wait, the command must not go on without us
            self.end()
            raise

    def end(self) -> None:
        """End it and what it started: SIGTERM, and SIGKILL ten seconds later. Before `run` it was never begun."""
        self.close()
        if self._child.returncode is None:
            end_group(self.group, lambda: has_ended(self.group))
            self._child.wait()
            # What is killed may be running until the kernel gets to it, and what it writes to is about to go back.
            until = time.monotonic() + GRACE_SECONDS
            while marked(self.group, self._guard_id) and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Take away the gate's key; a command that was not let go never begins."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1


def require_program(command: Sequence[str]) -> None:
    """Refuse a command whose program is not there.

    Raises:
        RollbackError: command.missing.
    """
    if not command or shutil.which(command[0]) is None:
        name = command[0] if command else "(empty)"
        raise RollbackError("command.missing", command=name, why="there is no such program, or it may not be run")


def end_group(group: int, gone: Callable[[], bool]) -> None:
    """End a process group: SIGTERM, and SIGKILL ten seconds later to what is left."""
    signal_group(group, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while not gone() and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)  # other than its leader's, the end of a group wakes nobody
    signal_group(group, signal.SIGKILL)


def marked(group: int, guard_id: str) -> list[int]:
    """Return the processes of a guard's command that still run: its group's number may be somebody else's by now.

    Those that left the group, as a server that daemonizes does, are not the command's any more but the application's.
    """
    found = []
    with contextlib.suppress(OSError), os.scandir("/proc") as entries:
        found = [int(entry.name) for entry in entries if entry.name.isdigit() and _is_of(entry.path, group, guard_id)]
    return found


def _is_of(folder: str, group: int, guard_id: str) -> bool:
    try:
        with open(f"{folder}/stat", "rb") as file:
            state, _, its_group = file.read().rpartition(b")")[2].split()[:3]
        if int(its_group) != group or state in b"ZX":
            return False
        with open(f"{folder}/environ", "rb") as file:
            return f"{MARK}={guard_id}".encode() in file.read().split(b"\0")
    except (OSError, ValueError):
        return False  # it is gone, or somebody else's


def end_marked(group: int, guard_id: str) -> int:
    """End what still runs of a guard's command; return how many processes that were."""
    found = marked(group, guard_id)
    if found:
        end_group(group, lambda: not marked(group, guard_id))
    return len(found)


def _pidfd(pid: int) -> int:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # an old kernel, or a sandbox without it: then it is polled
            return os.pidfd_open(pid)
    return -1


def _nap(exit_: int) -> None:
    watch = select.poll()  # not select(), which cannot be used in a server that has a thousand files open
    if exit_ >= 0:
        watch.register(exit_, select.POLLIN)
    watch.poll(1000 * _POLL_SECONDS)
