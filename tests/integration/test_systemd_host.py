"""The systemd that other tests run in: that it is one, and that this machine does not notice it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from systemd_host import UNITS, Host, prop, raze, systemctl, write_unit
from waiting import until


@pytest.mark.inside_systemd
def test_a_unit_runs_and_knows_its_place(tmp_path: Path) -> None:
    assert systemctl("is-system-running") == "running"
    write_unit("where.service", f"[Service]\nExecStart=sh -c 'cat /proc/self/cgroup > {tmp_path}/where; sleep 1000'\n")
    systemctl("start", "where")
    group = f"0::{prop('where', 'ControlGroup')}\n"
    until(lambda: (tmp_path / "where").exists() and group in (tmp_path / "where").read_text())
    assert group not in Path("/proc/self/cgroup").read_text()
    raze()
    assert prop("where", "LoadState") == "not-found"


@pytest.mark.inside_systemd
def test_this_machine_is_read_only(tmp_path: Path) -> None:
    assert os.getpid() != 1
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    for path in (Path("/"), Path("/etc"), Path("/usr/lib"), Path("/sys/kernel")):
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(path / "x", os.O_CREAT | os.O_WRONLY)
    (tmp_path / "x").touch()


def test_what_fails_or_is_skipped_inside_is_told(systemd_host: Host) -> None:
    with pytest.raises(pytest.fail.Exception, match="ZeroDivisionError"):
        systemd_host.call(lambda: 1 // 0)
    with pytest.raises(pytest.skip.Exception, match="because"):
        systemd_host.call(lambda: pytest.skip("because"))
    with pytest.raises(pytest.fail.Exception, match="status 7"):
        systemd_host.call(lambda: os._exit(7))


def test_it_vanishes_and_leaves_no_trace(systemd_host: Host, tmp_path: Path) -> None:
    places = ("/run", "/etc", "/usr", "/lib", "/var", "/dev", "/proc", "/sys")

    def traces() -> list[object]:
        # Other tests mount things elsewhere meanwhile.
        mounts = [
            line for line in Path("/proc/self/mounts").read_text().splitlines() if line.split()[1].startswith(places)
        ]
        return [mounts, sorted(os.listdir(UNITS)), sorted(os.listdir("/usr/lib/systemd/system"))]

    before = traces()
    other = Host(tmp_path, name="other")
    try:
        other.call(lambda: write_unit("x.service", "[Service]\nExecStart=sleep 1000\n"))
        other.call(lambda: systemctl("start", "x"))
        systemd_host.call(lambda: _refuse((UNITS / "x.service").exists()))
        assert traces() == before
    finally:
        other.stop()
    assert not Path(f"/proc/{other.pid}").exists()
    assert not other.cgroup.exists()
    assert not Path("/run/machine-id").exists()
    assert traces() == before


def _refuse(wrong: bool) -> None:
    assert not wrong
