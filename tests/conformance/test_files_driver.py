"""FilesDriver under the conformance suite where parts of its folder are not its own.

Everything else that is hard about files is in tests/integration/test_files_conformance.py.
"""

from __future__ import annotations

import os
from pathlib import Path

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.drivers.files import FilesDriver
from rfs.production.rollback.model import Component
from rfs.testing import DriverSuite, component


class TestFilesThatAreExcluded(DriverSuite):
    """What is excluded or carved out is neither captured nor touched."""

    ways = 2
    most_interruptions = 8
    secrets = ("hunter2",)

    def make_driver(self) -> Driver:
        return FilesDriver()

    def make_component(self, tmp: Path) -> Component:
        tree = tmp / "tree"
        (tree / "cache").mkdir(parents=True)
        (tree / "data").mkdir()
        (tree / "data" / "shop.db").write_text("another component's")
        (tree / "code").write_text("code")
        self.word = "first"
        self.write_others(tree)
        return component(
            "files", tmp, carved=[str(tree / "data" / "shop.db")], path="tree", exclude=["cache/", "*.log"]
        )

    def write_others(self, tree: Path) -> None:
        for name in ("cache/page", "run.log", "data/shop.db"):
            (tree / name).parent.mkdir(exist_ok=True)
            (tree / name).write_text(self.word)

    def change(self, c: Component, n: int) -> None:
        tree = Path(c.home) / "tree"
        self.word = f"hunter2 {os.urandom(4).hex()}"
        self.write_others(tree)
        (tree / ("code" if n == 0 else f"more {self.word[-8:]}")).write_text(self.word)

    def read(self, c: Component) -> object:
        tree = Path(c.home) / "tree"
        for name in ("cache/page", "run.log", "data/shop.db"):
            assert (tree / name).read_text() == self.word, f"{name} was touched"
        own = [path for path in tree.rglob("*") if path.is_file() and path.suffix not in (".log", ".db")]
        return {path.name: (path.stat().st_mtime_ns, path.read_text()) for path in own if path.parent.name != "cache"}
