"""A real systemd as process 1 of namespaces of its own, and tests whose bodies run in there.

A test marked `@pytest.mark.inside_systemd` is called by a child of this process that has entered the
namespaces (see conftest.py); its fixtures are made outside. Of this machine it sees everything, read-only but
for the folder of temporary files; /run, /etc/systemd and systemd's own units are its own. Nothing of that is
mounted out here, and all of it is gone when its process 1 is killed, which the kernel does when this process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import traceback
import unittest
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rfs.production.rollback.drivers.service.family import process_table

UNITS = Path("/etc/systemd/system")
_BOOT_SECONDS = 30.0
_UNSHARE = "setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount --cgroup --uts --ipc --net --mount-proc"
_NAMESPACES = ("cgroup", "ipc", "uts", "net", "pid", "mnt")
_TARGETS = ("basic", "multi-user", "paths", "shutdown", "slices", "sockets", "sysinit", "timers")
_JOURNAL = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")

# The first line is the one that keeps every other from reaching this machine's own mounts.
_BOOT = """\
set -eu
mount --make-rprivate /
# What other tests have mounted there must not be held busy in here.
while read -r _ place _; do
  for folder in "$@"; do case $place in "$folder"/*) umount -l "$place" || :;; esac; done
done < /proc/self/mounts
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/units /run/dev /run/dev/shm
for unit in $UNITS; do cp /usr/lib/systemd/system/$unit /run/units/; done
for folder in /etc/systemd /usr/lib/systemd /usr/local/lib/systemd /lib/systemd; do
  for each in system user system-generators user-generators; do
    test ! -d $folder/$each || mount -t tmpfs -o mode=755 tmpfs $folder/$each
  done
done
mv /run/units/* /usr/lib/systemd/system/
for folder in /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs $folder; done
mount -t tmpfs -o mode=755 tmpfs /run/dev
for node in null zero full random urandom tty; do touch /run/dev/$node; mount --bind /dev/$node /run/dev/$node; done
ln -s /proc/self/fd /run/dev/fd
for number in 0 1 2; do ln -s fd/$number /run/dev/std$number; done
mv /run/dev/std0 /run/dev/stdin; mv /run/dev/std1 /run/dev/stdout; mv /run/dev/std2 /run/dev/stderr
mkdir -m 1777 /run/dev/shm
mount --move /run/dev /dev
for folder in "$@"; do mount --bind "$folder" "$folder"; done
mount --bind /proc/sys /proc/sys
for place in / /sys /proc/sys; do mount -o remount,bind,ro $place; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n' > /run/machine-id
mount --bind /run/machine-id /etc/machine-id
hostname rfs-test
printf '[Unit]\\nDefaultDependencies=no\\nWants=basic.target systemd-journald.service\\n' \\
  > /etc/systemd/system/rfs-test.target
export container=rfs-test
exec setpriv --bounding-set=-sys_module,-sys_boot,-sys_time,-sys_rawio,-syslog,-mknod \\
  /usr/bin/systemd --system --unit=rfs-test.target --log-target=console --log-level=notice --show-status=no
"""


class Host:
    """Args: writable: folders of this machine that may be written from inside, at the same paths."""

    def __init__(self, *writable: Path, name: str = "test") -> None:
        _refuse_where_impossible()
        self.cgroup = _cgroup2() / f"rfs-{name}-{os.getpid()}"
        self._first: subprocess.Popen[bytes] | None = None
        self.pid = 0
        """Of its process 1, as this machine counts."""
        try:
            self._boot(writable)
        except BaseException:  # whatever interrupts it, nothing may be left
            self.stop()
            raise

    def _boot(self, writable: tuple[Path, ...]) -> None:
        self.cgroup.mkdir(exist_ok=True)  # a run that was killed had the same number
        # It joins the group before it is told apart from the machine's: its root is that group then.
        join = f'echo $$ > "{self.cgroup}/cgroup.procs" && exec {_UNSHARE} sh -c "$@"'
        # The path of a Unix socket has room for 107 bytes.
        folder = tempfile.mkdtemp(prefix="rfs-")
        try:
            with (
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as ready,
                tempfile.TemporaryFile() as said,
            ):
                ready.bind(f"{folder}/ready")
                ready.settimeout(0.2)
                self._first = subprocess.Popen(
                    ["sh", "-c", join, "sh", _BOOT, "boot", tempfile.gettempdir(), *map(str, writable)],
                    env={
                        "PATH": os.environ["PATH"],
                        "UNITS": " ".join([*(f"{name}.target" for name in _TARGETS), *_JOURNAL]),
                        "NOTIFY_SOCKET": f"{folder}/ready",
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                )
                self._wait(ready, said)
        finally:
            shutil.rmtree(folder)
        (self.pid,) = (pid for pid, process in process_table().items() if process.parent == self._first.pid)

    def _wait(self, ready: socket.socket, said: Any) -> None:
        until = time.monotonic() + _BOOT_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in ready.recv(4096):
                    return
            assert self._first is not None
            ended = self._first.poll() is not None
            if ended or time.monotonic() > until:
                said.seek(0)
                text = said.read().decode(errors="replace").strip()[-600:]
                pytest.skip(f"no systemd in namespaces: {'it ended' if ended else 'it is not ready'}: {text}")

    def stop(self) -> None:
        """End it, and everything in it."""
        if self._first is not None:
            # Whoever started it reaps it; without --fork's child, that one is killed, and its child with it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid or self._first.pid, signal.SIGKILL)
            self._first.wait()
        until = time.monotonic() + 10
        while self.cgroup.is_dir():
            for folder, _, _ in os.walk(self.cgroup, topdown=False):
                with contextlib.suppress(OSError):  # the last of its processes is just ending
                    os.rmdir(folder)
            assert time.monotonic() < until, f"{self.cgroup} holds processes still"
            time.sleep(0.01)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function inside, in a process of its own that belongs to no unit.

        What it raises is raised here: as a failure with its traceback, or as a skip.
        """
        reader, writer = os.pipe()
        child = _fork()
        if child == 0:
            self._enter(function, writer)
        os.close(writer)
        with open(reader, "rb") as file:
            answer = file.read()
        _, status = os.waitpid(child, 0)
        if not answer:
            pytest.fail(
                f"what ran inside ended with status {os.waitstatus_to_exitcode(status)} and said nothing", pytrace=False
            )
        skipped, text = pickle.loads(answer)
        if skipped:
            pytest.skip(text)
        if text:
            pytest.fail(text, pytrace=False)

    def _enter(self, function: Callable[[], object], writer: int) -> NoReturn:
        """In the forked child: go inside, and call it there. The process namespace holds for children only."""
        status = 1
        try:
            opened = [os.open(f"/proc/{self.pid}/ns/{name}", os.O_RDONLY) for name in _NAMESPACES]
            for descriptor in opened:
                _setns(descriptor)
                os.close(descriptor)
            child = os.fork()
            if child:
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF
            else:
                os.write(writer, pickle.dumps(_outcome(function)))
                status = 0
        finally:
            os._exit(status)


def _outcome(function: Callable[[], object]) -> tuple[bool, str]:
    """Return (whether it was skipped, why it was skipped or how it failed)."""
    try:
        _be_nobodys()
        function()
    except (unittest.SkipTest, pytest.skip.Exception) as error:
        return True, str(error)
    except BaseException:  # a failed assertion, an interruption: all of it is told outside
        return False, traceback.format_exc()
    return False, ""


def _be_nobodys() -> None:
    group = Path("/sys/fs/cgroup/nobodys")
    group.mkdir(exist_ok=True)
    (group / "cgroup.procs").write_text("0")


def _fork() -> int:
    with warnings.catch_warnings():
        # Since 3.12 about the threads of pytest's workers: the child runs none of their code, and never returns.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _setns(descriptor: int) -> None:
    # os.setns is there since Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _refuse_where_impossible() -> None:
    if os.geteuid() != 0:
        pytest.skip("no systemd in namespaces: that needs root")
    missing = [tool for tool in ("systemd", "systemctl", "unshare", "setpriv") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no systemd in namespaces: there is no {', '.join(missing)}")


def _cgroup2() -> Path:
    with open("/proc/self/mounts", encoding="utf-8") as file:
        for line in file:
            _, place, kind, options, *_ = line.split()
            if kind == "cgroup2" and "rw" in options.split(","):
                return Path(place)
    return pytest.skip("no systemd in namespaces: no cgroup2 is mounted that may be written")


@pytest.fixture(scope="session")
def systemd_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Give a booted systemd, one for each process that runs tests."""
    host = Host(tmp_path_factory.getbasetemp())
    yield host
    host.stop()


# — for use inside —


def systemctl(*arguments: str, check: bool = True) -> str:
    """Run systemctl inside; return what it prints."""
    ran = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    assert not check or ran.returncode == 0, f"systemctl {' '.join(arguments)}: {ran.stderr}"
    return ran.stdout.strip()


def prop(unit: str | None, name: str) -> str:
    """Return a property of a unit; of systemd itself for None."""
    return systemctl("show", "--value", f"--property={name}", *(["--", unit] if unit else []))


def write_unit(name: str, text: str) -> Path:
    """Write a unit file, or a drop-in ("web.service.d/x.conf"), without telling systemd."""
    path = UNITS / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def raze() -> None:
    """Stop and remove every unit that a test made."""
    ours = [path for path in UNITS.iterdir() if path.name != "rfs-test.target"]
    names = [path.name for path in ours if not path.is_dir() and "@." not in path.name]
    if any("@." in path.name for path in ours):
        shown = systemctl("show", "--all", "--property=Id", "--", "*@*").splitlines()
        names += [line.removeprefix("Id=") for line in shown if line]
    # What listens would start again what is stopped.
    starters = [name for name in names if name.endswith((".socket", ".timer", ".path"))]
    for which in (starters, sorted({*names} - {*starters})):
        if which:
            systemctl("stop", "--", *which, check=False)
    for path in ours:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if ours:
        systemctl("daemon-reload")
        systemctl("reset-failed")
