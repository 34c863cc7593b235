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
from systemd_host import prop, raze, systemctl, until, write_unit

from rfs.production.rollback.application import Application
from rfs.production.rollback.model import OperationStatus

UNIT = """
[Service]
ExecStart={python} {home}/web.py {home}
KillMode={kill_mode}
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


class Web(Server):
    """Version 2 of a server in `home`, with a checkpoint of version 1."""

    def __init__(self, home: Path, web: str, kill_mode: str = "control-group") -> None:
        self.home = home
        (home / "tree").mkdir()
        (home / "tree" / "code.txt").write_text("v1\n")
        (home / "web.py").write_text(SERVER)
        (home / "health.py").write_text(HEALTH)
        (home / "rfs.toml").write_text(CONFIG.format(home=home, python=sys.executable, web=web))
        write_unit("web.service", UNIT.format(home=home, python=sys.executable, kill_mode=kill_mode))
        systemctl("daemon-reload")
        systemctl("start", "web")
        self.serves("v1")
        with Application.create(str(home / "rfs.toml")) as app:
            app.checkpoint()
        (home / "tree" / "code.txt").write_text("v2\n")
        systemctl("restart", "web")
        self.serves("v2")
        (home / "checking").unlink()


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="rfs-"))  # the path of a socket must be short
    yield folder
    shutil.rmtree(folder)


@pytest.mark.inside_systemd
def test_a_service_rolls_itself_back_and_undoes_it(home: Path) -> None:
    web = Web(home, BY_COMMANDS)
    web.touch("hold-check")
    rolled_back = web.ask_meanwhile("/rollback")
    web.exists("checking")
    groups = Path(f"/proc/{web.carrier}/cgroup").read_text().splitlines()
    (group,) = [line.removeprefix("0::") for line in groups if line.startswith("0::")]
    assert re.fullmatch(r"/system\.slice/rfs-outside-[0-9a-f]{12}\.scope", group)
    web.remove("hold-check")
    said = rolled_back()
    done = web.ended()
    assert said == {"rollback_id": done.operation_id, "status": "running", "rolled_back_to": done.plan.target}
    assert (done.status, done.error) == (OperationStatus.COMPLETED, None)
    assert (done.reason, done.inside) == ("asked inside", "web")
    assert done.outage is not None
    assert done.outage < 20
    web.serves("v1")
    until(lambda: prop(group.rpartition("/")[2], "LoadState") == "not-found")
    raze()
