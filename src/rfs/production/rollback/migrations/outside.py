"""Starting Alembic and Django with the application's Python, in its folder; on captured scripts where need be."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rfs.production.rollback import process
from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.migrating import MigrationsTable
from rfs.production.rollback.migrations import alembic, django
from rfs.production.rollback.migrations.scripts import Files, write
from rfs.production.rollback.model import Component

_SECONDS = 86_400.0
_PACKAGE = "rfs_captured_migrations"
_PREFIX = "rfs-migrate-"
_YOUNG_SECONDS = 60.0
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def python_of(c: Component, options: MigrationsTable, path: str) -> str:
    """Return the Python that has the application's packages."""
    if options.python is not None:
        named = os.path.expanduser(options.python)
        return os.path.join(c.home, named) if "/" in named else named
    folders = dict.fromkeys((os.path.dirname(path), c.home))
    beside = [os.path.join(folder, name, "bin", "python") for folder in folders for name in (".venv", "venv")]
    return next((each for each in beside if os.access(each, os.X_OK)), sys.executable)


class Tool:
    """Alembic or Django of one component.

    Args:
        path: of alembic.ini or manage.py, absolute.
        scripts: those to be run instead of the application's own; None for those.
    """

    def __init__(self, c: Component, options: MigrationsTable, name: str, path: str, scripts: Files | None) -> None:
        self._c, self._options, self._name, self._path, self._scripts = c, options, name, path, scripts

    def ask(
        self, act: str, targets: Sequence[str] = (), *, head: str = "", pulse: Pulse | None = None
    ) -> dict[str, Any]:
        """Have something done; return what the tool said.

        Args:
            act: "look", "sql" or "down".
            head: where Alembic's SQL begins.

        Raises:
            RollbackError: it could not be started, or failed.
        """
        with self._folder() as folder:
            asked: dict[str, Any] = {"act": act, "targets": list(targets), "head": head, "parent": os.getpid()}
            asked |= {"out": os.path.join(folder, "answer"), **self._with_scripts(folder)}
            source = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"run_{self._name}.py")
            with open(source, encoding="utf-8") as file:
                # Not as a file of ours: its folder, where other modules lie, would be looked in first.
                command = [python_of(self._c, self._options, self._path), "-c", file.read(), json.dumps(asked)]
            seconds = _SECONDS if pulse is None else min(pulse.remaining(), _SECONDS)
            ended = process.run(command, cwd=os.path.dirname(self._path), timeout=seconds, pulse=pulse)
            if ended.status != 0:
                why = next(reversed([line for line in ended.output.splitlines() if line.strip()]), ended.reason)
                raise RollbackError(
                    "migrate.tool",
                    component=self._c.name,
                    tool=self._name,
                    python=command[0],
                    why=why.strip().rstrip("."),
                )
            with open(asked["out"], encoding="utf-8") as file:
                answer: dict[str, Any] = json.load(file)
        return answer

    @contextmanager
    def _folder(self) -> Iterator[str]:
        _sweep()
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        held = os.open(folder, _OPEN)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it goes with this process, however that ends
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)

    def _with_scripts(self, folder: str) -> dict[str, Any]:
        """Return what tells the tool where its scripts are; captured ones are written into `folder`."""
        if self._scripts is not None:
            write(self._scripts, folder)
        if self._name == "alembic":
            return {"ini": self._path, "options": self._alembic_options(folder)}
        labels = sorted({name.partition("/")[0] for name in self._scripts or ()})
        if self._scripts is not None:
            inner = os.path.join(folder, _PACKAGE)
            os.mkdir(inner)
            for label in labels:
                os.rename(os.path.join(folder, label), os.path.join(inner, label))
            for place in (inner, *(os.path.join(inner, label) for label in labels)):
                with open(os.path.join(place, "__init__.py"), "ab"):
                    pass
        return {
            "settings": self._options.settings or django.settings_of(self._c, self._path),
            "captured": folder if self._scripts is not None else "",
            "modules": {label: f"{_PACKAGE}.{label}" for label in labels},
        }

    def _alembic_options(self, folder: str) -> dict[str, str]:
        if self._scripts is None:
            return {}
        numbers = sorted({name.split("/")[1] for name in self._scripts if name.startswith("versions/")})
        versions = [os.path.join(folder, "versions", number) for number in numbers]
        options = {
            "version_locations": os.pathsep.join(versions),
            "path_separator": "os",
            "version_path_separator": "os",
        }
        if not os.path.isfile(os.path.join(alembic.places(self._c, self._path).script, "env.py")):
            options["script_location"] = os.path.join(folder, "script")
        return options


def _sweep() -> None:
    """Remove the folders of those that were killed: the migrations of an application are nobody else's to read."""
    oldest = time.time() - _YOUNG_SECONDS
    for entry in os.scandir(tempfile.gettempdir()):
        with suppress(OSError):  # somebody else's, or just gone
            there = entry.stat(follow_symlinks=False)
            # One that is being made is not locked yet.
            mine = stat.S_ISDIR(there.st_mode) and there.st_uid == os.geteuid() and there.st_ctime < oldest
            if not (entry.name.startswith(_PREFIX) and mine):
                continue
            held = os.open(entry.path, _OPEN)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(held)
