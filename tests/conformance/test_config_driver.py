"""ConfigDriver and EnvironmentDriver under the conformance suite."""

from __future__ import annotations

import os
from pathlib import Path

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.drivers.config import ConfigDriver
from rfs.production.rollback.drivers.environment import EnvironmentDriver
from rfs.production.rollback.model import Component
from rfs.testing import DriverSuite, component


class OneFile(DriverSuite):
    ways = 4
    most_interruptions = 16
    secrets = ("hunter2", "correct horse")
    name = "settings.toml"

    def make_component(self, tmp: Path) -> Component:
        (tmp / self.name).write_bytes(b'port = 1\npassword = "hunter2"\n')
        return component(self.make_driver().kind, tmp, path=self.name)

    def change(self, c: Component, n: int) -> None:
        path, word = Path(c.home, self.name), os.urandom(4).hex()
        if n == 0:
            path.unlink(missing_ok=True)
            path.write_text(f'port = 2\nname = "{word}"\npassword = "correct horse"\n')
        elif n == 1:
            path.touch()
            path.chmod(path.stat().st_mode ^ 0o022)
        elif n == 2 and path.exists():
            path.unlink()
        else:
            path.write_bytes(b"[broken hunter2 " + word.encode())
            os.setxattr(path, "user.word", word.encode())

    def wreck(self, c: Component) -> None:
        path = Path(c.home, self.name)
        path.unlink()
        path.symlink_to("elsewhere")

    def read(self, c: Component) -> object:
        path = Path(c.home, self.name)
        if not path.exists():
            return None
        found = path.stat()
        xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        return path.read_bytes(), found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, xattrs


class TestConfig(OneFile):
    def make_driver(self) -> Driver:
        return ConfigDriver()


class TestEnvironment(OneFile):
    name = ".env"

    def make_driver(self) -> Driver:
        return EnvironmentDriver()


del OneFile  # so that pytest collects only its subclasses
