"""A real PostgreSQL server of the tests' own. It does not fsync: they kill the server, not the machine under it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from rfs.demo import server
from rfs.demo.server import DEADLINE, installations

__all__ = ["USED", "Server", "installations", "running"]

USED: set[str] = set()
"""The versions of the servers that the present test connected to."""


class Server(server.Server):
    """One that can be connected to, and killed."""

    def dsn(self, database: str = "postgres", user: str = "postgres", **more: str) -> str:
        """Return the words of a connection; trust is how it authenticates."""
        return psycopg.conninfo.make_conninfo(host=str(self.socket), dbname=database, user=user, **more)

    def connect(self, database: str = "postgres", user: str = "postgres") -> psycopg.Connection[Any]:
        """Return a connection that commits every statement by itself."""
        connection = psycopg.connect(self.dsn(database, user), autocommit=True)
        USED.add((connection.info.parameter_status("server_version") or "unknown").split()[0])
        return connection

    def create(self, database: str, owner: str | None = None) -> str:
        """Create a database, with an unprivileged owner that may create databases; return the owner's dsn to it."""
        owner = owner or f"{database}_owner"
        with self.connect() as c:
            if not c.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [owner]).fetchone():
                c.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB").format(sql.Identifier(owner)))
            words = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0")
            c.execute(words.format(sql.Identifier(database), sql.Identifier(owner)))
        return self.dsn(database, owner)

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


@contextmanager
def running(*options: str, version: int | None = None) -> Iterator[Server]:
    """Run a server of a major version, by default the newest, and remove it with all its data afterwards."""
    found = Server("-F", "-c", "max_prepared_transactions=8", *options, version=version)
    try:
        found.initialise()
        found.start()
        yield found
    finally:
        found.remove()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
