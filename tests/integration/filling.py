"""The small application with a service and its store on a disk of a few megabytes, which fills up at a chosen step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from small import Small

from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.store.reserve import Reserve

BLOCK = 4096
SERVICE = """
[components.web]
kind = "service"
manager = "command"
start = ["touch", "running"]
stop = ["rm", "-f", "running"]
status = ["test", "-e", "running"]
[[health]]
name = "sane"
command = ["test", "!", "-e", "sick"]
retries = 0
"""


class Ended(NamedTuple):
    """How an operation ended: its error (None when it completed), and what is there: "new", "old" or "mixed"."""

    error: RollbackError | None
    state: str
    running: bool


class Filling:
    """Args: disk: an empty file system. home: an empty folder. store: where the store goes, when not on the disk."""

    def __init__(self, disk: Path, home: Path, monkeypatch: pytest.MonkeyPatch, store: Path | None = None) -> None:
        self.disk = disk
        self.store = store or disk / "store"
        self.small = Small(home, store=self.store)
        self._patch = monkeypatch
        config = home / "rfs.toml"
        config.write_text(config.read_text() + SERVICE)
        (home / "running").touch()
        (self.small.tree / "large.bin").write_bytes(os.urandom(300_000))
        with self.small.open() as app:
            app.checkpoint(tags=["one"])
        self.new = self.small.state()
        self.small.version(2)
        (self.small.tree / "large.bin").write_bytes(os.urandom(200_000))
        self.old = self.small.state()

    def fill(self, leave: int) -> None:
        """Leave `leave` blocks free."""
        free = os.statvfs(self.disk).f_bavail - leave
        with (self.disk / "filler").open("ab") as file:
            file.write(bytes(BLOCK * max(0, free)))

    def make_room(self) -> None:
        (self.disk / "filler").unlink(missing_ok=True)

    def have_no_reserve(self) -> None:
        """As it is where the disk never had room for one."""
        self._patch.setattr(Reserve, "make", lambda reserve: None)
        (self.store / "reserve").unlink(missing_ok=True)

    def roll_back(self, step: str, happens: Callable[[], object], *, sick: bool = False) -> Ended:
        """Roll back; something happens when `step` begins for the first time."""
        begun: list[str] = []

        def report(what: str, items: int, size: int) -> None:
            if items or size:
                return
            begun.append(what)
            if begun.count(step) == 1 and what == step:
                happens()
            if sick and what == "start web" and begun.count(what) == 1:
                # Sick on the restored state alone: the way back is walked to its end.
                (self.small.home / "sick").touch()
            if what.startswith("stop"):
                (self.small.home / "sick").unlink(missing_ok=True)

        error = None
        with Application.open(str(self.small.home / "rfs.toml"), reporter=report) as app:
            try:
                app.rollback("one")
            except RollbackError as found:
                error = found
        assert step in begun, begun
        return self.ended(error)

    def ended(self, error: RollbackError | None = None) -> Ended:
        state = self.small.state()
        word = "new" if state == self.new else "old" if state == self.old else "mixed"
        return Ended(error, word, (self.small.home / "running").exists())
