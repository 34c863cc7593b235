"""A service that rolls back the very application it belongs to, under a real systemd."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from inside_web import HEALTH, SERVER, Server
from systemd_host import prop, raze, systemctl, write_unit
from waiting import until

from rfs.production.rollback.application import Application
from rfs.production.rollback.model import OperationStatus

pytestmark = pytest.mark.slow

UNIT = """
[Service]
ExecStart={python} {home}/web.py {home}
TimeoutStopSec=60
"""

CONFIG = """
[app]
name = "inside"
[components.tree]
kind = "files"
path = "tree"
[components.web]
kind = "service"
{web}
[store]
key = "file:{home}/key"
[[health]]
name = "version"
command = ["{python}", "{home}/health.py", "{home}"]
retries = 0
"""

# Whatever systemd ends with the unit must not be the carrier, also when rfs has not asked systemd where it is.
BY_COMMANDS = """
manager = "command"
start = ["systemctl", "start", "web"]
stop = ["systemctl", "stop", "web"]
status = ["systemctl", "is-active", "web"]
pidfile = "web.pid"
"""


BY_SYSTEMD = """
manager = "systemd"
units = ["web"]
"""


class Web(Server):
    """Version 2 of a server in `home`, with a checkpoint of version 1."""

    def __init__(self, home: Path, web: str, more: str = "") -> None:
        raze()  # whatever a test that failed has left
        self.home = home
        (home / "tree").mkdir()
        (home / "tree" / "code.txt").write_text("v1\n")
        (home / "web.py").write_text(SERVER)
        (home / "health.py").write_text(HEALTH)
        (home / "rfs.toml").write_text(CONFIG.format(home=home, python=sys.executable, web=web))
        write_unit("web.service", UNIT.format(home=home, python=sys.executable) + more)
        systemctl("daemon-reload")
        systemctl("start", "web")
        self.serves("v1")
        with Application.create(str(home / "rfs.toml")) as app:
            app.checkpoint()
        (home / "tree" / "code.txt").write_text("v2\n")
        systemctl("restart", "web")
        self.serves("v2")
        (home / "checking").unlink()

    @property
    def version(self) -> str:
        return (self.home / "tree" / "code.txt").read_text().strip()


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="rfs-"))  # the path of a socket must be short
    yield folder
    shutil.rmtree(folder)


def group_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


@pytest.mark.inside_systemd
@pytest.mark.parametrize("manager", [BY_COMMANDS, BY_SYSTEMD], ids=["commands", "systemd"])
def test_a_service_rolls_itself_back(home: Path, manager: str) -> None:
    web = Web(home, manager)
    web.touch("hold-check")
    rolled_back = web.ask_meanwhile("/rollback")
    web.exists("checking")
    group = group_of(web.carrier)
    assert re.fullmatch(r"/system\.slice/rfs-outside-[0-9a-f]{12}\.scope", group)
    web.remove("hold-check")
    said = rolled_back()
    done = web.ended()
    # As in test_inside: the stop may come before the answer.
    told = {"rollback_id": done.operation_id, "status": "running", "rolled_back_to": done.plan.target}
    assert said in (told, "cancelled")
    assert (done.status, done.error) == (OperationStatus.COMPLETED, None)
    assert (done.reason, done.inside) == ("asked inside", "web")
    assert done.outage is not None
    assert done.outage < 20
    assert web.version == "v1"
    web.serves("v1")
    until(lambda: prop(group.rpartition("/")[2], "LoadState") == "not-found")
    raze()


@pytest.mark.slow
@pytest.mark.inside_systemd
def test_a_sick_target_is_turned_back_and_version_2_runs_again(home: Path) -> None:
    web = Web(home, BY_SYSTEMD)
    pid = web.serves("v2")
    (home / "sick").write_text("v1")
    assert web.ask("/rollback")["status"] == "running"
    done = web.ended()
    assert done.status is OperationStatus.REVERTED
    assert web.version == "v2"
    assert web.serves("v2") != pid
    raze()


@pytest.mark.inside_systemd
def test_what_may_not_leave_is_refused_before_anything_is_touched(home: Path) -> None:
    (home / "bin").mkdir()
    for name in ("systemctl", "journalctl"):
        (home / "bin" / name).symlink_to(str(shutil.which(name)))
    web = Web(home, BY_SYSTEMD, f"Environment=PATH={home}/bin\n")
    pid = web.serves("v2")
    said = web.ask("/rollback")
    assert said["error"] == "rollback.inside"
    assert "systemd-run could not be started" in said["text"]
    assert web.version == "v2"
    assert web.ask("/version") == ["v2", pid]
    with web.open() as app:
        assert len(app.catalog.checkpoints()) == 1
    raze()
