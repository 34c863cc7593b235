"""Compiles shim.c, and holds the block of memory through which a sweep commands it."""

from __future__ import annotations

import enum
import errno
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

CONTROL = "RFS_SHIM_CONTROL"
SOURCE = Path(__file__).with_name("shim.c")
MAX_KINDS = 65536

# Shared with `struct control` of shim.c: keep the two layouts equal.
_HEAD = struct.Struct("=IIIIQQQIIII256s256s256s64s")
_ARMED = 0
_GROUP = 48
_SIZE = _HEAD.size + MAX_KINDS


class Fault(enum.StrEnum):
    """What happens at the chosen call.

    KILL: the process group dies before it. TORN: half of a write is done, then death; another
    call is done, then death. ENOSPC, EDQUOT, EIO: it fails once; *_STICKY: it and every later one fail.
    SHUTDOWN: the file system it stands on is shut down, then death (root, ext4 or XFS).
    """

    KILL = "kill"
    TORN = "torn"
    ENOSPC = "ENOSPC"
    EDQUOT = "EDQUOT"
    EIO = "EIO"
    ENOSPC_STICKY = "ENOSPC-sticky"
    EIO_STICKY = "EIO-sticky"
    SHUTDOWN = "shutdown"

    @property
    def deadly(self) -> bool:
        return self in (Fault.KILL, Fault.TORN, Fault.SHUTDOWN)


_CODES = {
    Fault.KILL: (1, 0, 0),
    Fault.TORN: (2, 0, 0),
    Fault.ENOSPC: (3, errno.ENOSPC, 0),
    Fault.EDQUOT: (3, errno.EDQUOT, 0),
    Fault.EIO: (3, errno.EIO, 0),
    Fault.ENOSPC_STICKY: (3, errno.ENOSPC, 1),
    Fault.EIO_STICKY: (3, errno.EIO, 1),
    Fault.SHUTDOWN: (4, 0, 0),
}


class Kind(enum.IntEnum):
    """What sort of call was counted."""

    WRITE = 1
    SIZE = 2
    NAME = 3
    META = 4
    SYNC = 5
    OPEN = 6


def missing() -> str | None:
    """Return why no sweep can run on this machine, or None."""
    if os.uname().sysname != "Linux":
        return "the fault shim needs Linux"
    if compiler() is None:
        return "no C compiler (cc, gcc or clang): the fault shim cannot be compiled"
    return None


def compiler() -> str | None:
    """Return the C compiler's path, or None."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def library() -> Path:
    """Return the compiled shim; it is compiled again when its source has changed."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"rfs-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / f"{digest}.so"
    if not built.exists():
        fresh = folder / f"{digest}.{os.getpid()}"
        # -U_FORTIFY_SOURCE: its macros would redefine the very functions that are interposed.
        flags = ["-O1", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        command = compiler()
        if command is None:
            raise FileNotFoundError(missing())
        subprocess.run([command, *flags, "-o", str(fresh), str(SOURCE), "-ldl"], check=True)
        fresh.rename(built)
    return built


def environment(control: Path) -> dict[str, str]:
    """Return the variables with which a process carries the shim."""
    # Compiled modules written at an import inside an act would shift the count of calls.
    return {**os.environ, "LD_PRELOAD": str(library()), CONTROL: str(control), "PYTHONDONTWRITEBYTECODE": "1"}


def make_control(path: Path) -> None:
    """Make the file that the shim and the sweep share; it must exist before the shim is loaded."""
    path.write_bytes(bytes(_SIZE))


class Control:
    """The shared block, from the side of the sweep."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def set(
        self,
        fault: Fault | None = None,
        at: int = 0,
        *,
        log: str = "",
        graveyard: str = "",
        mount: str = "",
        shutdown_flags: int = 2,
        drop_syncfs: bool = False,
    ) -> None:
        """Reset the counters and choose what will happen once it is armed.

        Args:
            fault: None only counts.
            at: number of the call, from 1.
            log: where successful calls are written down; "" is nowhere.
            graveyard: a folder on the same file system that keeps every inode whose last name went, by its number.
            mount: for SHUTDOWN, the mount point; `shutdown_flags` 1 flushes its log, 2 does not.
            drop_syncfs: syncfs does nothing, for a negative control.
        """
        code, error, sticky = _CODES[fault] if fault else (0, 0, 0)
        head = _HEAD.pack(
            0,
            code,
            error,
            sticky,
            at,
            0,
            0,
            int(drop_syncfs),
            shutdown_flags,
            0,
            0,
            log.encode(),
            graveyard.encode(),
            mount.encode(),
            b"",
        )
        self._map[: _HEAD.size] = head

    def arm(self, group: int) -> None:
        """Count from now on; a deadly fault takes the whole process group `group`."""
        self._map[_GROUP : _GROUP + 4] = struct.pack("=I", group)
        self._map[_ARMED : _ARMED + 4] = struct.pack("=I", 1)

    def disarm(self) -> None:
        self._map[_ARMED : _ARMED + 4] = struct.pack("=I", 0)

    @property
    def count(self) -> int:
        """Calls counted while armed."""
        return int(self._head()[5])

    @property
    def fired(self) -> int:
        """How often the fault was really done."""
        return int(self._head()[6])

    @property
    def what(self) -> str:
        """Name of the call at which it fired first."""
        return bytes(self._head()[14]).rstrip(b"\0").decode()

    def kinds(self) -> list[Kind]:
        """Return the sort of each counted call, the first at index 0."""
        many = min(self.count, MAX_KINDS - 1)
        return [Kind(code) for code in self._map[_HEAD.size + 1 : _HEAD.size + 1 + many]]

    def _head(self) -> tuple[int | bytes, ...]:
        return _HEAD.unpack_from(self._map)
