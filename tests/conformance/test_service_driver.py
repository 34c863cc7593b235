"""ServiceDriver under the conformance suite: its definition files, its running units, and both together."""

from __future__ import annotations

import os
from pathlib import Path

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.drivers.service import ServiceDriver
from rfs.production.rollback.model import Component
from rfs.testing import DriverSuite, component

HEAD = "[unix_http_server]\nfile=%(here)s/s.sock\n[supervisord]\n[include]\nfiles=conf.d/*.conf\n"


class TestDefinitions(DriverSuite):
    """supervisord is stopped; its configuration is a main file, included files and a link to one."""

    ways = 5
    most_interruptions = 5
    secrets = ("hunter2",)

    def make_driver(self) -> Driver:
        return ServiceDriver()

    def make_component(self, tmp: Path) -> Component:
        (tmp / "conf.d").mkdir()
        (tmp / "supervisord.conf").write_text(HEAD)
        (tmp / "conf.d" / "web.conf").write_text("[program:web]\ncommand=web\n")
        (tmp / "v1.conf").write_text("[program:worker]\ncommand=worker\nenvironment=PASSWORD=hunter2\n")
        (tmp / "v2.conf").write_text("[program:worker]\ncommand=worker2\n")
        (tmp / "conf.d" / "worker.conf").symlink_to("../v1.conf")
        return component("service", tmp, manager="supervisor", config="supervisord.conf")

    def change(self, c: Component, n: int) -> None:
        home = Path(c.home)
        conf = home / "conf.d"
        conf.mkdir(exist_ok=True)
        if n == 0:
            (conf / "web.conf").write_text(f"[program:web]\ncommand={os.urandom(4).hex()} --token hunter2\n")
        elif n == 1:
            (conf / f"{os.urandom(4).hex()}.conf").write_text("[program:more]\ncommand=more\n")
        elif n == 2:
            link = conf / "worker.conf"
            before = os.readlink(link) if link.is_symlink() else ""
            link.unlink(missing_ok=True)
            link.symlink_to("../v1.conf" if before == "../v2.conf" else "../v2.conf")
        elif n == 3:
            for path in conf.iterdir():
                path.unlink()
            (home / "supervisord.conf").write_text(HEAD + f"[program:all]\ncommand={os.urandom(4).hex()}\n")
        else:
            main = home / "supervisord.conf"
            main.chmod(main.stat().st_mode ^ 0o040)

    def read(self, c: Component) -> object:
        home = Path(c.home)
        paths = [home / "supervisord.conf", *(home / "conf.d").iterdir()]
        # Of the files that a link may lead to, the one that it leads to belongs to the component.
        paths += [path.resolve() for path in paths if path.is_symlink() and path.exists()]
        return {
            str(path): (
                path.lstat().st_mode,
                path.lstat().st_mtime_ns,
                os.readlink(path) if path.is_symlink() else path.read_bytes(),
            )
            for path in paths
        }


class TestRunning(DriverSuite):
    """Two units behind commands; a unit runs while its file is there."""

    ways = 3
    most_interruptions = 4
    # These units have no definition files, and so no blobs that could be damaged.
    test_restore_refuses_damaged_blobs_before_it_changes_anything = None
    test_nothing_secret_is_said = None  # nothing is known of them but their names

    def make_driver(self) -> Driver:
        return ServiceDriver()

    def make_component(self, tmp: Path) -> Component:
        (tmp / "up").mkdir()
        (tmp / "up" / "web").touch()
        commands = {
            "start": ["touch", "up/{unit}"],
            "stop": ["rm", "-f", "up/{unit}"],
            "status": ["test", "-e", "up/{unit}"],
        }
        return component("service", tmp, manager="command", units=["web", "worker"], **commands)

    def change(self, c: Component, n: int) -> None:
        for unit in (["web"], ["worker"], ["web", "worker"])[n]:
            path = Path(c.home) / "up" / unit
            if path.exists():
                path.unlink()
            else:
                path.touch()

    def read(self, c: Component) -> object:
        return sorted(os.listdir(Path(c.home) / "up"))
