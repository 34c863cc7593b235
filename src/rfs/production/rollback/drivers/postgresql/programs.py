"""pg_dump: which one, and its output as a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Semaphore, Thread
from typing import IO, Any, cast

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.drivers.postgresql.connect import options_of, place_of
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.model import Component
from rfs.production.rollback.pg_dump import fitting, installed
from rfs.production.rollback.secret import absolute

_READ = 1 << 20
_AHEAD = 32  # so many times _READ at most are in memory before they are stored
_PATIENCE = 0.2
_SECRET_WORDS = {"password": "PGPASSWORD", "sslpassword": "PGSSLPASSWORD"}
_LOCK_SECONDS = 30


def pg_dump(c: Component, server: int) -> str:
    """Return the path of a pg_dump that can read the server: of its own major version if there is one, else newer.

    Args:
        server: the major version of the server.

    Raises:
        UsageError: there is none, or only older ones.
    """
    folder = options_of(c).bin
    found = installed(absolute(folder, c.home) if folder is not None else None)
    path = fitting(found, server)
    if path is not None:
        return path
    if found:
        best = max(found)
        raise UsageError("postgresql.old_dump", component=c.name, path=found[best], found=best, server=server)
    raise UsageError("postgresql.no_dump", component=c.name, server=server)


def dumping(c: Component, database: str, server: int, snapshot: str, pulse: Pulse) -> Iterator[bytes]:
    """Yield what pg_dump writes of a database, as it was at a snapshot that somebody holds.

    Raises:
        RollbackError: it failed, or cannot read all of it.
    """
    import subprocess
    import tempfile

    program = pg_dump(c, server)
    words = {**place_of(c).words, "dbname": database}
    environment = {**os.environ, "PGTZ": "UTC", "PGAPPNAME": "rfs", "LC_MESSAGES": "C"}
    for word, variable in _SECRET_WORDS.items():
        if word in words:  # what stands on a command line can be read by everybody
            environment[variable] = str(words.pop(word))
    command = [program, "--no-password", f"--snapshot={snapshot}", f"--lock-wait-timeout={_LOCK_SECONDS}s"]
    command += ["-d", _conninfo(words)]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        ahead = _Ahead(cast("IO[bytes]", child.stdout))
        try:
            while data := ahead.take(pulse):
                yield data
            status = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            ahead.close()
        if status != 0:
            errors.seek(0)
            raise _failed(c, database, errors.read().decode(errors="replace"))


class _Ahead:
    """Reads a pipe in a thread of its own: whoever writes it works on while what it wrote is stored.

    A pipe holds so little that without this the two would take turns.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._read: SimpleQueue[bytes | OSError] = SimpleQueue()
        self._room = Semaphore(_AHEAD)
        self._over = False
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        data: bytes | OSError = b"-"
        while data and not isinstance(data, OSError):
            self._room.acquire()
            if self._over:
                return
            try:
                data = self._pipe.read(_READ)
            except OSError as error:
                data = error
            self._read.put(data)

    def take(self, pulse: Pulse) -> bytes:
        """Return what was read next, nothing at the end; the pulse is asked also while nothing comes."""
        while True:
            pulse.tick(0, 0)
            try:
                data = self._read.get(timeout=_PATIENCE)
            except Empty:
                continue
            self._room.release()
            if isinstance(data, OSError):
                raise data
            return data

    def close(self) -> None:
        """End the thread. The writer has ended, so that there is nothing to wait for."""
        self._over = True
        self._room.release()
        self._thread.join()
        self._pipe.close()


def _conninfo(words: dict[str, Any]) -> str:
    from psycopg.conninfo import make_conninfo

    return make_conninfo("", **words)


def _failed(c: Component, database: str, said: str) -> RollbackError:
    lines = [line.partition("error: ")[2] for line in said.splitlines() if "error: " in line]
    why = "; ".join(lines[:2]) or said.strip()[-300:] or "it gave no reason"
    return RollbackError("postgresql.dump_failed", component=c.name, database=database, why=why.rstrip("."))
