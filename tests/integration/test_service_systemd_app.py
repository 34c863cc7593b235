"""A small application under a real systemd, through the command line: deployed, rolled back, broken, recovered."""

from __future__ import annotations

import os
import sqlite3
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_app import App
from systemd_host import UNITS, prop, raze, systemctl, write_unit
from waiting import until

from rfs.cli.main import main
from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.service import systemd
from rfs.production.rollback.model import OperationStatus
from rfs.production.rollback.plan import Action

pytestmark = [pytest.mark.inside_systemd, pytest.mark.slow]

# It tells over HTTP which version it is and what its environment says, and writes that into its database all the time.
SERVER = """
import http.server, os, socket, sqlite3, sys, threading, time
version, home = 1, sys.argv[1]
said = f"{version} {os.environ['GREETING']} {sys.argv[2]}"
db = sqlite3.connect(home + "/shop.db", isolation_level=None, check_same_thread=False)
def write():
    while True:
        db.execute("INSERT INTO orders (said) VALUES (?)", (said,))
        time.sleep(0.005)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500 if "sick" in said else 200)
        self.end_headers()
        self.wfile.write(said.encode())
    def log_message(self, *_): pass
http.server.HTTPServer.allow_reuse_address = True
server = http.server.HTTPServer(("127.0.0.1", 8000), Handler)
threading.Thread(target=write, daemon=True).start()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
    ready.connect(os.environ["NOTIFY_SOCKET"])
    ready.send(b"READY=1")
server.serve_forever()
"""
# With 3 when the shop wrote once more between plan and stop, which is told as a warning.
DONE = (0, 3)
HEALTH = '\n[[health]]\nname = "http"\nhttp = "http://127.0.0.1:8000/"\nretries = 3\ninterval = "100ms"\n'


