"""A small tree of files in two versions, different in everything that a restore must bring back."""

from __future__ import annotations

import os
from pathlib import Path


def make_first_tree(tree: Path) -> None:
    """Make version 1."""
    (tree / "static" / "deep").mkdir(parents=True)
    (tree / "code.py").write_text("version = 1\n" * 200)
    (tree / "same.txt").write_text("the same in both\n")
    (tree / "gone.txt").write_text("only in version 1\n")
    (tree / "static" / "a.css").write_text("a {}\n")
    (tree / "static" / "deep" / "b.css").write_text("b {}\n")
    (tree / "turned").write_text("a file in version 1, a folder in version 2\n")
    (tree / "link").symlink_to("code.py")
    (tree / "one").write_text("a hard link\n")
    os.link(tree / "one", tree / "two")
    os.setxattr(tree / "same.txt", "user.kept", b"1")
    for at, path in enumerate(sorted(tree.rglob("*")), 1):
        os.utime(path, ns=(at * 10**9, at * 10**9), follow_symlinks=False)


def make_second_tree(tree: Path) -> None:
    """Turn version 1 into version 2."""
    (tree / "code.py").write_text("version = 2\n" * 150)
    (tree / "code.py").chmod(0o755)
    (tree / "gone.txt").unlink()
    (tree / "new").mkdir()
    (tree / "new" / "n.txt").write_text("only in version 2\n")
    (tree / "static" / "deep" / "b.css").write_text("b { color: red }\n")
    (tree / "turned").unlink()
    (tree / "turned").mkdir()
    (tree / "turned" / "inside").write_text("a folder now\n")
    (tree / "link").unlink()
    (tree / "link").symlink_to("same.txt")
    (tree / "one").write_text("a hard link, changed in place\n")
    os.removexattr(tree / "same.txt", "user.kept")
