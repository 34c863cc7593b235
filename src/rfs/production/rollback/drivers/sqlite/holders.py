"""Who has a database open now, as the kernel tells, without touching the database or its locks."""

from __future__ import annotations

import os

# What SQLite locks: of the database while it reads in a transaction, of the log's index while it has it open.
_SHARED = range(0x40000002, 0x40000002 + 510)
_INDEX_IN_USE = range(128, 129)
_SHOWN = 3
_LOCKS = "/proc/locks"
_WORDS = 8


def readers(path: str) -> list[str]:
    """Return who reads from a database with a rollback journal at this moment, as "python3 (123)"."""
    return _named(_holders(path, _SHARED))


def openers(path: str) -> list[str]:
    """Return who has a database with a write-ahead log open, as "python3 (123)"."""
    return _named(_holders(path + "-shm", _INDEX_IN_USE))


def shown(names: list[str]) -> str:
    """Return some of the names for a sentence."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _holders(path: str, where: range) -> set[int]:
    try:
        found = os.stat(path)
        with open(_LOCKS, encoding="ascii") as file:
            lines = file.read().splitlines()
    except OSError:
        return set()
    inode = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    pids: set[int] = set()
    for line in lines:
        # "1: POSIX  ADVISORY  READ 123 08:01:456 0 EOF"; of one that only waits, "->" stands before the kind.
        words = line.split()
        if len(words) == _WORDS and words[5] == inode:
            last = where.stop if words[7] == "EOF" else int(words[7])
            if int(words[6]) < where.stop and last >= where.start and int(words[4]) > 0:
                pids.add(int(words[4]))
    return pids


def _named(pids: set[int]) -> list[str]:
    names = []
    for pid in sorted(pids):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
                names.append(f"{file.read().strip()} ({pid})")
        except OSError:
            names.append(f"process {pid}")
    return names
