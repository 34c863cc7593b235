"""One command, and what it cost."""

from __future__ import annotations

import compileall
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import rfs

_EVERY = 0.1


class Cost(NamedTuple):
    """What commands cost, with all processes that they started and waited for.

    Attributes:
        wall: seconds from start to end.
        cpu: seconds of user and system time.
        memory: bytes at the highest moment: shared pages counted once (PSS), sampled ten times a second,
            but at least what the kernel says of the largest process.
        written: bytes that they gave to the kernel to be written to the disk.
    """

    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    written: int = 0

    def then(self, other: Cost) -> Cost:
        """Return what one after the other cost."""
        memory = max(self.memory, other.memory)
        return Cost(self.wall + other.wall, self.cpu + other.cpu, memory, self.written + other.written)


def compile_rfs() -> None:
    """Compile rfs for the commands that are measured: pip does so, and a checkout may not be."""
    compileall.compile_dir(str(Path(rfs.__file__).parent), quiet=2)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def run(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[Cost, str]:
    """Run a command to its end; return what it cost and what it printed.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    os.sync()  # what others left to be written is not this command's
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: SIM115, RUF100 — reaped below, for its resource usage
            argv, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=out, stderr=errors
        )
        sampler = _Sampler(process.pid)
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.end()
        out.seek(0)
        printed = out.read().decode(errors="replace")
        if process.returncode:
            errors.seek(0)
            said = (printed + errors.read().decode(errors="replace"))[-2000:]
            message = f"{' '.join(argv)} ended with {process.returncode}: {said}"
            raise RuntimeError(message)
    memory = max(sampler.highest, usage.ru_maxrss * 1024)
    return Cost(wall, usage.ru_utime + usage.ru_stime, memory, usage.ru_oublock * 512), printed


class _Sampler(threading.Thread):
    """Watches the memory of a process and of all below it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)  # a run that is interrupted does not wait for it
        self.highest = 0
        self._pid, self._ended = pid, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(_EVERY):
            self.highest = max(self.highest, _memory(self._pid))

    def end(self) -> None:
        self._ended.set()
        self.join()


def _memory(pid: int) -> int:
    total = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            total += sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                total += sum(map(_memory, map(int, file.read().split())))
    except OSError:
        pass  # it ended meanwhile
    return total
