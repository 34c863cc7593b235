"""The shop of examples/shop as a running application, and the certainty that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

MARK = "RFS_DEMO"
START_SECONDS = 20.0
STOP_SECONDS = 10.0
PR_SET_PDEATHSIG = 1


class ShopError(Exception):
    """The shop itself does not work; the message says how."""


def source() -> Path:
    """Return the folder of the shop's files: beside this one when installed, in examples/ in the repository."""
    here = Path(__file__).resolve().parent
    packaged = here / "shop"
    return packaged if packaged.is_dir() else here.parents[2] / "examples" / "shop"


class Shop:
    """An installed shop and the supervisord that runs it.

    Args:
        base: an existing folder; the shop goes to `base/shop`, and beside it what must not lie inside.
        url: of an empty PostgreSQL database; the shop's is a SQLite file when there is none.

    Attributes:
        folder: the shop's own.
        environment: for every command that belongs to the demo; it carries a mark by which
            whatever such a command leaves running is found.
    """

    def __init__(self, base: Path, url: str = "") -> None:
        self.base = base
        self._url = url
        self.folder = base / "shop"
        self.environment = {**os.environ, MARK: secrets.token_hex(8)}
        self._supervisord: subprocess.Popen[bytes] | None = None
        self._news: socket.socket | None = None

    @property
    def database(self) -> Path:
        return self.folder / "data" / "shop.db"

    def install(self) -> None:
        """Put a shop with its data into the folder.

        Raises:
            ShopError: it cannot be installed there.
        """
        self._run(source() / "install.py", *([self._url] if self._url else []))

    def start(self) -> None:
        """Start supervisord with the shop, and wait until both programs say that they are ready."""
        address = str(self.base / "news")
        self._news = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._news.bind(address)
        with (self.base / "supervisord.out").open("wb") as output:
            self._supervisord = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "-c", "supervisord.conf"],
                cwd=self.folder,
                env={**self.environment, "NOTIFY_SOCKET": address},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demo, which then ends the shop in order …
                start_new_session=True,
                # … and should the demo be killed, the shop ends as well.
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no thread exists
            )
        self.wait_for(self.ready())

    def deploy_v2(self) -> None:
        """Run the shop's own deployment script for version 2, and wait until its programs are ready."""
        self._forget_news()
        self._run(source() / "deploy_v2.py")
        self.wait_for(self.ready())

    def night_shift(self) -> None:
        """Run the script that changes three settings and tracks them."""
        self._run(source() / "night_shift.py")

    @property
    def settings(self) -> str:
        """What the shop's settings file says."""
        return self._read("config/settings.toml")

    def ready(self) -> set[str]:
        """Return what the programs of the installed version say when they are."""
        line = next(line for line in self._read("app/__init__.py").splitlines() if line.startswith("VERSION"))
        version = line.split('"')[1]
        return {f"web {version}", f"worker {version}"}

    def wait_for(self, expected: set[str]) -> None:
        """Return when each of these has been said by one of the shop's programs.

        Raises:
            ShopError: it was not, within START_SECONDS.
        """
        waiting = set(expected)
        deadline = time.monotonic() + START_SECONDS
        while waiting:
            message = self._hear(max(0.001, deadline - time.monotonic()))
            if message is None:
                raise ShopError(f"The shop never said {sorted(waiting)}.\n{self._tail()}")
            waiting -= {line.removeprefix("STATUS=") for line in message.splitlines()}

    def _forget_news(self) -> None:
        while self._hear(0) is not None:
            pass

    def _hear(self, seconds: float) -> str | None:
        if self._news is None:
            raise ShopError("The shop was not started.")
        self._news.settimeout(seconds)
        try:
            return self._news.recv(4096).decode()
        except (TimeoutError, BlockingIOError):
            return None

    # — as a visitor —

    def health(self) -> dict[str, Any]:
        """Return what /health answers, with the HTTP status as "http"."""
        status, _, body = self.request("GET", "/health")
        return {"http": status, **json.loads(body)}

    def order(self, *slugs: str, customer: int = 7) -> int:
        """Put products into a cart and order them; return the order's number once the worker shipped it.

        Raises:
            ShopError: the shop did not take the order.
        """
        self._forget_news()
        status, body = self.checkout(*slugs, customer=customer)
        if status != 201:
            raise ShopError(f"The checkout answered {status}: {body!r}")
        number = int(json.loads(body)["order"])
        self.wait_for({f"shipped {number}"})
        return number

    def checkout(self, *slugs: str, customer: int = 7) -> tuple[int, bytes]:
        """Put products into a cart and order them; return the checkout's status and body."""
        cookie = ""
        for slug in slugs:
            _, headers, _ = self.request("POST", "/cart", urlencode({"slug": slug}).encode(), {"Cookie": cookie})
            cookie = headers["Set-Cookie"].partition(";")[0]
        form = urlencode({"email": f"customer{customer}@example.org"}).encode()
        status, _, body = self.request("POST", "/checkout", form, {"Cookie": cookie})
        return status, body

    @contextlib.contextmanager
    def visited(self) -> Iterator[None]:
        """Have visitors look around all the while. For a moment of a deployment there may be no shop."""
        over = threading.Event()

        def visit() -> None:
            while not over.is_set():
                try:
                    self.request("GET", "/")
                except (OSError, http.client.HTTPException, KeyError, tomllib.TOMLDecodeError):
                    over.wait(0.05)

        visitors = [threading.Thread(target=visit, daemon=True) for _ in range(2)]
        for visitor in visitors:
            visitor.start()
        try:
            yield
        finally:
            over.set()
            for visitor in visitors:
                visitor.join()

    def upload(self, slug: str, picture: bytes) -> str:
        """Upload a product's picture; return its path below the shop's folder.

        Raises:
            ShopError: the shop did not take it.
        """
        line = next(line for line in self._read(".env").splitlines() if line.startswith("ADMIN_TOKEN="))
        token = line.partition("=")[2]
        status, _, body = self.request("POST", f"/admin/picture/{slug}", picture, {"X-Admin-Token": token})
        if status != 201:
            raise ShopError(f"The upload answered {status}: {body!r}")
        return str(json.loads(body)["picture"]).lstrip("/")

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of one HTTP request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    @property
    def port(self) -> int:
        return int(tomllib.loads(self.settings)["http"]["port"])

    # — the end —

    def stop(self) -> list[str]:
        """End everything that carries the demo's mark; return what did not end when asked, and had to be killed."""
        if self._news is not None:
            self._news.close()
        if self._supervisord is not None:
            self._supervisord.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._supervisord.wait(STOP_SECONDS)
        stubborn = dict(self.running())
        for pid in stubborn:
            _kill(pid)
        if self._supervisord is not None:
            self._supervisord.wait()
        return [f"{pid}: {command}" for pid, command in stubborn.items()]

    def running(self) -> Iterator[tuple[int, str]]:
        """Yield pid and command line of each process that carries the demo's mark, whoever its parent is."""
        mark = f"{MARK}={self.environment[MARK]}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue  # it ended meanwhile, or is another user's

    def _run(self, script: Path, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-B", script, self.folder, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ShopError((done.stderr or done.stdout).strip())

    def _read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def _tail(self) -> str:
        lines = []
        for path in sorted((self.folder / "log").glob("*.log")):
            lines += [f"{path.name}: {line}" for line in path.read_text(encoding="utf-8").splitlines()[-5:]]
        return "\n".join(lines)


def _kill(pid: int) -> None:
    """Kill a process, whoever its parent is, and return when it is dead."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [], STOP_SECONDS)
    except ProcessLookupError:
        return
    finally:
        os.close(process)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
