"""A small application under a real supervisord, that the tests checkpoint, break and roll back.

Its writer appends numbered lines to a file and rows to SQLite and acknowledges each in a
file that no component holds. Its health check fails while `sick` exists and the code is of
the version written in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rfs.production.rollback.application import Application

WRITER = """
import os, sqlite3, sys, time
home = sys.argv[1]
db = sqlite3.connect(home + "/shop.db", isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA synchronous=FULL")
lines = os.open(home + "/tree/lines.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
acks = os.open(home + "/acks", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
number = db.execute("SELECT coalesce(max(n), 0) FROM orders").fetchone()[0]
while True:
    number += 1
    os.write(lines, b"%d\\n" % number)
    db.execute("INSERT INTO orders (n) VALUES (?)", (number,))
    os.write(acks, b"%d\\n" % number)
    time.sleep(0.002)  # a load, not a benchmark
"""

HEALTH = """
import os, sys
home = sys.argv[1]
version = open(home + "/tree/code.txt").read().strip()
sick = open(home + "/sick").read().split() if os.path.exists(home + "/sick") else []
sys.exit(version in sick)
"""

CONFIG = """
[app]
name = "stack"
[components.tree]
kind = "files"
path = "tree"
exclude = ["*.tmp"]
[components.settings]
kind = "config"
path = "settings.toml"
[components.env]
kind = "environment"
path = "stack.env"
[components.db]
kind = "sqlite"
path = "shop.db"
depends_on = ["tree"]
[components.writer]
kind = "service"
manager = "supervisor"
config = "supervisord.conf"
units = ["writer"]
[store]
key = "file:{home}/key"
[[health]]
name = "version"
command = ["{python}", "{home}/health.py", "{home}"]
retries = 0
"""

SUPERVISORD = """
[supervisord]
nodaemon = true
logfile = {home}/supervisord.log
childlogdir = {home}
pidfile = {home}/supervisord.pid
[unix_http_server]
file = {home}/s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{home}/s.sock
[program:writer]
command = {python} {home}/writer.py {home}
autostart = true
startsecs = 0
stdout_logfile = {home}/writer.log
redirect_stderr = true
"""


class Stack:
    """Everything in a short folder of its own: the path of a unix socket must be short."""

    config = CONFIG
    supervisord_conf = SUPERVISORD

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="rfs", dir="/tmp"))
        facts = {"home": self.home, "python": sys.executable}
        (self.home / "tree").mkdir()
        (self.home / "tree" / "code.txt").write_text("v1\n")
        (self.home / "tree" / "static").mkdir()
        (self.home / "tree" / "static" / "a.css").write_text("a {}\n")
        (self.home / "settings.toml").write_text("# the shop\ntitle = 'Shop'\n")
        (self.home / "stack.env").write_text("TOKEN=one\n")
        (self.home / "writer.py").write_text(WRITER)
        (self.home / "health.py").write_text(HEALTH)
        (self.home / "rfs.toml").write_text(self.config.format(**facts))
        (self.home / "supervisord.conf").write_text(self.supervisord_conf.format(**facts))
        self.prepare()
        db = sqlite3.connect(self.home / "shop.db")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE orders (n INTEGER PRIMARY KEY)")
        db.commit()
        db.close()
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.home / "supervisord.conf")]
        self.log = open(self.home / "out", "wb")  # noqa: SIM115  # closed with the stack
        self.supervisord = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        try:
            self.wait_for(lambda: self.acked > 3, "the writer to write")
            Application.create(str(self.home / "rfs.toml")).close()
        except BaseException:  # whatever it is, nothing may stay running
            self.close()
            raise

    def prepare(self) -> None:
        """Add to the folder, before anything is started."""

    def open(self) -> Application:
        return Application.open(str(self.home / "rfs.toml"))

    def deploy_v2(self) -> None:
        """Change everything that a deployment changes."""
        (self.home / "tree" / "code.txt").write_text("v2\n")
        (self.home / "tree" / "new.txt").write_text("only in v2\n")
        (self.home / "tree" / "static" / "a.css").unlink()
        (self.home / "settings.toml").write_text("# the shop\ntitle = 'Shop 2'\ndebug = true\n")
        (self.home / "stack.env").write_text("TOKEN=two\n")

    @property
    def version(self) -> str:
        return (self.home / "tree" / "code.txt").read_text().strip()

    @property
    def acked(self) -> int:
        """The last number that the writer acknowledged; 0 before the first."""
        try:
            lines = (self.home / "acks").read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return 0
        return int(lines[-1]) if lines else 0

    def lines(self) -> list[int]:
        return [int(line) for line in (self.home / "tree" / "lines.txt").read_text().split()]

    def rows(self) -> list[int]:
        db = sqlite3.connect(self.home / "shop.db")
        try:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return [n for (n,) in db.execute("SELECT n FROM orders ORDER BY n")]
        finally:
            db.close()

    def sick(self, *versions: str) -> None:
        (self.home / "sick").write_text(" ".join(versions))

    def wait_for(self, happened: object, what: str, seconds: float = 20) -> None:
        """Wait until `happened()`: what is waited for is a file, and the writer needs no library of ours."""
        end = time.monotonic() + seconds
        while not happened():
            assert self.supervisord.poll() is None, (self.home / "out").read_text()
            assert time.monotonic() < end, f"waited in vain for {what}"
            time.sleep(0.01)

    def close(self) -> None:
        self.supervisord.terminate()
        end = time.monotonic() + 20
        while self.supervisord.poll() is None and time.monotonic() < end:  # else it is among those that are left
            # It looks for signals and ended children once a second, and whenever somebody connects.
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
                caller.connect(f"{self.home}/s.sock")
            time.sleep(0.02)  # it tells nobody but its parent, and us only when asked
        self.log.close()
        found = subprocess.run(["pgrep", "-f", str(self.home)], capture_output=True, text=True, check=False).stdout
        left = [int(pid) for pid in found.split()]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.supervisord.wait(20)
        shutil.rmtree(self.home)
        assert not left, f"processes left behind: {left}"


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """What an independent eye sees of a tree: type, mode, owner, time and content of each path."""
    seen: dict[str, tuple[object, ...]] = {}
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            state = os.lstat(path)
            content = Path(path).read_bytes() if os.path.isfile(path) and not os.path.islink(path) else b""
            seen[os.path.relpath(path, folder)] = (
                state.st_mode, state.st_uid, state.st_gid, state.st_mtime_ns, content,
            )  # fmt: skip
    return seen
