"""ServiceDriver against a real systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from systemd_host import UNITS, prop, raze, systemctl, write_unit
from waiting import until

from rfs.production.rollback.drivers.service import ServiceDriver, systemd, systemd_call
from rfs.production.rollback.drivers.service.systemd_files import UnitFiles
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.model import Capture
from rfs.testing import MemoryStore, component

pytestmark = pytest.mark.inside_systemd
SLEEP = "[Service]\nType=exec\nExecStart=sleep 1000\n"
INSTALL = "[Install]\nWantedBy=rfs-test.target\n"


class House:
    """An application's folder, and units of systemd."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.driver = ServiceDriver()
        self.store = MemoryStore()

    def part(self, *units: str, **options: Any):
        return component("service", self.home, name="web", manager="systemd", units=list(units), **options)

    def up(self, *units: str) -> None:
        systemctl("daemon-reload")
        systemctl("start", *units)

    def ready(self, *units: str, **options: Any):
        """Start units; return their component and a capture of that."""
        self.up(*units)
        c = self.part(*units, **options)
        return c, self.capture(c)

    def capture(self, c) -> Capture:
        return self.driver.capture(c, self.store, None)

    def bring(self, c, want: Capture) -> None:
        self.driver.stop(c, self.store)
        self.driver.restore(c, self.store, want)
        assert self.driver.verify(c, self.store, want) == []
        self.driver.start(c, self.store, want)
        self.driver.release(c)

    def changes(self, c, a: Capture, b: Capture | None = None) -> dict[str, tuple[str, str]]:
        found = self.driver.changes(c, self.store, a, b)
        return {each.key: tuple(side.label if side else "" for side in (each.before, each.after)) for each in found}

    def findings(self, c) -> list[tuple[str, str, str]]:
        return [(each.level, each.text, each.hint) for each in self.driver.examine(c)]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture(autouse=True)
def razed(systemd_host, monkeypatch) -> Any:
    for name, seconds in (("_STEADY_SECONDS", 0.05), ("_STABLE_SECONDS", 1.0), ("_SETTLE_SECONDS", 1.2)):
        monkeypatch.setattr(systemd, name, seconds)
    yield
    systemd_host.call(raze)


def active(*units: str) -> list[str]:
    return [prop(unit, "ActiveState") for unit in units]


def argv(unit: str) -> str:
    return Path(f"/proc/{prop(unit, 'MainPID')}/cmdline").read_text().replace("\0", " ").strip()


def refused(key: str, call: Callable[[], object]) -> RollbackError:
    with pytest.raises(RollbackError) as raised:
        call()
    assert raised.value.key == key, raised.value
    return raised.value


# — capture —


def test_a_capture_holds_files_links_and_what_runs(house):
    (house.home / "web.env").write_text("PASSWORD=hunter2\n")
    unit = write_unit("web.service", SLEEP + f"EnvironmentFile={house.home}/web.env\n" + INSTALL)
    limits = write_unit("web.service.d/limits.conf", "[Service]\nTasksMax=20\n")
    write_unit("job.service", "[Service]\nType=oneshot\nExecStart=true\n")
    systemctl("enable", "web")
    c, capture = house.ready("web", "job")
    assert capture.warnings == ()
    assert capture.fingerprint == house.driver.fingerprint(c, rehash=True)
    blobs = house.store.blobs.values()
    assert {unit.read_bytes(), limits.read_bytes(), b"PASSWORD=hunter2\n", os.fsencode(unit)} <= set(blobs)
    assert house.driver.owns(c) == tuple(
        sorted(map(str, (unit, limits, UNITS / "job.service", UNITS / "rfs-test.target.wants/web.service")))
    )
    systemctl("stop", "web")
    systemctl("disable", "web")
    link = str(UNITS / "rfs-test.target.wants/web.service")
    assert house.changes(c, capture) == {
        "web.service": ("running, enabled", "stopped, disabled"),
        link: ("link", ""),
    }
    assert house.driver.fingerprint(c, rehash=True) != capture.fingerprint


