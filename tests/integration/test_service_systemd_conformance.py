"""ServiceDriver with systemd under the conformance suite: its files and links, its running units, and both together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from systemd_host import UNITS, prop, raze, systemctl, write_unit

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.drivers.service import ServiceDriver
from rfs.production.rollback.model import Component
from rfs.testing import DriverSuite, component

pytestmark = [pytest.mark.inside_systemd, pytest.mark.slow]

ONESHOT = "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
WEB = ONESHOT + "ExecStart=true {}\nEnvironmentFile=-{}\n[Install]\nWantedBy=x.target\n"


class TestDefinitions(DriverSuite):
    """Stopped units: unit files, a drop-in, an environment file, links that enable, alias and mask."""

    ways = 3
    most_interruptions = 6
    secrets = ("hunter2",)

    def make_driver(self) -> Driver:
        return ServiceDriver()

    def make_component(self, tmp: Path) -> Component:
        write_unit("web.service", WEB.format("1", tmp / "web.env"))
        write_unit("web.service.d/limits.conf", "[Service]\nTasksMax=10\n")
        write_unit("worker@.service", WEB.format("%i", "/dev/null"))
        (tmp / "web.env").write_text("PASSWORD=hunter2\n")
        systemctl("daemon-reload")
        return component("service", tmp, manager="systemd", units=["web", "worker@1"])

    def tear_down(self, c: Component) -> None:
        raze()

    def change(self, c: Component, n: int) -> None:
        home = Path(c.home)
        mask, wants = UNITS / "worker@1.service", UNITS / "x.target.wants/web.service"
        if n == 0:
            write_unit("web.service", WEB.format(os.urandom(4).hex(), home / "web.env"))
            (home / "web.env").write_text(f"PASSWORD=hunter2{os.urandom(4).hex()}\n")
            systemctl("disable" if wants.is_symlink() else "enable", "web")
        elif n == 1:
            write_unit(f"web.service.d/{os.urandom(4).hex()}.conf", "[Service]\nEnvironment=TOKEN=hunter2\n")
            systemctl("unmask" if mask.is_symlink() else "mask", "worker@1")
        else:
            for path in (UNITS / "web.service", home / "web.env", *(UNITS / "web.service.d").iterdir()):
                path.unlink(missing_ok=True)
            write_unit("web.service", WEB.format(os.urandom(4).hex(), home / "another.env"))

    def read(self, c: Component) -> object:
        named = (UNITS / "web.service").read_text()
        return {
            str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns)
            if path.is_symlink()
            else (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes())
            # A file that no definition names is nothing to systemd.
            for path in [*UNITS.rglob("*"), *(path for path in Path(c.home).glob("*.env") if str(path) in named)]
            if not path.is_dir()
        }


class TestRunning(DriverSuite):
    """Units that run or not, one behind a socket, and an instance that came later."""

    ways = 2
    most_interruptions = 4
    # What is done to files is the other suite's; here none of them changes.
    test_nothing_secret_is_said = None
    test_restore_converges_after_it_was_interrupted = None
    test_restore_turns_back_after_it_was_interrupted = None
    test_restore_refuses_damaged_blobs_before_it_changes_anything = None
    test_restore_is_exact_after_its_time_ran_out = None

    def make_driver(self) -> Driver:
        return ServiceDriver()

    def make_component(self, tmp: Path) -> Component:
        write_unit("web.service", ONESHOT + "ExecStart=true\n")
        write_unit("web.socket", f"[Socket]\nListenStream={tmp}/s.sock\n")
        write_unit("worker@.service", ONESHOT + "ExecStart=true\n")
        systemctl("daemon-reload")
        systemctl("start", "web.socket", "worker@1")
        return component("service", tmp, manager="systemd", units=["web", "worker@*"])

    def tear_down(self, c: Component) -> None:
        raze()

    def change(self, c: Component, n: int) -> None:
        for name in (("worker@1", "worker@2"), ("web.socket",))[n]:
            systemctl("start" if prop(name, "ActiveState") == "inactive" else "stop", name)

    def read(self, c: Component) -> object:
        shown = systemctl("show", "--all", "--property=Id,ActiveState", "--", "web.*", "worker@*")
        return sorted(block for block in shown.split("\n\n") if "=active" in block)
