"""rfs, pg_dump and dslr on one PostgreSQL database, and a client that sees from outside for how long it is away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import venv
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Protocol

import psycopg

from benchmarks.measure import Cost, run
from rfs.demo.server import Server

RFS = os.path.join(os.path.dirname(sys.executable), "rfs")
DSLR = "0.6.0"
_EVERY = 0.005
_ATTEMPTS = 5


class Watcher(threading.Thread):
    """A client that queries every 5 ms, and connects again at once whenever it is thrown out."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)  # a run that is interrupted does not wait for it
        self._url = url
        self._ended = threading.Event()
        self._answered: list[float] = []
        self.refused = 0

    def run(self) -> None:
        connection: psycopg.Connection[tuple[object]] | None = None
        while not self._ended.wait(_EVERY):
            try:
                if connection is None:
                    connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
                connection.execute("SELECT balance FROM accounts WHERE id = 1").fetchone()
                self._answered.append(time.perf_counter())
            except psycopg.Error:
                self.refused += 1
                if connection is not None:
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def __enter__(self) -> Watcher:
        self.start()
        while not self._answered:
            time.sleep(_EVERY)  # until its first answer: it asks as often as that
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        before = len(self._answered)
        while not failed and self.is_alive() and len(self._answered) == before:
            time.sleep(_EVERY)  # it has to have had an answer after whatever happened
        self._ended.set()
        self.join()

    @property
    def outage(self) -> float:
        """The longest time between two answers, in seconds."""
        return max(later - earlier for earlier, later in zip(self._answered, self._answered[1:], strict=False))


class Tool(Protocol):
    """One of them, keeping what it keeps in `home`."""

    name: ClassVar[str]

    def checkpoint(self) -> Cost:
        """Take the only checkpoint; one that was taken before is forgotten first, which is not counted."""

    def back(self) -> Cost:
        """Bring the database to that checkpoint."""

    def size(self) -> int:
        """Return the bytes that the checkpoint takes."""


def size_of(folder: Path) -> int:
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names)


class Rfs:
    """The real command line with the database as its one component."""

    name: ClassVar[str] = "rfs"

    def __init__(self, home: Path, server: Server, url: str) -> None:
        self._home, self._store = home, home / "store"
        self._first = ""
        self.steps: dict[str, float] = {}
        home.mkdir()
        (home / "rfs.toml").write_text(
            '[app]\nname = "bench"\n[components.db]\nkind = "postgresql"\n'
            f"url = {json.dumps(url)}\nbin = {json.dumps(str(server.bin))}\n"
            f'[store]\npath = "store"\nkey = "file:{home}/key"\n'
        )

    def checkpoint(self) -> Cost:
        shutil.rmtree(self._store, ignore_errors=True)
        run([RFS, "init", "--yes"], cwd=self._home)
        cost, printed = run([RFS, "checkpoint", "-q"], cwd=self._home)
        self._first = printed.strip()
        return cost

    def again(self) -> tuple[Cost, int]:
        """Take another checkpoint; return how many bytes more the packs have, too."""
        before = size_of(self._store / "packs")
        cost = run([RFS, "checkpoint", "-q"], cwd=self._home)[0]
        return cost, size_of(self._store / "packs") - before

    def back(self) -> Cost:
        return rolled_back(self._home, self._first, self.steps)

    def size(self) -> int:
        return size_of(self._store / "packs")


def rolled_back(home: Path, checkpoint: str, steps: dict[str, float]) -> Cost:
    """Roll an application back, and note the seconds that each step of the journal took."""
    words = [RFS, "rollback", checkpoint, "--yes", "--json", "--reason", "bench"]
    cost, printed = run(words, cwd=home)
    operation = json.loads(printed)["data"]["rollback_id"]
    shown = subprocess.run(
        [RFS, "show", operation, "--json"], cwd=home, capture_output=True, text=True, check=True
    ).stdout
    begun: dict[str, datetime] = {}
    for entry in json.loads(shown)["data"]["journal"]:
        at = datetime.fromisoformat(entry["at"])
        if entry["mark"] == "intent":
            begun[entry["step"]] = at
        elif entry["mark"] == "done" and entry["step"] in begun:
            steps[entry["step"]] = (at - begun[entry["step"]]).total_seconds()
    return cost


class Dump:
    """pg_dump and pg_restore with two jobs, and the database dropped and made anew between them."""

    name: ClassVar[str] = "pg_dump"

    def __init__(self, home: Path, server: Server, url: str) -> None:
        self._home, self._bin, self._url = home, server.bin, url
        self._at = ["-h", str(server.socket), "-U", "shop"]
        home.mkdir()

    def checkpoint(self) -> Cost:
        shutil.rmtree(self._home / "dump", ignore_errors=True)
        words = [str(self._bin / "pg_dump"), *self._at, "-Fd", "-j2", "-f", "dump", "shop"]
        return run(words, cwd=self._home)[0]

    def back(self) -> Cost:
        psql = [str(self._bin / "psql"), *self._at, "-q", "-d", "postgres"]
        anew = [*psql, "-c", "DROP DATABASE shop WITH (FORCE)", "-c", "CREATE DATABASE shop"]
        restore = [str(self._bin / "pg_restore"), *self._at, "-j2", "-d", "shop", "dump"]
        return run(anew, cwd=self._home)[0].then(run(restore, cwd=self._home)[0])

    def size(self) -> int:
        return size_of(self._home / "dump")


class Dslr:
    """dslr, in an environment of its own: a snapshot is a database made of the live one as its template."""

    name: ClassVar[str] = "dslr"

    def __init__(self, home: Path, server: Server, url: str) -> None:
        self._home, self._url = home, url
        home.mkdir()
        venv.create(home / "venv", with_pip=True)
        pip = [str(home / "venv" / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, f"dslr[psycopg2-binary]=={DSLR}"], check=True)
        self._words = [
            str(home / "venv" / "bin" / "dslr"),
            "--url",
            f"postgres://shop@127.0.0.1:{os.environ['PGPORT']}/shop",
        ]
        self.refused = 0

    def checkpoint(self) -> Cost:
        if self.size():
            self._tried("delete", "bench")
        return self._tried("snapshot", "bench")

    def back(self) -> Cost:
        return self._tried("restore", "bench")

    def _tried(self, *words: str) -> Cost:
        """Run it until it succeeds: a client that comes back at once can keep it from what it has to do alone."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                return run([*self._words, *words], cwd=self._home)[0]
            except RuntimeError:
                self.refused += 1
                if not left:
                    raise
        raise AssertionError

    def size(self) -> int:
        query = "SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint FROM pg_database WHERE datname LIKE 'dslr\\_%'"
        with psycopg.connect(self._url.replace("/shop?", "/postgres?")) as connection:
            row = connection.execute(query).fetchone()
            return int(row[0]) if row else 0