def test_the_files_are_those_that_systemd_reads(house):
    write_unit("a-b@.service", SLEEP)
    write_unit("c.service", SLEEP + "[Install]\nAlias=d.service\n")
    folders = ("a-b@.service", "a-b@1.service", "a-.service", "a-@.service", "a-@1.service", "c.service", "d.service")
    for folder in (*folders, "a-b.service", "service"):
        write_unit(f"{folder}.d/{folder}.conf", "[Unit]\n")
    systemctl("enable", "c")
    disk = UnitFiles(prop(None, "UnitPath").split(), user=False)
    for unit in ("a-b@1.service", "c.service", "d.service"):
        places = disk.places([unit])
        read = {prop(unit, "FragmentPath"), *prop(unit, "DropInPaths").split()}
        # What is for all services of the machine is not the application's.
        assert read - {str(UNITS / "service.d/service.conf")} == {*places.files, *places.shared}
    assert disk.places(["c"]).files == ()
    assert str(UNITS / "d.service") in disk.places(["c.service"]).links


def test_units_are_named_short_by_alias_by_instance_and_by_pattern(house):
    write_unit("worker@.service", SLEEP)
    write_unit("c.service", SLEEP + "[Install]\nAlias=d.service\n")
    systemctl("enable", "c")
    house.up("worker@1", "worker@2", "d")
    parts = {"worker@*": ["worker@1.service", "worker@2.service"], "d": ["d.service"], "worker@2": ["worker@2.service"]}
    for named, units in parts.items():
        capture = house.capture(house.part(named))
        body = msgspec.msgpack.decode(house.store.get_part(capture.parts[0])[1])
        assert body["units"] == dict.fromkeys(units, True)


def test_a_unit_that_keeps_being_restarted_does_not_run(house):
    write_unit("web.service", "[Service]\nExecStart=sleep 0.05\nRestart=always\nRestartSec=0.3\nStartLimitBurst=0\n")
    write_unit("bad.service", "[Service]\nExecStart=false\n")
    house.up("web", "bad")
    until(lambda: prop("web", "NRestarts") != "0")
    capture = house.capture(house.part("web", "bad"))
    assert any("keeps restarting the unit web.service" in each for each in capture.warnings)
    assert any("bad.service failed (exit-code)" in each for each in capture.warnings)
    assert "wbe.service" in str(house.capture(house.part("wbe")).warnings)


