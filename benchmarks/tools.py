"""rfs and its peers, each doing the same four things: take a first checkpoint, another, go back, and be weighed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Protocol

from benchmarks.measure import Cost, run
from rfs.production.rollback.drivers.files.bulk import AtOnce, bulk
from rfs.production.rollback.store.reserve import SIZE as RESERVE

RFS = os.path.join(os.path.dirname(sys.executable), "rfs")


class Tool(Protocol):
    """One of them, looking after `tree` and keeping everything of its own in `home`."""

    name: ClassVar[str]

    def __init__(self, tree: Path, home: Path) -> None: ...

    @staticmethod
    def version() -> str | None:
        """Return which it is, or None when it is not installed."""

    def first(self) -> Cost:
        """Make an empty repository (not counted) and take a checkpoint."""

    def again(self) -> Cost:
        """Take another checkpoint."""

    def back(self) -> Cost:
        """Bring the tree to the first checkpoint, in place."""

    def sizes(self) -> tuple[int, int]:
        """Return the bytes of the repository, and those of it with all caches and indexes that the tool keeps."""


def _version(*argv: str) -> str | None:
    if shutil.which(argv[0]) is None:
        return None
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n")[0]


def _size(folder: Path) -> int:
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names)


class Rfs:
    """The real command line, with one files component; with `serve`, a service is stopped for a rollback, too."""

    name: ClassVar[str] = "rfs"

    def __init__(self, tree: Path, home: Path) -> None:
        self._tree, self._home = tree, home
        self._first = ""
        self.outage: float | None = None

    @staticmethod
    def version() -> str | None:
        library = isinstance(bulk(many=True), AtOnce)
        return f"{_version(RFS, '--version')} with{'' if library else 'out'} its C library"

    def first(self) -> Cost:
        if self._home.exists():
            shutil.rmtree(self._home)
        self._home.mkdir(parents=True)
        self._write_settings("")
        run([RFS, "init", "--yes"], cwd=self._home)
        return self._checkpoint()

    def again(self) -> Cost:
        return run([RFS, "checkpoint", "-q"], cwd=self._home)[0]

    def _checkpoint(self) -> Cost:
        cost, printed = run([RFS, "checkpoint", "-q"], cwd=self._home)
        self._first = printed.strip()
        return cost

    def serve(self) -> None:
        """Add a service that is nothing but a file: its own time to stop and to start is not rfs's."""
        running = str(self._home / "running")
        self._write_settings(
            "[components.served]\n"
            'kind = "service"\nmanager = "command"\n'
            f"start = {json.dumps(['touch', running])}\n"
            f"stop = {json.dumps(['rm', running])}\n"
            f"status = {json.dumps(['test', '-e', running])}\n"
        )
        Path(running).touch()
        self._checkpoint()

    def _write_settings(self, more: str) -> None:
        (self._home / "rfs.toml").write_text(
            '[app]\nname = "bench"\n'
            f'[components.tree]\nkind = "files"\npath = {json.dumps(str(self._tree))}\n'
            f"{more}"
            f'[store]\npath = ".rfs"\nkey = "file:{self._home}/key"\n'
        )

    def back(self) -> Cost:
        cost, printed = run([RFS, "rollback", self._first, "--yes", "--json", "--reason", "bench"], cwd=self._home)
        self.outage = json.loads(printed)["data"]["outage"]
        return cost

    def sizes(self) -> tuple[int, int]:
        # Space that is set aside, to be given back when the disk fills up, is neither; the table says how much it is.
        store = self._home / ".rfs"
        return _size(store / "packs"), _size(store) - RESERVE


class Restic:
    """restic with its own defaults."""

    name: ClassVar[str] = "restic"

    def __init__(self, tree: Path, home: Path) -> None:
        self._tree, self._home = tree, home
        self._first = ""
        self._env = {
            "RESTIC_REPOSITORY": str(home / "repository"),
            "RESTIC_CACHE_DIR": str(home / "cache"),
            "RESTIC_PASSWORD": "bench",
        }

    @staticmethod
    def version() -> str | None:
        return _version("restic", "version")

    def _run(self, *argv: str) -> tuple[Cost, str]:
        return run(["restic", *argv], cwd=self._home, env=self._env)

    def first(self) -> Cost:
        self._home.mkdir(parents=True)
        self._run("init", "--quiet")
        cost, printed = self._run("backup", "--json", str(self._tree))
        self._first = json.loads(printed.strip().split("\n")[-1])["snapshot_id"]
        return cost

    def again(self) -> Cost:
        return self._run("backup", "--quiet", str(self._tree))[0]

    def back(self) -> Cost:
        return self._run("restore", "--quiet", self._first, "--target", "/")[0]

    def sizes(self) -> tuple[int, int]:
        return _size(self._home / "repository"), _size(self._home)


class Borg:
    """borg with its own defaults, and encryption."""

    name: ClassVar[str] = "borg"

    def __init__(self, tree: Path, home: Path) -> None:
        self._tree, self._home = tree, home
        self._number = 0
        self._env = {
            "BORG_REPO": str(home / "repository"),
            "BORG_BASE_DIR": str(home / "base"),
            "BORG_PASSPHRASE": "bench",
        }

    @staticmethod
    def version() -> str | None:
        return _version("borg", "--version")

    def _run(self, *argv: str) -> Cost:
        return run(["borg", *argv], cwd=self._tree, env=self._env)[0]

    def first(self) -> Cost:
        self._home.mkdir(parents=True)
        self._run("init", "--encryption=repokey-blake2")
        return self.again()

    def again(self) -> Cost:
        self._number += 1
        return self._run("create", f"::{self._number}", ".")

    def back(self) -> Cost:
        return self._run("extract", "::1")

    def sizes(self) -> tuple[int, int]:
        return _size(self._home / "repository"), _size(self._home)


class Git:
    """git with an untracked cache and quick compression; its repository lies outside the tree."""

    name: ClassVar[str] = "git"

    def __init__(self, tree: Path, home: Path) -> None:
        self._tree, self._home = tree, home
        self._first = ""
        self._env = {
            "GIT_DIR": str(home / "repository"),
            "GIT_WORK_TREE": str(tree),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
        }

    @staticmethod
    def version() -> str | None:
        return _version("git", "--version")

    def _run(self, *argv: str) -> tuple[Cost, str]:
        return run(["git", *argv], cwd=self._tree, env=self._env)

    def first(self) -> Cost:
        self._home.mkdir(parents=True)
        self._run("init", "--quiet")
        for setting in (
            "core.untrackedCache=true",
            "core.compression=1",
            "gc.auto=0",
            "user.name=bench",
            "user.email=bench@localhost",
        ):
            self._run("config", *setting.split("="))
        cost = self.again()
        self._first = self._run("rev-parse", "HEAD")[1].strip()
        return cost

    def again(self) -> Cost:
        return self._run("add", "-A")[0].then(self._run("commit", "--quiet", "--allow-empty", "-m", "bench")[0])

    def back(self) -> Cost:
        # What was added since and never committed is gone after the second one only.
        return self._run("reset", "--quiet", "--hard", self._first)[0].then(self._run("clean", "-fdq")[0])

    def sizes(self) -> tuple[int, int]:
        return _size(self._home), _size(self._home)


PEERS: tuple[type[Tool], ...] = (Restic, Borg, Git)