class Shop:
    """Args: folder: an empty one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "shop"
        self.home.mkdir()
        self.env = folder / "shop.env"
        with sqlite3.connect(self.home / "shop.db") as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE orders (n INTEGER PRIMARY KEY, said TEXT)")
        db.close()
        self.deploy(1)
        systemctl("enable", "shop")
        systemctl("start", "shop")

    def deploy(self, version: int) -> None:
        """Write a version of everything, without starting anything."""
        (self.home / "server.py").write_text(SERVER.replace("version, home = 1", f"version, home = {version}"))
        self.env.write_text(f"GREETING=hello{version}\nPASSWORD=hunter{version}\n")
        text = f"[Unit]\nDescription=The shop\n[Service]\nType=notify\nRestart=always\nEnvironmentFile={self.env}\n"
        text += f"ExecStart={sys.executable} {self.home}/server.py {self.home} unit{version}\n"
        write_unit("shop.service", text + "[Install]\nWantedBy=rfs-test.target\n")

    def switch(self, version: int) -> None:
        """Deploy a version and let it run."""
        self.deploy(version)
        systemctl("daemon-reload")
        systemctl("restart", "shop")

    def says(self) -> str:
        with urllib.request.urlopen("http://127.0.0.1:8000/", timeout=5) as answer:
            return answer.read().decode()

    def orders(self) -> list[str]:
        """The different things that were written."""
        with sqlite3.connect(self.home / "shop.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            found = [said for (said,) in db.execute("SELECT DISTINCT said FROM orders ORDER BY said")]
        db.close()
        return found

    def open(self) -> Application:
        return Application.open(str(self.home / "rfs.toml"))


@pytest.fixture(autouse=True)
def razed(systemd_host: Any) -> Iterator[None]:
    yield
    systemd_host.call(raze)


@pytest.fixture
def shell(tmp_path: Path, bare: App, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setattr(systemd, "_STEADY_SECONDS", 0.05)
    monkeypatch.setattr("rfs.production.rollback.draft.store_path", lambda found: ".rfs")
    return bare


def begin(shell: App, tmp_path: Path) -> Shop:
    """A shop at version 1 with a checkpoint of it, made with what `rfs init` wrote."""
    shop = Shop(tmp_path)
    os.chdir(shop.home)
    assert shell.rfs("init").code == 0
    text = (shop.home / "rfs.toml").read_text()
    assert 'manager = "systemd"\nunits = ["shop"]\n' in text
    (shop.home / "rfs.toml").write_text(text + HEALTH)
    assert shell.rfs("doctor").code == 0
    until(shop.orders)
    assert shell.rfs("checkpoint", "-m", "one").code == 0
    return shop


def test_a_deployment_is_rolled_back_and_that_is_undone(shell: App, tmp_path: Path) -> None:
    shop = begin(shell, tmp_path)
    unit = (UNITS / "shop.service").stat()
    shop.switch(2)
    systemctl("disable", "shop")
    (UNITS / "shop.service.d").mkdir()
    write_unit("shop.service.d/more.conf", "[Service]\nTasksMax=30\n")
    systemctl("daemon-reload")
    until(lambda: "2 hello2 unit2" in shop.orders())
    said = shell.rfs("plan", "@latest").out
    assert "shop.service" in said
    assert "hunter" not in said
    rolled = shell.rfs("rollback", "@latest", "--yes", "--reason", "test")
    assert rolled.code in DONE, rolled
    assert shop.says() == "1 hello1 unit1"
    assert shop.orders() == ["1 hello1 unit1"]
    assert (UNITS / "shop.service").stat().st_mtime_ns == unit.st_mtime_ns
    assert prop("shop", "UnitFileState") == "enabled"
    assert shell.rfs("status").code == 0
    undone = shell.rfs("undo", "--yes")
    assert undone.code in DONE, undone
    assert (shop.says(), prop("shop", "UnitFileState"), prop("shop", "TasksMax")) == (
        "2 hello2 unit2",
        "disabled",
        "30",
    )


@pytest.mark.slow
def test_a_service_that_does_not_start_turns_it_back(shell: App, tmp_path: Path) -> None:
    shop = begin(shell, tmp_path)
    with shop.open() as app:
        (shop.home / "server.py").write_text("print('no such thing'); raise SystemExit(7)")
        app.checkpoint()
    shop.switch(2)
    until(lambda: "2 hello2 unit2" in shop.orders())
    rolled = shell.rfs("rollback", "@latest", "--yes", "--reason", "test")
    assert rolled.code == 30, rolled
    assert "status 7; its last words were: no such thing" in rolled.err
    assert "hunter" not in rolled.out + rolled.err
    assert shop.says() == "2 hello2 unit2"
    assert "2 hello2 unit2" in shop.orders()


@pytest.mark.slow
def test_a_sick_service_turns_it_back_too(shell: App, tmp_path: Path) -> None:
    shop = begin(shell, tmp_path)
    with shop.open() as app:
        shop.env.write_text("GREETING=sick\n")
        app.checkpoint()
    shop.switch(2)
    rolled = shell.rfs("rollback", "@latest", "--yes", "--reason", "test")
    assert rolled.code == 30, rolled
    assert shop.says() == "2 hello2 unit2"
    assert "sick" not in " ".join(shop.orders()), "what the sick one wrote is gone with it"


@pytest.mark.parametrize("action", [Action.DELTA, pytest.param(Action.VERIFY, marks=pytest.mark.slow)])
def test_a_rollback_that_was_killed_is_recovered_though_the_service_came_back(
    shell: App, tmp_path: Path, action: Action
) -> None:
    shop = begin(shell, tmp_path)
    shop.switch(2)
    until(lambda: "2 hello2 unit2" in shop.orders())
    child = os.fork()
    if child == 0:
        with shop.open() as app:
            app.engine.steps[action] = lambda *_: os.kill(os.getpid(), 9)
            app.rollback("@latest")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert prop("shop", "ActiveState") == "inactive"
    systemctl("daemon-reload")  # as a boot does: it reads the units, and starts those that are enabled
    systemctl("start", "shop")
    recovered = shell.rfs("recover")
    assert recovered.code in DONE, recovered
    assert shop.says() == "1 hello1 unit1"
    assert shop.orders() == ["1 hello1 unit1"]
    with shop.open() as app:
        assert [each.status for each in app.catalog.operations()] == [OperationStatus.COMPLETED]
    assert main(["recover"]) == 0
