"""A redis-server of one's own, for tests: on a socket in a folder of its own, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from rfs_redis.resp import Address, Connection, Word

PROGRAM = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")


def need() -> None:
    """Skip, loudly, where there is no Redis."""
    if PROGRAM is None:
        pytest.skip("redis-server is not installed (Debian: redis-server; another one by REDIS_SERVER=PATH)")


class RedisServer:
    """A server, used with `with`. Args: settings: of redis.conf, such as save="3600 1"."""

    def __init__(self, **settings: str) -> None:
        need()
        self.folder = Path(tempfile.mkdtemp(prefix="rfs-redis-"))  # a socket's path may not be long
        self.socket = self.folder / "s"
        self.settings = {"port": "0", "save": "", "enable-debug-command": "yes", **settings}
        self.start()

    def start(self) -> None:
        words = [word for name, value in self.settings.items() for word in (f"--{name}", value)]
        assert PROGRAM is not None
        self.process = subprocess.Popen(
            [PROGRAM, "--dir", self.folder, "--unixsocket", self.socket, *words], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if "Ready to accept connections" in line or "The server is now ready" in line:
                return
        self._remove()
        if "TLS support" in said[-1]:
            pytest.skip("this redis-server was built without TLS")
        pytest.fail("redis-server did not start:\n" + "".join(said))

    def kill(self) -> None:
        """End it as a loss of power would, as far as Redis is concerned."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def connect(self, database: int = 0) -> Connection:
        connection = Connection(Address(str(self.socket), "", 0, tls=False, ca=""), 10)
        if "requirepass" in self.settings:
            connection.ask("AUTH", self.settings["requirepass"])
        connection.ask("SELECT", database)
        return connection

    def do(self, *commands: tuple[Word, ...], database: int = 0) -> list[Any]:
        """Send commands on a connection of their own; return the replies."""
        connection = self.connect(database)
        try:
            return connection.ask_all(commands)
        finally:
            connection.close()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)
