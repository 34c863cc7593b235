"""A real Prometheus on loopback, which scrapes what the test shows it ten times a second."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import until

_PROGRAM = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(_PROGRAM is None, reason="this machine has no Prometheus (Debian: prometheus)")

_CONFIGURATION = """\
global: {{scrape_interval: 100ms, scrape_timeout: 100ms}}
scrape_configs:
  - job_name: shop
    static_configs: [{{targets: ["{target}"]}}]
"""


class Prometheus:
    """One server. Args: folder: an empty one of its own. target: host:port of what it scrapes."""

    def __init__(self, folder: Path, target: str) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        (folder / "prometheus.yml").write_text(_CONFIGURATION.format(target=target))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert _PROGRAM is not None
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    _PROGRAM,
                    f"--config.file={self._folder}/prometheus.yml",
                    f"--storage.tsdb.path={self._folder}/data",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        until(self._ready)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            assert self._process is not None
            assert self._process.poll() is None, (self._folder / "log").read_text()
            return False

    def stop(self) -> None:
        """End it at once; it can be started again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def scraping(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run one while the block does."""
    server = Prometheus(folder, target)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def eventually(ask: Callable[[], float | None], wanted: Callable[[float], bool]) -> float:
    """Ask until a number is as it should be: the next scrape brings it."""
    found: list[float] = []

    def look() -> bool:
        value = ask()
        found.append(value if value is not None else float("nan"))
        return value is not None and wanted(value)

    until(look)
    return found[-1]
