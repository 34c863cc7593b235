"""How a running service learns that its configuration was put back: by HTTP, by a signal, or by a command."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.errors import RollbackError, TimedOutError
from rfs.production.rollback.model import Component

if TYPE_CHECKING:
    from rfs.production.rollback.http_request import Address

_HTTP = re.compile(r"http\s+([A-Z]+)\s+(\S+)")
_SIGNAL = re.compile(r"signal\s+(?:SIG)?(HUP|USR1|USR2|WINCH)\s+pidfile:(.+)")
_SYNTAX = 'write "http POST URL", "signal HUP pidfile:PATH", or a command as a list'
_RETRY_SECONDS = 0.05
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Reload(ABC):
    """One way to tell a service. Harmless when repeated."""

    @abstractmethod
    def attempt(self, c: Component, seconds: float, pulse: Pulse) -> None:
        """Do it once.

        Raises:
            NotYetError: the service is not there to be told; it may have been started just now.
            RollbackError: reload.failed.
        """

    @property
    @abstractmethod
    def shown(self) -> str:
        """What it does, without secrets."""

    def run(self, c: Component, *, seconds: float, pulse: Pulse) -> None:
        """Do it, and wait for a service that is not there yet.

        Args:
            seconds: for all of it.
            pulse: asked while waiting.

        Raises:
            RollbackError: reload.failed.
        """
        deadline = time.monotonic() + min(seconds, pulse.remaining())
        while True:
            try:
                self.attempt(c, max(deadline - time.monotonic(), 0.001), pulse)
            except NotYetError as error:
                if time.monotonic() >= deadline:
                    raise self.failed(c, str(error)) from None
                pulse.tick()
                time.sleep(_RETRY_SECONDS)  # a service that is not there yet tells nobody when it is
            else:
                return

    def failed(self, c: Component, why: str) -> RollbackError:
        """Return the error for a reload that came to nothing."""
        return RollbackError("reload.failed", component=c.name, why=why, what=self.shown)


class NotYetError(Exception):
    """The service cannot be told yet; the text says why."""

    def __init__(self, why: str, path: str = "") -> None:
        super().__init__(f"{why} {path}".rstrip())


@dataclass(frozen=True)
class _Http(Reload):
    method: str
    address: Address

    @property
    def shown(self) -> str:
        return f"{self.method} {self.address}"

    def attempt(self, c: Component, seconds: float, pulse: Pulse) -> None:
        # Most configuration files have no reload, and start-up is a goal: imported where it is used.
        from rfs.production.rollback.http_request import RequestError, request

        try:
            response = request(self.address, timeout=seconds, method=self.method, limit=0)
        except RequestError as error:
            if error.absent:
                raise NotYetError(str(error)) from None
            raise self.failed(c, str(error)) from None
        if response.status >= 400:
            raise self.failed(c, f"it answered with status {response.status}")


@dataclass(frozen=True)
class _Signal(Reload):
    name: str
    pidfile: str

    @property
    def shown(self) -> str:
        return f"SIG{self.name} to the process in {self.pidfile}"

    def attempt(self, c: Component, seconds: float, pulse: Pulse) -> None:
        path = os.path.join(c.home, self.pidfile)
        try:
            with open(path, encoding="ascii") as file:
                pid = int(file.read(64))
            written = os.stat(path).st_mtime
        except FileNotFoundError:
            raise NotYetError("there is no pid file", path) from None
        except OSError as error:
            raise self.failed(c, f"{path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise NotYetError("no process number is in", path) from None
        # 0 and negative numbers mean whole groups of processes, 1 the whole machine.
        if pid <= 1:
            raise self.failed(c, f"{path} holds {pid}, which is no service")
        if _started(pid) > written + 1:
            # The number was given to somebody else since: a signal might end a stranger.
            raise NotYetError("the process is gone that is in", path)
        try:
            os.kill(pid, signal.Signals[f"SIG{self.name}"])
        except ProcessLookupError:
            raise NotYetError("the process is gone that is in", path) from None
        except PermissionError:
            raise self.failed(c, f"process {pid} belongs to another user") from None


def _started(pid: int) -> float:
    """Return when a process started, in seconds since 1970; 0 when that cannot be told."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0.0
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _TICKS_PER_SECOND


@dataclass(frozen=True)
class _Command(Reload):
    command: tuple[str, ...]

    @property
    def shown(self) -> str:
        # Arguments may be secrets.
        return shlex.quote(self.command[0]) + (" …" if len(self.command) > 1 else "")

    def attempt(self, c: Component, seconds: float, pulse: Pulse) -> None:
        from rfs.production.rollback.process import run

        try:
            ended = run(self.command, cwd=c.home, timeout=seconds, pulse=pulse)
        except TimedOutError as error:
            if error.key != "command.slow":
                raise
            raise self.failed(c, f"the command did not end within {seconds:.3g} s") from None
        except RollbackError as error:
            if error.key != "command.missing":
                raise
            raise self.failed(c, f"the command could not be started: {error.fields['why']}") from None
        if ended.status != 0:
            # Not its output: it may print the configuration that it read.
            raise self.failed(c, f"the command ended with {ended.reason}")


def parse_reload(given: str | Sequence[str]) -> Reload:
    """Return the reload that rfs.toml describes.

    Raises:
        ValueError: it describes none; the text holds no secret.
    """
    if not isinstance(given, str):
        if not given or not given[0]:
            raise ValueError("a command needs at least the program")
        return _Command(tuple(given))
    for pattern, make in _WAYS:
        found = pattern.fullmatch(given.strip())
        if found:
            return make(found)
    raise ValueError(_SYNTAX)


def _http(found: re.Match[str]) -> Reload:
    from rfs.production.rollback.http_request import parse_url

    return _Http(found[1], parse_url(found[2]))


_WAYS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Reload]], ...] = (
    (_HTTP, _http),
    (_SIGNAL, lambda found: _Signal(found[1], found[2].strip())),
)
