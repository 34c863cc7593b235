"""Trees for tests: a hostile one, ways to change it, and an own description to compare by, beside rsync's."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

ROOT = os.geteuid() == 0
RSYNC = shutil.which("rsync")


def hostile(root: Path) -> None:
    """Make a small tree with one of everything that is hard."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "plain.txt").write_bytes(b"hello\n")
    (root / "empty").write_bytes(b"")
    (root / "empty folder").mkdir()
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "c" / "deep").write_bytes(b"deep")
    (root / "a-b").write_bytes(b"sorts between a and a/b")
    (root / ("n" * 255)).write_bytes(b"long name")
    folder = os.fsencode(root)
    for name in (
        b"not-utf8-\xff\xfe",
        "grün".encode("latin-1"),
        "grün".encode(),
        b"new\nline",
        b"tab\t 'quote\"",
        b"-rf",
        b"*",
    ):
        with open(folder + b"/" + name, "wb") as file:
            file.write(b"named " + name)
    (root / "Case").write_bytes(b"upper")
    (root / "case").write_bytes(b"lower")
    os.symlink("plain.txt", root / "link")
    os.symlink("/nowhere/\udcff", root / "dangling")
    os.symlink("..", root / "a" / "up")
    os.mkfifo(root / "pipe", 0o620)
    os.chmod(root / "pipe", 0o622)
    (root / "linked-1").write_bytes(b"one file")
    os.link(root / "linked-1", root / "a" / "linked-2")
    os.link(root / "linked-1", root / "a" / "b" / "linked-3")
    for name, mode in (("setuid", 0o4755), ("secret", 0o400), ("nobody", 0o000), ("sticky", 0o1777)):
        (root / name).write_bytes(name.encode())
        os.chmod(root / name, mode)
    os.chmod(root / "empty folder", 0o2711)
    os.setxattr(root / "plain.txt", "user.note", b"\x00\xff")
    os.setxattr(root / "a", "user.folder", b"yes")
    with open(root / "sparse", "wb") as file:
        file.seek(300_000)
        file.write(b"in the middle")
        file.truncate(1_000_000)
    if ROOT:
        os.chown(root / "Case", 1234, 4321)
        os.chown(root / "link", 12, 13, follow_symlinks=False)
        os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.setxattr(root / "linked-1", "trusted.x", b"t")
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(1, 1_000_000_000_000_000_000 + number * 1_000_000_007), follow_symlinks=False)
    os.utime(root / "case", ns=(1, -5_000_000_007))
    os.utime(root, ns=(1, 1_234_567_890_123_456_789))


def describe(root: Path) -> dict[str, Any]:
    """Return all of a tree's state, without any help of the code under test."""
    found: dict[str, Any] = {}
    inodes: dict[int, list[str]] = {}
    if not os.path.lexists(root):
        return found
    everything = [os.fsencode(root)]
    for folder, folders, files in os.walk(os.fsencode(root)):
        everything += [os.path.join(folder, name) for name in folders + files]
    for path in everything:
        status = os.lstat(path)
        key = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
        content: Any = None
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = file.read()
            if status.st_nlink > 1:
                inodes.setdefault(status.st_ino, []).append(key)
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        device = status.st_rdev
        found[key] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content, xattrs, device)
    found["/links"] = sorted(sorted(names) for names in inodes.values() if len(names) > 1)
    return found


def copy(root: Path, to: Path) -> None:
    """Copy a tree exactly, by a program that has nothing to do with the code under test."""
    subprocess.run(["cp", "-a", "--sparse=auto", str(root), str(to)], check=True)


def differences(a: Path, b: Path) -> str:
    """Return what rsync finds different in content, type, mode, owner, time, links, ACLs and attributes."""
    assert RSYNC
    command = [RSYNC, "-aHAXnc", "--delete", "--itemize-changes", f"{a}/", f"{b}/"]
    done = subprocess.run(command, check=True, capture_output=True)
    return done.stdout.decode(errors="backslashreplace")


def mess_up(root: Path, seed: int = 0) -> None:
    """Change a hostile tree in every way, type changes both ways too."""
    (root / "plain.txt").write_bytes(b"changed")
    (root / "added").write_bytes(b"new")
    (root / "new folder" / "x").mkdir(parents=True)
    (root / "new folder" / "x" / "y").write_bytes(b"y")
    (root / "empty").unlink()
    (root / "empty").mkdir()
    (root / "empty" / "inside").write_bytes(b"was a file")
    shutil.rmtree(root / "a" / "b")
    (root / "a" / "b").write_bytes(b"was a folder")
    (root / "link").unlink()
    (root / "link").write_bytes(b"was a link")
    (root / "a-b").unlink()
    os.symlink("/nowhere", root / "a-b")
    (root / "empty folder").rmdir()
    os.symlink("/nowhere", root / "empty folder")
    (root / "pipe").unlink()
    (root / "pipe").mkdir()
    os.chmod(root / "secret", 0o644)
    os.chmod(root / "setuid", 0o755)
    os.removexattr(root / "plain.txt", "user.note")
    os.setxattr(root / "case", "user.more", b"1")
    (root / "linked-1").unlink()
    (root / "linked-1").write_bytes(b"alone")
    os.link(root / "sticky", root / "sticky-2")
    (root / "sparse").write_bytes(b"dense")
    os.unlink(os.fsencode(root) + b"/not-utf8-\xff\xfe")
    os.chmod(root, 0o700)
    if seed:
        (root / f"seed-{seed}").write_bytes(b"%d" % seed)
