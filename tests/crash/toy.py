"""Small protocols, right ones and wrong ones: the harness must tell them apart before it judges rfs."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.harness import Scenario

from rfs.production.rollback.errors import RollbackError

OLD, NEW = b"old " * 500, b"new!" * 700


@contextmanager
def clear_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RollbackError("store.unwritable", path="toy", why=error.strerror) from error


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view[:1000]) :]


class Replace(Scenario):
    """One file, replaced rightly: temporary file, fsync, rename, fsync of the folder."""

    seconds = 2.0

    def prepare(self, world: Path) -> None:
        (world / "live").mkdir()
        write(world / "live" / "a", OLD)

    def act(self, world: Path) -> None:
        with clear_errors():
            self.replace(world / "live" / "a")

    def replace(self, path: Path) -> None:
        fresh = path.with_name("a.new")
        write(fresh, NEW)
        self.sync_file(fresh)
        fresh.rename(path)
        self.sync_folder(path.parent)

    def sync_file(self, path: Path) -> None:
        sync(path)

    def sync_folder(self, path: Path) -> None:
        sync(path)

    def recover(self, world: Path) -> None:
        (world / "live" / "a.new").unlink(missing_ok=True)

    def judge(self, world: Path) -> str:
        if sorted(os.listdir(world / "live")) != ["a"]:
            return f"mixed: {sorted(os.listdir(world / 'live'))}"
        return {OLD: "old", NEW: "new"}.get((world / "live" / "a").read_bytes(), "corrupt: half a file")


class ReplaceInPlace(Replace):
    def replace(self, path: Path) -> None:
        write(path, NEW)
        sync(path)


class ReplaceWithoutFileSync(Replace):
    def sync_file(self, path: Path) -> None:
        pass


class ReplaceWithoutFolderSync(Replace):
    def sync_folder(self, path: Path) -> None:
        pass


class ReplaceSwallowingErrors(Replace):
    def act(self, world: Path) -> None:
        try:
            self.replace(world / "live" / "a")
        except OSError:
            return


class ReplaceWithTraceback(Replace):
    def act(self, world: Path) -> None:
        self.replace(world / "live" / "a")


class ReplaceHanging(Replace):
    seconds = 0.3

    def act(self, world: Path) -> None:
        try:
            self.replace(world / "live" / "a")
        except OSError:
            time.sleep(60)


class Pair(Scenario):
    """Two files that must change together, exchanged in under a journal that is written first."""

    seconds = 2.0

    def prepare(self, world: Path) -> None:
        (world / "live").mkdir()
        (world / "side").mkdir()
        for name in "ab":
            write(world / "live" / name, OLD)

    def act(self, world: Path) -> None:
        with clear_errors():
            for name in "ab":
                write(world / "side" / name, NEW)
                sync(world / "side" / name)
            sync(world / "side")
            self.begin(world)
            self.go_on(world)

    def begin(self, world: Path) -> None:
        inodes = [str((world / "side" / name).stat().st_ino) for name in "ab"]
        self.note(world, " ".join(inodes))

    def note(self, world: Path, text: str) -> None:
        write(world / "journal.new", text.encode())
        sync(world / "journal.new")
        (world / "journal.new").rename(world / "journal")
        sync(world)

    def go_on(self, world: Path) -> None:
        for name, wanted in zip("ab", (world / "journal").read_text().split(), strict=True):
            self.step(world, name, wanted)
        sync(world / "live")
        sync(world / "side")
        (world / "journal").unlink()
        sync(world)

    def step(self, world: Path, name: str, wanted: str) -> None:
        # An exchange is its own inverse: only an inode that is still the old one is exchanged.
        if str((world / "live" / name).stat().st_ino) != wanted:
            exchange(world / "side" / name, world / "live" / name)

    def recover(self, world: Path) -> None:
        if (world / "journal").exists():
            self.go_on(world)

    def judge(self, world: Path) -> str:
        found = {(world / "live" / name).read_bytes() for name in "ab"}
        if len(found) > 1:
            return "mixed: one file is new and one is old"
        return {OLD: "old", NEW: "new"}.get(found.pop(), "corrupt: half a file")


class PairExchangedAgain(Pair):
    """Repeats an exchange without looking, and so takes it back."""

    def step(self, world: Path, name: str, wanted: str) -> None:
        exchange(world / "side" / name, world / "live" / name)


class PairWithoutJournal(Pair):
    def recover(self, world: Path) -> None:
        pass


class PairDoneBeforeStep(Pair):
    """Writes that a step is done before it does it."""

    def go_on(self, world: Path) -> None:
        names = {"a": 0, "b": 1}
        wanted = (world / "journal").read_text().split()
        for name, at in names.items():
            if len(wanted) < at + 3:
                self.note(world, " ".join([*wanted[:2], *"x" * (at + 1)]))
                wanted = (world / "journal").read_text().split()
                self.step(world, name, wanted[at])
        sync(world / "live")
        sync(world / "side")
        (world / "journal").unlink()
        sync(world)


class PairSecondRecoverChanges(Pair):
    def recover(self, world: Path) -> None:
        super().recover(world)
        os.utime(world / "live")


def exchange(first: Path, second: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    checked(libc.renameat2(-100, os.fsencode(first), -100, os.fsencode(second), 2))


class EveryCall(Scenario):
    """Changes a tree in every way the shim knows; see test_crash_shim."""

    def prepare(self, world: Path) -> None:
        (world / "live").mkdir()
        for name in "abcdef":
            write(world / "live" / name, name.encode() * 3000)
        os.link(world / "live" / "a", world / "live" / "a2")
        (world / "live" / "folder").mkdir()

    def act(self, world: Path) -> None:
        os.chdir(world / "live")
        for call in every_call():
            call()

    def judge(self, world: Path) -> str:
        return "new"


def every_call() -> list[Callable[[], object]]:
    """Return calls of every interposed function, to be made in order inside a folder as EveryCall prepares it."""
    libc = ctypes.CDLL(None, use_errno=True)
    a = os.open("a", os.O_RDWR)
    folder = os.open("folder", os.O_RDONLY)
    here = os.open(".", os.O_RDONLY)

    def named(function: object, *values: object) -> Callable[[], object]:
        return lambda: checked(function(*values))

    return [
        lambda: write(Path("made"), b"x" * 99),
        lambda: os.close(os.open("in", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=folder)),
        lambda: write(Path("b"), b"shorter"),
        lambda: os.write(a, b"written"),
        lambda: os.pwrite(a, b"pwritten", 5000),
        lambda: os.writev(a, [b"vec", b"tor"]),
        lambda: os.pwritev(a, [b"pvec", b"tor"], 100),
        lambda: os.ftruncate(a, 2000),
        lambda: os.truncate("c", 10),
        lambda: os.posix_fallocate(a, 0, 6000),
        named(libc.fallocate, a, 3, ctypes.c_long(0), ctypes.c_long(4096)),
        lambda: os.copy_file_range(os.open("d", os.O_RDONLY), a, 500, 0, 50),
        lambda: os.sendfile(a, os.open("d", os.O_RDONLY), 0, 40),
        lambda: os.rename("d", "d2"),
        lambda: os.rename("d2", "in2", src_dir_fd=here, dst_dir_fd=folder),
        lambda: os.rename("e", "f"),
        lambda: exchange(Path("b"), Path("c")),
        lambda: exchange(Path("folder"), Path("c")),
        lambda: exchange(Path("folder"), Path("c")),
        lambda: os.link("f", "f2"),
        lambda: os.link("f", "f3", src_dir_fd=here, dst_dir_fd=folder),
        lambda: os.rename("f", "f2"),
        lambda: os.symlink("nowhere", "symlink"),
        lambda: os.symlink("nowhere", "symlink", dir_fd=folder),
        lambda: os.unlink("a2"),
        lambda: os.unlink("in", dir_fd=folder),
        lambda: Path("sub").mkdir(),
        lambda: os.mkdir("sub", dir_fd=folder),
        lambda: os.rmdir("sub", dir_fd=folder),
        lambda: os.mkfifo("fifo"),
        lambda: os.chmod("f2", 0o600),
        lambda: os.fchmod(a, 0o640),
        lambda: os.chmod("in2", 0o604, dir_fd=folder),
        lambda: os.utime("f2", ns=(1, 123456789)),
        lambda: os.utime(a, ns=(1, 1234567890123)),
        lambda: os.utime("symlink", ns=(1, 77), follow_symlinks=False),
        lambda: os.chown("f2", os.getuid(), os.getgid()),
        lambda: os.fchown(a, os.getuid(), os.getgid()),
        lambda: os.chown("symlink", os.getuid(), os.getgid(), follow_symlinks=False),
        lambda: os.setxattr("f2", "user.one", b"1"),
        lambda: os.setxattr(a, "user.two", b"2"),
        lambda: os.setxattr("c", "user.three", b"3", follow_symlinks=False),
        lambda: os.setxattr("c", "user.four", b"4"),
        lambda: os.removexattr("c", "user.four"),
        lambda: os.removexattr(a, "user.two"),
        lambda: os.fsync(a),
        lambda: os.fdatasync(a),
        lambda: os.fsync(folder),
        named(libc.syncfs, here),
        lambda: os.utime("folder", ns=(1, 99)),
    ]


def checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