def test_variables_that_a_unit_runs_with_are_told_by_name_only(house):
    env = house.home / "web.env"
    env.write_text("PASSWORD=hunter2\nPORT=1\n")
    write_unit("web.service", SLEEP + f"EnvironmentFile={env}\n")
    c, capture = house.ready("web")
    assert house.changes(c, capture) == {}
    systemctl("restart", "web")
    assert house.changes(c, capture) == {}, "what differs with every start does not count"
    before = env.stat()
    env.write_text("PASSWORD=hunter3\nPORT=1\nMORE=1\n")
    os.utime(env, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert list(house.changes(c, capture)) == ["web.env"]
    ((level, text, hint),) = house.findings(c)
    assert (level, "older environment" in text, "restart web.service" in hint) == ("warning", True, True)
    systemctl("restart", "web")
    changes = house.changes(c, capture, house.capture(c))
    assert {key: value for key, value in changes.items() if key != "web.env"} == {
        "web.service environment MORE": ("", "••••"),
        "web.service environment PASSWORD": ("••••", "••••"),
    }
    assert "hunter" not in str(changes) + repr(list(house.driver.changes(c, house.store, capture, None)))


# — definitions —


def test_definitions_come_back_and_take_effect_though_they_look_old(house):
    write_unit("web.service", SLEEP)
    c, capture = house.ready("web")
    write_unit("web.service", SLEEP.replace("1000", "2000"))
    drop_in = write_unit("web.service.d/x.conf", "[Service]\nEnvironment=A=1\n")
    systemctl("daemon-reload")
    systemctl("restart", "web")
    assert argv("web") == "sleep 2000"
    house.bring(c, capture)
    assert argv("web") == "sleep 1000"
    assert not drop_in.exists()
    assert house.driver.fingerprint(c, rehash=True) == capture.fingerprint


def test_systemd_reads_its_units_anew_only_when_something_changed(house):
    write_unit("web.service", SLEEP)
    c, capture = house.ready("web")
    stamp = prop(None, "UnitsLoadTimestampMonotonic")
    house.bring(c, capture)
    assert prop(None, "UnitsLoadTimestampMonotonic") == stamp
    house.driver.stop(c, house.store)
    write_unit("web.service", SLEEP.replace("1000", "2000"))
    house.driver.start(c, house.store, capture)
    assert prop(None, "UnitsLoadTimestampMonotonic") != stamp
    assert argv("web") == "sleep 2000"


def test_units_are_enabled_disabled_and_masked_as_they_were(house):
    for name in ("web", "worker", "job"):
        write_unit(f"{name}.service", SLEEP + INSTALL)
    systemctl("enable", "web")
    (UNITS / "job.service").unlink()
    systemctl("mask", "job")
    systemctl("daemon-reload")
    systemctl("start", "web", "worker")
    c = house.part("web", "worker", "job")
    capture = house.capture(c)
    systemctl("disable", "web")
    systemctl("enable", "worker")
    systemctl("unmask", "job")
    write_unit("job.service", SLEEP)
    house.bring(c, capture)
    assert [prop(name, "UnitFileState") for name in ("web", "worker", "job")] == ["enabled", "disabled", "masked"]
    assert active("web", "worker", "job") == ["active", "active", "inactive"]
    assert house.driver.fingerprint(c, rehash=True) == capture.fingerprint


def test_a_unit_file_behind_a_link_comes_back_with_the_link(house):
    away = house.home / "web.service"
    away.write_text(SLEEP)
    systemctl("link", str(away))
    c, capture = house.ready("web")
    assert str(away) in house.driver.owns(c)
    systemctl("stop", "web")
    systemctl("disable", "web")
    away.write_text(SLEEP.replace("1000", "2000"))
    house.bring(c, capture)
    assert (os.readlink(UNITS / "web.service"), argv("web")) == (str(away), "sleep 1000")


def test_what_a_name_led_to_in_between_stays(house):
    write_unit("web.service", SLEEP)
    other = write_unit("other.service", SLEEP)
    timer = write_unit("other.timer", "[Timer]\nOnActiveSec=1000\n" + INSTALL)
    systemctl("enable", "--now", "other.timer")
    c, capture = house.ready("web")
    absent = house.capture(house.part("absent"))
    systemctl("stop", "web")
    (UNITS / "web.service").unlink()
    for name in ("web", "absent"):
        (UNITS / f"{name}.service").symlink_to("other.service")
    systemctl("daemon-reload")
    assert "other.timer" in prop("web", "TriggeredBy")
    house.bring(c, capture)
    house.bring(house.part("absent"), absent)
    assert other.exists()
    assert timer.exists()
    assert (UNITS / "web.service").is_file()
    assert not (UNITS / "absent.service").exists()


def test_instances_that_came_later_are_stopped_and_their_template_goes(house):
    write_unit("worker@.service", SLEEP)
    c, capture = house.ready("worker@1")
    c = house.part("worker@*", "later@*")
    capture = house.capture(c)
    write_unit("later@.service", SLEEP)
    write_unit("worker@.service.d/x.conf", "[Service]\nEnvironment=A=1\n")
    house.up("worker@2", "later@1")
    house.bring(c, capture)
    assert active("worker@1", "worker@2", "later@1") == ["active", "inactive", "inactive"]
    assert prop("later@1", "LoadState") == "not-found"
    assert not (UNITS / "worker@.service.d/x.conf").exists()


def test_files_that_another_component_owns_are_left_to_it(house):
    env = house.home / "web.env"
    env.write_text("A=1\n")
    write_unit("web.service", SLEEP + f"EnvironmentFile={env}\n")
    c, capture = house.ready("web")
    theirs = type(c)(
        name=c.name, kind=c.kind, options=c.options, home=c.home, work=c.work, carved=(str(house.home / "web.env"),)
    )
    assert str(env) not in house.driver.owns(c)
    env.write_text("A=2\n")
    house.bring(theirs, capture)
    assert env.read_text() == "A=2\n"
    house.bring(c, capture)
    assert env.read_text() == "A=1\n"


# — stop —


def test_stopping_again_changes_nothing_and_nothing_is_left(house):
    write_unit("web.service", SLEEP)
    left = f"sh -c 'setsid sleep 1001 & echo $! > {house.home}/left; exec sleep 1000'"
    write_unit("worker.service", f"[Service]\nKillMode=process\nExecStart={left}\n")
    c, _ = house.ready("web", "worker")
    pid = int(until(lambda: (house.home / "left").exists() and (house.home / "left").read_text()))
    house.driver.stop(c, house.store)
    assert active("web", "worker") == ["inactive", "inactive"]
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()
    house.driver.stop(c, house.store)


def test_what_does_not_stop_is_killed_when_its_unit_says_so(house):
    ready = "trap '' TERM; systemd-notify --ready; sleep 1000 & wait; wait"
    deaf = f'[Service]\nType=notify\nNotifyAccess=all\nExecStart=sh -c "{ready}"\n'
    write_unit("web.service", deaf + "TimeoutStopSec=0.5\n")
    write_unit("worker.service", deaf + "TimeoutStopSec=infinity\n")
    c, capture = house.ready("web")
    house.driver.stop(c, house.store)
    assert prop("web", "Result") == "timeout"
    house.driver.start(c, house.store, capture)
    assert active("web") == ["active"], "a unit that had to be killed has failed, and is started all the same"
    c, _ = house.ready("worker", stop_timeout="500ms")
    error = refused("service.no_stop", lambda: house.driver.stop(c, house.store))
    assert "still deactivating (stop-sigterm), and its unit file allows it infinity" in str(error)
    systemctl("kill", "--signal=KILL", "worker")


def test_a_unit_that_could_not_be_started_again_is_not_stopped(house):
    for name in ("web", "masked"):
        write_unit(f"{name}.service", SLEEP)
    house.up("web", "masked")
    (UNITS / "masked.service").unlink()
    systemctl("mask", "masked")
    subprocess.run(["systemd-run", "--quiet", "--unit=transient", "sleep", "1000"], check=True)
    for name, why in (("masked", "it is masked"), ("transient", "systemd-run")):
        c = house.part("web", name)
        assert why in str(refused("service.no_return", lambda c=c: house.driver.stop(c, house.store)))
        assert active("web", name) == ["active", "active"]
        capture = house.capture(c)
        assert "could not be started again" in capture.warnings[0]
        systemctl("stop", name)
        house.bring(c, capture)
        assert active("web", name) == ["active", "inactive"]


BAD = "[Service]\nExecStart=relative/path\n"


def loaded(name: str) -> str:
    return prop(name, "LoadState")


def break_file(name: str) -> None:
    write_unit(f"{name}.service", BAD)


def mask(name: str) -> None:
    (UNITS / f"{name}.service").unlink()
    systemctl("mask", name)


def remove(name: str) -> None:
    (UNITS / f"{name}.service").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "state"), [(break_file, "bad-setting"), (mask, "masked"), (remove, "not-found")])
