"""Brings keys back: compared with the live ones, fetched whole from the store, then written."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from rfs.plugin import BlobSource, Pulse, TimedOutError
from rfs_redis.keys import NEVER, Key, Live
from rfs_redis.reading import server_time
from rfs_redis.resp import PIECE, Word
from rfs_redis.server import Server

_IN_MEMORY = 16 << 20
_AT_ONCE = 200
_POLL_SECONDS = 0.05


def converge(
    server: Server, source: BlobSource, live: Live, wanted: Iterable[tuple[Key, Sequence[bytes]]], work: str
) -> int:
    """Make the live keys equal to the wanted ones; return how many were changed.

    Keys that are too many go first, to make room. Whatever is interrupted, the next run compares anew.

    Args:
        live: the keys as they are.
        wanted: the keys, and where their DUMPs are.
        work: a folder for what does not fit into the memory.
    """
    now = server_time(server)
    extra = dict(live)
    commands: list[Sequence[Word]] = []
    with _spool(server, work) as spool:
        values: list[tuple[Key, int]] = []
        for key, refs in wanted:
            found = extra.pop(key.name, None)
            if NEVER < key.expires <= now:
                if found is not None:
                    extra[key.name] = found
            elif found is None or not found.same_value(key):
                values.append((key, _fetch(server, source, refs, spool, work)))
            elif found.expires != key.expires:
                commands.append(_expiry(key))
        commands = [*(("UNLINK", name) for name in extra), *commands]
        for at in range(0, len(commands), _AT_ONCE):
            source.tick()
            batch = server.ask_all(commands[at : at + _AT_ONCE])
            source.tick(len(batch))
        spool.seek(0)
        for at in range(0, len(values), _AT_ONCE):
            _write(server, source, values[at : at + _AT_ONCE], spool)
    return len(commands) + len(values)


def _expiry(key: Key) -> Sequence[Word]:
    return ("PERSIST", key.name) if key.expires == NEVER else ("PEXPIREAT", key.name, key.expires)


def _spool(server: Server, work: str) -> IO[bytes]:
    """Return a file for values that are fetched before the first is written. It has no name: a crash removes it."""
    try:
        os.makedirs(work, mode=0o700, exist_ok=True)
    except OSError as error:
        raise server.error("redis.space", path=work, why=error.strerror) from error
    return tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=work)


def _fetch(server: Server, source: BlobSource, refs: Sequence[bytes], spool: IO[bytes], work: str) -> int:
    """Add a value to the spool; return its size."""
    size = 0
    for ref in refs:
        source.tick()
        data = source.get(ref)
        try:
            spool.write(data)
        except OSError as error:
            raise server.error("redis.space", path=work, why=error.strerror) from error
        size += len(data)
    return size


def _write(server: Server, source: BlobSource, values: Sequence[tuple[Key, int]], spool: IO[bytes]) -> None:
    for key, size in values:
        expires = 0 if key.expires == NEVER else key.expires
        source.tick()
        server.send_with(("RESTORE", key.name, expires), size, _pieces(spool, size, source), ("REPLACE", "ABSTTL"))
    for key, _ in values:
        server.right()
        source.tick(1, key.size)


def _pieces(spool: IO[bytes], size: int, pulse: Pulse) -> Iterator[bytes]:
    left = size
    while left:
        pulse.tick()
        piece = spool.read(min(left, PIECE))
        left -= len(piece)
        yield piece


def persist(server: Server, pulse: Pulse) -> None:
    """Have Redis save what it holds, where it saves at all: else a loss of power would bring back half of a restore.

    Raises:
        RollbackError: it could not, or not in time.
    """
    lasting = server.info("persistence")
    if lasting.get("aof_enabled") == "1":
        _save(
            server,
            pulse,
            "BGREWRITEAOF",
            ("aof_rewrite_in_progress", "aof_rewrite_scheduled"),
            "aof_last_bgrewrite_status",
        )
    elif lasting.get("rdb_changes_since_last_save") != "0" and server.ask("CONFIG", "GET", "save")[1:] != [b""]:
        _save(server, pulse, "BGSAVE", ("rdb_bgsave_in_progress",), "rdb_last_bgsave_status")


def _save(server: Server, pulse: Pulse, command: str, running: Sequence[str], result: str) -> None:
    # One that runs already may have begun before the last write.
    _wait(server, pulse, running)
    server.ask(command)
    lasting = _wait(server, pulse, running)
    if lasting.get(result) != "ok":
        raise server.error("redis.unsaved", why=f"{result} is {lasting.get(result)}")


def _wait(server: Server, pulse: Pulse, running: Sequence[str]) -> dict[str, str]:
    while True:
        lasting = server.info("persistence")
        if all(lasting.get(each, "0") == "0" for each in running):
            return lasting
        pulse.tick()
        if pulse.remaining() <= 0:
            raise TimedOutError("timeout", seconds=0)
        time.sleep(_POLL_SECONDS)  # Redis tells nobody when it has saved
