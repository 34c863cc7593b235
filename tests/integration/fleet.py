"""Several instances of a small web application under a real supervisord, with a real HAProxy before them if wanted."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_app import CommandLine
from waiting import until

HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="this machine has no HAProxy (Debian: haproxy)")

# What it answers it read when it was started: what runs is what is asked. A request takes its time.
_WEB = """\
import http.server, os, sys, time
home, name = sys.argv[1:]
version = open(f"{home}/apps/{name}/code.txt").read().strip()

class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        sick = open(f"{home}/sick").read().split() if os.path.exists(f"{home}/sick") else []
        ill = f"{version}@{name}" in sick
        if self.path == "/":
            time.sleep(0.02)
        body = version.encode()
        self.send_response(500 if ill and self.path == "/health" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer.request_queue_size = 100
http.server.ThreadingHTTPServer(("127.0.0.1", int(name)), Web).serve_forever()
"""

_TOML = """\
[app]
name = "fleet"
[instances]
names = {names}
{instances}
[components.code]
kind = "files"
path = "apps/{{instance}}"
[components.settings]
kind = "config"
path = "settings.toml"
[components.web]
kind = "service"
manager = "supervisor"
url = "unix://{home}/s.sock"
units = ["{{instance}}"]
depends_on = ["code"]
[store]
key = "file:key"
[[health]]
name = "http"
http = "http://127.0.0.1:{{instance}}/health"
retries = 60
interval = "50ms"
"""

_SUPERVISORD = """\
[supervisord]
nodaemon = true
logfile = {home}/supervisord.log
childlogdir = {home}
pidfile = {home}/supervisord.pid
[unix_http_server]
file = {home}/s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """\
[program:{name}]
command = {python} {home}/web.py {home} {name}
startsecs = 0
stdout_logfile = {home}/{name}.log
redirect_stderr = true
"""

_HAPROXY = """\
global
    stats socket {home}/h.sock mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
    retries 0
frontend all
    bind 127.0.0.1:{port}
    default_backend web
backend web
    balance roundrobin
"""

TRAFFIC = """\
[instances.traffic]
haproxy = "h.sock"
backend = "web"
drain = "20s"
"""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


class Fleet(CommandLine):
    """In a short folder of its own: the path of a unix socket must be short. Each instance is called after its port."""

    def __init__(self, capsys: pytest.CaptureFixture[str], count: int, instances: str = "") -> None:
        self._capsys = capsys
        self.home = Path(tempfile.mkdtemp(prefix="rfs", dir="/tmp"))
        *ports, self.front = sorted(free_ports(count + 1))
        self.names = [str(port) for port in ports]
        self._processes: list[subprocess.Popen[bytes]] = []
        facts: dict[str, Any] = {"home": self.home, "python": sys.executable}
        (self.home / "web.py").write_text(_WEB)
        (self.home / "settings.toml").write_text("title = 'Shop'\n")
        programs = [_PROGRAM.format(name=name, **facts) for name in self.names]
        (self.home / "supervisord.conf").write_text(_SUPERVISORD.format(**facts) + "".join(programs))
        self.configure(instances)
        for name in self.names:
            (self.home / "apps" / name).mkdir(parents=True)
        self.write("v1")
        try:
            self._start(sys.executable, "-m", "supervisor.supervisord", "-c", str(self.home / "supervisord.conf"))
            until(lambda: self.running() == dict.fromkeys(self.names, "v1"))
        except BaseException:  # whatever it is, nothing may stay running
            self.close()
            raise

    def configure(self, instances: str) -> None:
        """Write rfs.toml, with more keys of [instances]."""
        names = "[" + ", ".join(f'"{name}"' for name in self.names) + "]"
        text = _TOML.format(names=names, instances=instances, home=self.home)
        (self.home / "rfs.new").write_text(text)
        (self.home / "rfs.new").rename(self.home / "rfs.toml")

    def write(self, version: str, *names: str) -> None:
        """Put a version of the code there, without starting it."""
        for name in names or self.names:
            (self.home / "apps" / name / "code.txt").write_text(f"{version}\n")

    def deploy(self, version: str) -> None:
        """Put a version of the code there, and start it."""
        self.write(version)
        for name in self.names:
            (pid,) = self._pids(name)
            os.kill(pid, signal.SIGKILL)  # supervisord starts it again
        until(lambda: self.running() == dict.fromkeys(self.names, version))

    def _pids(self, name: str) -> list[int]:
        found = subprocess.run(
            ["pgrep", "-f", f"web.py {self.home} {name}$"], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]

    def pids(self) -> dict[str, list[int]]:
        """Return the processes of each instance."""
        return {name: self._pids(name) for name in self.names}

    def running(self) -> dict[str, str]:
        """Return which version each instance answers with; "" where none does."""
        return {name: _ask(int(name), "/version") for name in self.names}

    def code(self) -> dict[str, str]:
        """Return which version of the code lies there for each instance."""
        return {name: (self.home / "apps" / name / "code.txt").read_text().strip() for name in self.names}

    def sick(self, version: str, *names: str) -> None:
        """Have these instances be ill with a version."""
        (self.home / "sick").write_text(" ".join(f"{version}@{name}" for name in names))

    def balance(self) -> None:
        """Start HAProxy before them."""
        servers = "".join(f"    server {name} 127.0.0.1:{name}\n" for name in self.names)
        text = _HAPROXY.format(home=self.home, port=self.front) + servers
        (self.home / "haproxy.cfg").write_text(text)
        assert HAPROXY is not None
        self._start(HAPROXY, "-db", "-f", str(self.home / "haproxy.cfg"))
        until(lambda: _ask(self.front, "/version"))

    def states(self) -> dict[str, str]:
        """Return what HAProxy holds each instance for."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.home / "h.sock"))
            sock.sendall(b"show stat\n")
            rows = b"".join(iter(lambda: sock.recv(65536), b"")).decode().splitlines()
        cells = [row.split(",") for row in rows if row.startswith("web,")]
        return {row[1]: row[17] for row in cells if row[1] in self.names}

    @contextmanager
    def load(self) -> Iterator[list[str]]:
        """Ask through HAProxy all the while; yields what went wrong, and what was answered as `answers`."""
        failures: list[str] = []
        self.answers: list[str] = []
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                try:
                    self.answers.append(_get(self.front, "/"))
                except (OSError, http.client.HTTPException, ValueError) as error:
                    failures.append(repr(error))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield failures
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _start(self, *command: str) -> None:
        with (self.home / "out").open("ab") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            deadline = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < deadline:
                # supervisord looks for signals once a second, and whenever somebody connects.
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
                    caller.connect(f"{self.home}/s.sock")
                time.sleep(0.02)  # it tells nobody but its parent, and us only when asked
        found = subprocess.run(["pgrep", "-f", str(self.home)], capture_output=True, text=True, check=False).stdout
        left = [int(pid) for pid in found.split()]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.home)
        assert not left, f"processes left behind: {left}"


def _ask(port: int, path: str) -> str:
    try:
        return _get(port, path)
    except (OSError, http.client.HTTPException, ValueError):
        return ""


def _get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise ValueError(answer.status)
        return body
    finally:
        connection.close()


# Kills itself with -9 at a commit of the catalog: before it, or just after it.
_KILLED = """\
import os, sys
from rfs.cli.main import main
from rfs.production.rollback.catalog import Catalog
at, after = int(sys.argv[1]), sys.argv[2] == "after"
real, count = Catalog._change, 0

def change(self, *arguments, **named):
    global count
    count += 1
    if count == at and not after:
        os.kill(os.getpid(), 9)
    found = real(self, *arguments, **named)
    if count == at:
        os.kill(os.getpid(), 9)
    return found

Catalog._change = change
sys.exit(main(sys.argv[3:]))
"""


def killed_at(fleet: Fleet, at: int, *words: str, after: bool = False) -> int:
    """Run a command that kills itself at a commit of the catalog; return how it ended."""
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(at), "after" if after else "before", *words],
        cwd=fleet.home,
        capture_output=True,
        check=False,
    )
    return done.returncode
