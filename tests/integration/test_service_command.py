"""ServiceDriver with plain commands, against real background processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rfs.production.rollback.drivers.service import ServiceDriver
from rfs.production.rollback.drivers.service.driver import _manager
from rfs.production.rollback.errors import RollbackError
from rfs.testing import MemoryStore, component

# A small init script: start, stop and status of one program in the background.
CONTROL = """\
import os, signal, subprocess, sys, time
action, unit, program = sys.argv[1], sys.argv[2], sys.argv[3:]
pidfile = unit + ".pid"
def pid():
    try:
        found = int(open(pidfile).read())
        state = open(f"/proc/{found}/stat").read().rpartition(")")[2].split()[0]
        return found if state not in "ZX" else None
    except (OSError, ValueError):
        return None
open(unit + ".calls", "a").write(action + "\\n")
if action == "start":
    child = subprocess.Popen(program, start_new_session=True)
    open(pidfile, "w").write(str(child.pid))
    print("started", unit)
elif action == "stop":
    if pid():
        os.kill(pid(), signal.SIGTERM)
elif action == "status":
    sys.exit(0 if pid() else 3)
"""


class House:
    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix="rfs-"))
        (self.home / "control.py").write_text(CONTROL)
        self.driver = ServiceDriver()
        self.store = MemoryStore()

    def part(self, *program, **options):
        control = [sys.executable, "control.py"]
        commands = {action: [*control, action, "{unit}"] for action in ("start", "stop", "status")}
        commands["start"] += program or ["sleep", "1000"]
        return component("service", self.home, name="web", manager="command", **{**commands, **options})

    def calls(self, unit="web"):
        path = self.home / f"{unit}.calls"
        found = path.read_text().split() if path.exists() else []
        return [call for call in found if call != "status"]

    def pid(self, unit="web"):
        return int((self.home / f"{unit}.pid").read_text())

    def processes(self):
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "cwd") == str(self.home):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


@pytest.fixture
def house():
    house = House()
    yield house
    left = house.processes()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while house.processes() and time.monotonic() < end:
        time.sleep(0.01)
    assert house.processes() == []
    shutil.rmtree(house.home)


def started(house, c, *units):
    running = house.driver.capture(c, house.store, None)
    assert not running.warnings
    _manager(c).start(units or ("web",), house.store)
    return house.driver.capture(c, house.store, None)


def test_what_ran_is_stopped_and_started_again(house):
    c = house.part()
    capture = started(house, c)
    first = house.pid()
    assert house.driver.fingerprint(c, rehash=True) == capture.fingerprint
    house.driver.stop(c, house.store)
    assert house.processes() == []
    assert house.driver.fingerprint(c, rehash=True) != capture.fingerprint
    assert house.driver.verify(c, house.store, capture) == []
    assert [(x.key, x.before.label, x.after.label) for x in house.driver.changes(c, house.store, capture, None)] == [
        ("web", "running", "stopped")
    ]
    assert house.driver.restore(c, house.store, capture).changed == 0
    house.driver.start(c, house.store, capture)
    assert house.driver.fingerprint(c, rehash=True) == capture.fingerprint
    assert house.pid() != first


def test_stop_and_start_do_nothing_that_is_done(house):
    c = house.part()
    capture = started(house, c)
    house.driver.start(c, house.store, capture)
    assert house.calls() == ["start"]
    house.driver.stop(c, house.store)
    house.driver.stop(c, house.store)
    assert house.calls() == ["start", "stop"]


def test_several_units_share_the_commands(house):
    c = house.part(units=["web", "worker"])
    capture = started(house, c, "worker")
    house.driver.stop(c, house.store)
    house.driver.start(c, house.store, capture)
    assert house.calls("worker") == ["start", "stop", "start"]
    assert house.calls("web") == []


def test_a_unit_that_was_stopped_is_stopped_at_the_end(house):
    c = house.part()
    capture = house.driver.capture(c, house.store, None)
    started(house, c)
    house.driver.start(c, house.store, capture)
    assert house.processes() == []


def test_a_unit_that_does_not_stop_is_an_error(house):
    c = house.part(stop=["sh", "-c", "echo no; exit 4"], stop_timeout="300ms")
    started(house, c)
    with pytest.raises(RollbackError, match="status 4: no") as raised:
        house.driver.stop(c, house.store)
    assert raised.value.key == "service.no_stop"


def test_a_stop_command_that_hangs_is_an_error(house):
    c = house.part(stop=["sleep", "1000"], stop_timeout="300ms")
    started(house, c)
    with pytest.raises(RollbackError, match="stop command did not end") as raised:
        house.driver.stop(c, house.store)
    assert raised.value.key == "service.no_stop"


def test_with_a_pidfile_children_are_ended_too(house):
    c = house.part("sh", "-c", "sleep 1000 & sleep 1001", pidfile="{unit}.pid", stop_timeout=5)
    started(house, c)
    end = time.monotonic() + 5
    while len(house.processes()) < 3:
        assert time.monotonic() < end
    house.driver.stop(c, house.store)
    assert house.processes() == []


def test_a_start_command_that_fails_is_an_error_with_its_output(house):
    c = house.part()
    capture = started(house, c)
    house.driver.stop(c, house.store)
    broken = house.part(start=["sh", "-c", "echo no such database; exit 5"])
    with pytest.raises(RollbackError, match="status 5") as raised:
        house.driver.start(broken, house.store, capture)
    assert raised.value.key == "service.no_start"
    log = raised.value.fields["log"]
    assert "no such database" in Path(log).read_text()


def test_a_start_command_that_stays_in_the_foreground_is_an_error(house):
    c = house.part()
    capture = started(house, c)
    house.driver.stop(c, house.store)
    with pytest.raises(RollbackError, match="in the background") as raised:
        house.driver.start(house.part(start=["sleep", "1000"], start_timeout="300ms"), house.store, capture)
    assert raised.value.key == "service.no_start"
    assert house.processes() == []


def test_a_unit_that_ends_at_once_is_an_error(house):
    c = house.part()
    capture = started(house, c)
    house.driver.stop(c, house.store)
    with pytest.raises(RollbackError, match="does not run") as raised:
        house.driver.start(house.part("true", start_timeout="500ms"), house.store, capture)
    assert raised.value.key == "service.no_start"


def test_a_unit_may_go_on_writing_to_the_output_of_its_start(house):
    """With a pipe that we close, its next line would end it."""
    c = house.part("sh", "-c", "while :; do echo line; sleep 0.02; done")
    started(house, c)
    pid = house.pid()
    log = next((house.home / ".work" / "web").glob("start-*.log"))
    size = log.stat().st_size
    end = time.monotonic() + 5
    while log.stat().st_size <= size + 20:
        assert time.monotonic() < end
    os.kill(pid, 0)
    house.driver.stop(c, house.store)


def test_doctor_tries_the_status_command(house):
    assert list(house.driver.examine(house.part())) == []
    (odd,) = house.driver.examine(house.part(status=["sh", "-c", "exit 127"]))
    assert (odd.level, "127" in odd.text) == ("warning", True)
    (missing,) = house.driver.examine(house.part(status=["/no/such/program"]))
    assert (missing.level, "/no/such/program" in missing.text) == ("error", True)


def test_a_caller_is_known_by_the_pidfile(house):
    c = house.part(pidfile="{unit}.pid")
    (house.home / "web.pid").write_text(str(os.getppid()))
    assert house.driver.contains_caller(c)
    (house.home / "web.pid").write_text("999999999")
    assert not house.driver.contains_caller(c)
    assert not house.driver.contains_caller(house.part())
