from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rfs.production.rollback.drivers.config import ConfigDriver
from rfs.production.rollback.drivers.reload import parse_reload
from rfs.production.rollback.errors import InterruptedByUserError, RollbackError
from rfs.production.rollback.model import Capture
from rfs.testing import MemoryStore, component

SERVICE = """
import signal, sys, os
def told(number, frame):
    print(signal.Signals(number).name, flush=True)
signal.signal(signal.SIGHUP, told); signal.signal(signal.SIGUSR1, told)
open(sys.argv[1], "w").write(f"{os.getpid()}\\n")
print("ready", flush=True)
while True:
    signal.pause()
"""


class App:
    """A configuration file whose reload is tried."""

    def __init__(self, home: Path) -> None:
        self.home, self.driver, self.store = home, ConfigDriver(), MemoryStore()
        (home / "settings.toml").write_text("port = 1\n")
        c = component("config", home, path="settings.toml")
        self.want: Capture = self.driver.capture(c, self.store, None)

    def reload(self, how: str | list[str], timeout: str = "5s") -> None:
        c = component("config", self.home, path="settings.toml", reload=how, reload_timeout=timeout)
        self.driver.start(c, self.store, self.want)

    def fails(self, how: str | list[str], timeout: str = "5s") -> str:
        with pytest.raises(RollbackError) as caught:
            self.reload(how, timeout)
        assert caught.value.key == "reload.failed"
        return f"{caught.value} {caught.value.hint}"


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path)


class Server:
    def __init__(self, status: int, port: int = 0) -> None:
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.append((self.command, self.path))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_PUT(self) -> None:
                self.do_POST()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = HTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service(app: App) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SERVICE, str(app.home / "run.pid")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_nothing_is_done_unless_asked_for(app: App) -> None:
    c = component("config", app.home, path="settings.toml")
    app.driver.start(c, app.store, app.want)


def test_http(app: App) -> None:
    server = Server(204)
    app.reload(f"http POST http://127.0.0.1:{server.port}/-/reload?now=1")
    app.reload(f"  http   PUT  http://127.0.0.1:{server.port}/ ")
    server.close()
    assert server.asked == [("POST", "/-/reload?now=1"), ("PUT", "/")]


def test_http_that_refuses(app: App) -> None:
    server = Server(500)
    text = app.fails(f"http POST http://me:hunter2@127.0.0.1:{server.port}/-/reload?token=hunter2")
    server.close()
    assert "it answered with status 500" in text
    assert f"POST http://127.0.0.1:{server.port}/-/reload" in text
    assert "hunter2" not in text
    assert len(server.asked) == 1


def test_a_service_that_comes_up_late_is_waited_for(app: App) -> None:
    late = Server(200)
    port = late.port
    late.close()
    servers: list[Server] = []
    asked = threading.Event()
    really = app.store.tick

    def come_up(items: int = 0, size: int = 0) -> None:
        really(items, size)
        if not servers:
            servers.append(Server(200, port))
            asked.set()

    app.store.tick = come_up
    app.reload(f"http POST http://127.0.0.1:{port}/")
    assert asked.is_set()
    servers[0].close()
    assert servers[0].asked == [("POST", "/")]


def test_a_service_that_never_comes_up(app: App) -> None:
    gone = Server(200)
    gone.close()
    began = time.monotonic()
    assert "connection refused" in app.fails(f"http POST http://127.0.0.1:{gone.port}/", "200ms")
    assert time.monotonic() - began < 3


def test_waiting_can_be_stopped(app: App) -> None:
    def stop(items: int = 0, size: int = 0) -> None:
        raise InterruptedByUserError("interrupted")

    app.store.tick = stop
    with pytest.raises(InterruptedByUserError):
        app.reload("signal HUP pidfile:nowhere.pid")


@pytest.mark.parametrize("word", ["HUP", "SIGHUP", "USR1"])
def test_signal(app: App, service: subprocess.Popen[str], word: str) -> None:
    app.reload(f"signal {word} pidfile:run.pid")
    assert service.stdout
    assert service.stdout.readline() == f"SIG{word.removeprefix('SIG')}\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "no pid file"), ("", "no process number"), ("many", "no process number"), ("99999999", "is gone")],
)
def test_signal_to_nobody(app: App, content: str | None, why: str) -> None:
    if content is not None:
        (app.home / "run.pid").write_text(content)
    assert why in app.fails("signal HUP pidfile:run.pid", "100ms")


@pytest.mark.parametrize("content", ["0", "1", "-1"])
def test_signal_to_everybody_is_refused(app: App, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda pid, number: pytest.fail("somebody was signalled"))
    (app.home / "run.pid").write_text(content)
    assert "which is no service" in app.fails("signal HUP pidfile:run.pid")


def test_a_number_that_was_given_to_somebody_else_is_not_signalled(
    app: App, service: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda pid, number: pytest.fail("a stranger was signalled"))
    os.utime(app.home / "run.pid", (1, 1))
    assert "is gone" in app.fails("signal HUP pidfile:run.pid", "100ms")
    assert service.poll() is None


def test_command(app: App) -> None:
    app.reload([sys.executable, "-c", "open('reloaded', 'w').write('yes')"])
    assert (app.home / "reloaded").read_text() == "yes"


def test_commands_that_fail(app: App) -> None:
    script = "import sys; print('hunter2'); sys.exit(3)"
    text = app.fails([sys.executable, "-c", script, "--token=hunter2"])
    assert "ended with status 3" in text
    assert "hunter2" not in text
    assert "did not end within" in app.fails([sys.executable, "-c", "import time; time.sleep(60)"], "200ms")
    assert "could not be started" in app.fails(["no-such-program", "hunter2"])


@pytest.mark.parametrize("given", ["", "http", "http POST", "HUP", "signal HUP", "signal TERM pidfile:x", [], [""]])
def test_what_is_no_reload(given: str | list[str]) -> None:
    with pytest.raises(ValueError, match=r"write|program"):
        parse_reload(given)