def test_a_running_unit_that_systemd_cannot_load_is_stopped_by_the_rollback_that_mends_it(house, broken, state):
    write_unit("web.service", SLEEP)
    write_unit("other.service", SLEEP)
    c, capture = house.ready("web", "other")
    broken("web")
    systemctl("daemon-reload")
    assert (loaded("web"), active("web")) == (state, ["active"])
    before = house.driver.salvage(c, house.store, capture)
    assert "could not be started again" in before.warnings[0]
    # Nothing says yet that what is restored would mend it.
    refused("service.no_return", lambda: house.driver.stop(c, house.store))
    assert active("web", "other") == ["active", "active"]
    house.driver.stage(c, house.store, before)
    refused("service.no_return", lambda: house.driver.stop(c, house.store))
    house.driver.stage(c, house.store, capture)
    pid = int(prop("web", "MainPID"))
    house.bring(c, capture)
    assert (loaded("web"), active("web", "other")) == ("loaded", ["active", "active"])
    assert int(prop("web", "MainPID")) != pid
    assert not Path(f"/proc/{pid}").exists()
    # The way back of a rollback that failed: it ends, and says what it could not bring back.
    house.bring(c, before)
    assert active("web", "other") == ["inactive", "active"]
    # A unit that is neither loaded nor running has nothing to stop.
    assert loaded("web") == state
    house.driver.stop(c, house.store)


