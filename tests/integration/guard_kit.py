"""A guard in a process of its own, and what its tests wait for."""

from __future__ import annotations

import os
import pty
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from cli_app import App
from waiting import until

from rfs.production.rollback.application import Application

PATIENCE = 30.0


def gone(pid: int) -> bool:
    """Whether a process is no more, or nothing but a status that nobody fetched."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def end_commands(app: App) -> None:
    """End what a killed guard left of its command; at the end of a test, as that may be what is looked at."""
    with Application.open(str(app.folder / "rfs.toml")) as opened:
        groups = [each.group for each in opened.catalog.deployments() if each.group is not None]
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


class Guarded:
    """`rfs WORDS`, `rfs guard WORDS` where they begin with a flag; what is left of it goes at the end.

    Args:
        terminal: it has one, as a person's command has, which can be closed.
    """

    def __init__(self, app: App, *words: str, terminal: bool = False) -> None:
        self._app = app
        self._master = -1
        self.err = ""
        command = ("guard", *words) if words[0].startswith("-") else words
        # Not a pipe: what a killed guard leaves running would keep its end open.
        self._log = app.folder / "guard.log"
        log = self._log.open("wb")
        options: dict[str, Any] = {"stdout": log, "stderr": log}
        if terminal:
            self._master, slave = pty.openpty()
            # Whoever closes it is the session's leader, as a shell is; the kernel tells its group.
            options = {"stdin": slave, "stdout": slave, "stderr": slave, "start_new_session": True}
        self._child = app.start(*command, **options)
        log.close()
        if terminal:
            os.close(slave)
        self.pid = self._child.pid

    def __enter__(self) -> Guarded:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait(timeout=PATIENCE)
        self.close_terminal()

    def signal(self, number: int) -> None:
        self._child.send_signal(number)

    def close_terminal(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
            if self._child.poll() is None:
                self.signal(signal.SIGHUP)  # what a shell does with its jobs

    def phase(self, name: str) -> None:
        """Wait until it is in this phase."""

        def there() -> bool:
            with Application.open(str(self._app.folder / "rfs.toml")) as app:
                found = app.deployments.open()
            return found is not None and found.phase == name

        until(there)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def end(self) -> int:
        try:
            return self._child.wait(timeout=PATIENCE)
        finally:
            self.err = self.said
