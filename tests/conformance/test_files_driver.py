"""FilesDriver under the conformance suite: content, metadata, links, types, emptiness, and what is carved out."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.drivers.files import FilesDriver
from rfs.production.rollback.model import Component
from rfs.testing import DriverSuite, component


def facts(path: Path) -> tuple[object, ...]:
    st = path.lstat()
    content: object = None
    if stat.S_ISLNK(st.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(st.st_mode):
        content = path.read_bytes()
    xattrs = {} if stat.S_ISLNK(st.st_mode) else {name: os.getxattr(path, name) for name in os.listxattr(path)}
    links = 0 if stat.S_ISDIR(st.st_mode) else st.st_nlink
    return st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, links, content, xattrs


def see(root: Path) -> dict[str, tuple[object, ...]]:
    """Return everything a restore must bring back, by path."""
    found = {str(path.relative_to(root)): facts(path) for path in root.rglob("*")}
    if root.exists():
        found["."] = facts(root)
    return found


class TestFiles(DriverSuite):
    ways = 6
    most_interruptions = 40

    def make_driver(self) -> Driver:
        return FilesDriver()

    def make_component(self, tmp: Path) -> Component:
        tree = tmp / "tree"
        (tree / "a" / "deep").mkdir(parents=True)
        (tree / "empty").mkdir()
        for name in ("top", "a/one", "a/two", "a/deep/three"):
            (tree / name).write_text(f"the first content of {name}\n")
        (tree / "link").symlink_to("a/one")
        os.link(tree / "a" / "two", tree / "a" / "two again")
        (tree / "tool").write_text("#!/bin/sh\n")
        (tree / "tool").chmod(0o755)
        os.setxattr(tree / "top", "user.colour", b"blue")
        os.mkfifo(tree / "fifo")
        (tree / os.fsdecode(b"not utf-8 \xff")).write_text("a name that is not UTF-8\n")
        return component("files", tmp, path="tree")

    def change(self, c: Component, n: int) -> None:
        tree = Path(c.home) / "tree"
        tree.mkdir(exist_ok=True)
        getattr(self, f"change_{n}")(tree, os.urandom(4).hex())

    def change_0(self, tree: Path, word: str) -> None:
        """Content of the same length, with the old times put back: what a scan by times alone would miss."""
        path = tree / "top"
        before = path.stat() if path.exists() else None
        path.write_text(f"{word:.<28}\n")
        if before is not None:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def change_1(self, tree: Path, word: str) -> None:
        """Added files and folders."""
        (tree / f"new {word}" / "folder").mkdir(parents=True)
        for name in ("x", "folder/y"):
            (tree / f"new {word}" / name).write_text(word)

    def change_2(self, tree: Path, word: str) -> None:
        """Everything gone, but one new file."""
        for path in tree.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        (tree / f"only {word}").touch()

    def change_3(self, tree: Path, word: str) -> None:
        """Metadata alone."""
        path = tree / "top"
        path.touch()
        path.chmod(path.stat().st_mode ^ 0o020)
        os.setxattr(path, "user.colour", word.encode())
        os.utime(path, ns=(1, int(word, 16)))
        os.utime(tree, ns=(1, int(word, 16)))

    def change_4(self, tree: Path, word: str) -> None:
        """Other kinds: a folder where a file was, a link elsewhere, a hard link broken."""
        for name in ("a", "link", "tool"):
            path = tree / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        (tree / "a").symlink_to(word)
        (tree / "link").write_text(word)
        (tree / "tool").mkdir()
        (tree / "tool" / word).touch()

    def change_5(self, tree: Path, word: str) -> None:
        """Hard links: a group grows, and is written through one of its names."""
        (tree / "a").mkdir(exist_ok=True) if not (tree / "a").is_symlink() else None
        source = tree / "linked"
        with source.open("a") as file:
            file.write(word)
        os.link(source, tree / f"linked {word}")

    def read(self, c: Component) -> object:
        return see(Path(c.home) / "tree")


class TestFilesThatAreExcluded(DriverSuite):
    """What is excluded or carved out is neither captured nor touched."""

    ways = 2
    most_interruptions = 15

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
        self.word = os.urandom(4).hex()
        self.write_others(tree)
        (tree / ("code" if n == 0 else f"more {self.word}")).write_text(self.word)

    def read(self, c: Component) -> object:
        tree = Path(c.home) / "tree"
        for name in ("cache/page", "run.log", "data/shop.db"):
            assert (tree / name).read_text() == self.word, f"{name} was touched"
        own = [path for path in tree.rglob("*") if path.is_file() and path.suffix not in (".log", ".db")]
        return {path.name: facts(path) for path in own if path.parent.name != "cache"}