def test_an_unanswered_start_is_no_reason_to_wait_for_ever(house):
    write_unit("web.service", "[Service]\nType=notify\nExecStart=sleep 1000\n")
    systemctl("daemon-reload")
    systemctl("start", "--no-block", "web")
    c = house.part("web", start_timeout="500ms")
    capture = house.capture(c)
    house.driver.stop(c, house.store)
    error = refused("service.no_start", lambda: house.driver.start(c, house.store, capture))
    assert "it is still activating (start)" in str(error)


# — what starts units, and what needs them —


def knock(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_does_not_start_its_service_meanwhile(house):
    door = Path("/run/door.sock")
    write_unit("web.socket", f"[Socket]\nListenStream={door}\n")
    write_unit("web.service", SLEEP)
    write_unit("other.timer", "[Timer]\nOnActiveSec=1000\nUnit=web.service\n")
    house.up("web.socket", "other.timer")
    c = house.part("web")
    capture = house.capture(c)
    knock(door)
    until(lambda: active("web") == ["active"])
    assert house.driver.fingerprint(c, rehash=True) == capture.fingerprint, "the next connection is no drift"
    house.driver.stop(c, house.store)
    assert active("web", "web.socket", "other.timer") == ["inactive"] * 3
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        knock(door)
    systemctl("start", "web")  # as a boot may, and then a socket cannot be had
    house.driver.start(c, house.store, capture)
    assert active("web", "web.socket", "other.timer") == ["inactive", "active", "active"]
    knock(door)
    until(lambda: active("web") == ["active"])


def test_a_service_that_is_enabled_comes_back_with_its_socket(house):
    write_unit("web.socket", "[Socket]\nListenStream=/run/door.sock\n")
    write_unit("web.service", SLEEP + INSTALL)
    systemctl("enable", "web")
    house.up("web.socket")
    house.up("web")
    c = house.part("web")
    capture = house.capture(c)
    house.bring(c, capture)
    assert active("web", "web.socket") == ["active", "active"]


def test_a_timer_that_came_later_goes_and_one_that_went_comes_back(house):
    write_unit("web.service", SLEEP)
    timer = write_unit("web.timer", "[Timer]\nOnActiveSec=1000\n" + INSTALL)
    systemctl("enable", "web.timer")
    house.up("web", "web.timer")
    c = house.part("web")
    with_timer = house.capture(c)
    systemctl("disable", "--now", "web.timer")
    timer.unlink()
    systemctl("daemon-reload")
    without = house.capture(c)
    house.bring(c, with_timer)
    assert (prop("web.timer", "UnitFileState"), active("web", "web.timer")) == ("enabled", ["active", "active"])
    odd = write_unit("odd.timer", "[Timer]\nOnActiveSec=1000\nUnit=web.service\n")
    systemctl("start", "odd.timer")
    house.bring(c, without)
    assert [path.exists() for path in (timer, odd)] == [False, False]
    assert active("web.timer", "odd.timer") == ["inactive", "inactive"]


def test_units_that_need_it_are_stopped_along_and_started_again(house):
    write_unit("web.service", SLEEP)
    write_unit("proxy.service", "[Unit]\nRequires=web.service\nAfter=web.service\n" + SLEEP)
    write_unit("log.service", "[Unit]\nPartOf=proxy.service\n" + SLEEP)
    write_unit("idle.service", "[Unit]\nPartOf=web.service\n" + SLEEP)
    house.up("proxy", "log")
    c = house.part("web")
    capture = house.capture(c)
    house.driver.stop(c, house.store)
    assert active("web", "proxy", "log") == ["inactive"] * 3
    house.driver.stop(c, house.store)
    house.driver.start(c, house.store, capture)
    assert active("web", "proxy", "log", "idle") == ["active", "active", "active", "inactive"]
    systemctl("stop", "proxy")
    house.bring(c, capture)
    assert active("web", "proxy") == ["active", "inactive"], "only what this stop had stopped"


def test_what_upholds_a_unit_does_not_start_it_meanwhile(house):
    write_unit("web.service", SLEEP)
    write_unit("keeper.service", "[Unit]\nUpholds=web.service\n" + SLEEP)
    house.up("web", "keeper")
    c = house.part("web")
    capture = house.capture(c)
    house.driver.stop(c, house.store)
    time.sleep(0.3)  # for what must not happen there is no event
    assert active("web", "keeper") == ["inactive", "inactive"]
    house.driver.start(c, house.store, capture)
    assert active("web", "keeper") == ["active", "active"]


# — start —


@pytest.mark.slow
def test_a_start_that_fails_tells_why_in_one_sentence(house, monkeypatch):
    monkeypatch.setattr(systemd, "_STEADY_SECONDS", 0.4)
    env = house.home / "web.env"
    env.write_text("PASSWORD=hunter2 and more\n")
    write_unit("web.service", SLEEP)
    c, capture = house.ready("web")
    house.driver.stop(c, house.store)
    head = f"[Service]\nEnvironmentFile={env}\n"
    lines = "echo first; echo with password: secret7; echo $PASSWORD"
    for text, why in (
        (f"ExecStart=sh -c '{lines}; exit 3'", "its process ended with status 3; its last words were: first /"),
        ("ExecStartPre=false\nExecStart=sleep 1000", "a command of it failed"),
        ("Type=notify\nExecStart=true", "ended without saying that it is ready"),
        ("ExecStart=true", "it ended at once, or a condition"),
        ("ExecStart=sleep 0.1\nRestart=always\nRestartSec=10ms", "it does not stay up"),
        ("ExecStart=sh -c 'kill -9 $$$$'", "ended by signal 9"),
        ("ExecStart=sleep 1000\n[Unit]\nConditionPathExists=/nowhere", "a condition in its unit file is not met"),
        ("ExecStart=sleep 1000\nType=odd\nExecStart=relative/path", "systemd cannot use its unit file (bad-setting)"),
    ):
        write_unit("web.service", f"{head}{text}\n")
        error = refused("service.no_start", lambda: house.driver.start(c, house.store, capture))
        assert why in str(error)
        assert "hunter2" not in str(error)
        assert "secret7" not in str(error)
        assert error.hint == "Look at its log: journalctl -u web.service."
        house.driver.stop(c, house.store)


def test_a_unit_that_was_started_too_often_is_started(house):
    write_unit("web.service", "[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1000\n" + SLEEP + INSTALL)
    systemctl("enable", "web")
    c, capture = house.ready("web")
    house.bring(c, capture)
    for _ in range(2):
        systemctl("start", "web", check=False)
        systemctl("stop", "web")
    assert prop("web", "Result") == "start-limit-hit"
    house.driver.start(c, house.store, capture)
    assert active("web") == ["active"]


def test_units_that_were_stopped_are_stopped_again(house):
    write_unit("web.service", "[Unit]\nWants=worker.service\n" + SLEEP)
    write_unit("worker.service", SLEEP)
    c, _ = house.ready("web", "worker")
    systemctl("stop", "worker")
    capture = house.capture(c)
    systemctl("start", "worker")
    house.bring(c, capture)
    assert active("web", "worker") == ["active", "inactive"]


def test_a_unit_that_is_gone_for_good_is_told_of(house):
    write_unit("web.service", SLEEP)
    c, capture = house.ready("web")
    house.driver.stop(c, house.store)
    (UNITS / "web.service").unlink()
    write_unit("webb.service", SLEEP)
    with pytest.raises(NotFoundError) as raised:
        house.driver.start(c, house.store, capture)
    assert "webb.service" in raised.value.hint


# — doctor —


def test_doctor_tells_what_would_go_wrong(house):
    write_unit("web.service", SLEEP)
    write_unit("bad.service", "[Service]\nType=odd\n")
    write_unit("failed.service", "[Service]\nExecStart=false\n")
    house.up("web")
    systemctl("start", "failed", check=False)
    until(lambda: active("failed") == ["failed"])
    os.utime(write_unit("web.service.d/x.conf", "[Unit]\n"))
    told = house.findings(house.part("web", "wbe", "bad", "failed"))
    expected = [
        ("error", "systemd knows no unit wbe.service", "web.service"),
        ("error", "bad.service could not be started again", "Mend the unit file"),
        ("warning", "web.service were changed after systemd had read them", "systemctl daemon-reload"),
        ("warning", "failed.service failed (exit-code)", "journalctl -u failed.service"),
    ]
    for level, text, hint in expected:
        assert [each for each in told if each[0] == level and text in each[1] and hint in each[2]], (text, told)
    assert len(told) == len(expected)


# — who asks —

ASK = """
import sys
from pathlib import Path
from rfs.production.rollback.drivers.service import ServiceDriver
from rfs.testing import component
home = Path(sys.argv[1])
part = component("service", home, name="web", manager="systemd", units=sys.argv[3:])
answer = ServiceDriver().contains_caller(part)
(home / "answer.new").write_text(str(answer))
(home / "answer.new").rename(home / sys.argv[2])
"""


@pytest.mark.slow
def test_a_process_knows_the_unit_that_it_belongs_to(house):
    script = house.home / "ask.py"
    script.write_text(ASK)
    ask = f"{sys.executable} {script} {house.home}"
    write_unit("web.service", SLEEP)
    along = f"[Service]\nExecStart=sh -c '{ask} along web; sleep 1000'\n"
    write_unit("proxy.service", "[Unit]\nRequires=web.service\n" + along)
    asks = (
        f"setsid {ask} inside in; {ask} slice shop.slice; {ask} other web; systemd-run --scope --quiet {ask} scope in"
    )
    write_unit("in.service", f"[Service]\nSlice=shop-eu.slice\nExecStart=sh -c '{asks}; sleep 1000'\n")
    house.up("web", "proxy", "in")
    answers = {}
    for name in ("along", "inside", "slice", "other", "scope"):
        until((house.home / name).exists)
        answers[name] = (house.home / name).read_text()
    assert answers == {"along": "True", "inside": "True", "slice": "True", "other": "False", "scope": "False"}
    assert not house.driver.contains_caller(house.part("web", "in", "shop.slice"))


# — the user's own systemd —


def test_units_of_the_users_own_systemd(house, monkeypatch):
    place, home = Path("/run/user/0"), house.home
    place.mkdir(parents=True, exist_ok=True)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("HOME", str(home))
    user = "[Unit]\nDefaultDependencies=no\n" + SLEEP
    units = home / ".config/systemd/user"
    units.mkdir(parents=True)
    (units / "web.service").write_text(user + "EnvironmentFile=-%h/web.env\n" + INSTALL)
    (home / "web.env").write_text("A=1\n")
    c = house.part("web", scope="user")
    error = refused("service.no_user_systemd", lambda: house.capture(c))
    assert "enable-linger root" in error.hint
    own = "[Service]\nType=notify\nDelegate=yes\nExecStart=/usr/lib/systemd/systemd --user --unit=x.target\n"
    own += "KillSignal=SIGKILL\n"  # without an exit.target it would not go
    write_unit("own.service", f"{own}Environment=XDG_RUNTIME_DIR={place} HOME={home}\n")
    (units / "x.target").write_text("[Unit]\n")
    house.up("own")
    systemd_call._folders.clear()
    run = ["env", f"XDG_RUNTIME_DIR={place}", "systemctl", "--user"]
    subprocess.run([*run, "start", "web"], check=True)
    capture = house.capture(c)
    assert {str(units / "web.service")} == set(house.driver.owns(c))
    (units / "web.service").write_text(user)
    (home / "web.env").write_text("A=2\n")
    house.bring(c, capture)
    assert (home / "web.env").read_text() == "A=1\n"
    shown = subprocess.run([*run, "is-active", "web"], capture_output=True, text=True, check=True)
    assert shown.stdout == "active\n"
