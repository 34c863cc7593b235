"""The files driver against every rule of the plugin page."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from file_trees import describe, hostile, mess_up

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.drivers.files import FilesDriver
from rfs.production.rollback.model import Component
from rfs.testing import DriverSuite, component
from suite_marks import slow


class TestFilesDriver(DriverSuite):
    ways = 4
    secrets = ("hunter2",)

    test_restore_converges_after_it_was_interrupted = slow(DriverSuite.test_restore_converges_after_it_was_interrupted)
    test_restore_turns_back_after_it_was_interrupted = slow(
        DriverSuite.test_restore_turns_back_after_it_was_interrupted
    )

    def make_driver(self) -> Driver:
        return FilesDriver()

    def make_component(self, tmp: Path) -> Component:
        hostile(tmp / "root")
        return component("files", tmp, path="root", exclude=["*.log"])

    def change(self, c: Component, n: int) -> None:
        root = Path(c.home) / "root"
        if n == 0:
            clear(root)
            hostile(root)
            mess_up(root)
            (root / "out.log").write_bytes(b"excluded")
        elif n == 1:
            clear(root)
            (root / "only").write_bytes(os.urandom(8))
        elif n == 2:
            clear(root)
            hostile(root)
            (root / "plain.txt").write_bytes(b"hunter2" + os.urandom(8))
        else:
            (root / "same length").write_bytes(os.urandom(8))
            os.chmod(root, 0o750)

    def wreck(self, c: Component) -> None:
        clear(Path(c.home) / "root")
        (Path(c.home) / "root").rmdir()

    def read(self, c: Component) -> dict[str, Any]:
        return {path: state for path, state in describe(Path(c.home) / "root").items() if not path.endswith(".log")}


def clear(root: Path) -> None:
    """Remove everything in a folder but not the folder."""
    for entry in list(root.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
