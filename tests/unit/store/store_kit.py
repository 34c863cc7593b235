"""What the store's tests share: a content to compare with, and a machine that fails or dies at the Nth call."""

from __future__ import annotations

import errno
import os
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rfs.production.rollback.store import Store
from rfs.production.rollback.store.index import Index

WATCHED = ("open", "write", "fsync", "rename", "unlink", "mkdir", "link")
WATCHED_OF_INDEX = ("add", "drop", "mark", "replace")


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def text(size: int, seed: int = 0) -> bytes:
    """Bytes that do."""
    return (b"line %d of something that repeats\n" % seed * (size // 20 + 1))[:size]


def fill(store: Store, count: int, *, seed: int = 0, size: int = 300) -> dict[bytes, bytes]:
    """Put `count` blobs, half of them noise; return content by id."""
    made = {}
    for number in range(count):
        data = noise(size, seed * 10_000 + number) if number % 2 else text(size, seed * 10_000 + number)
        made[store.put(data)] = data
    return made


def put_pack_of_format_1(store: Store, contents: list[bytes]) -> dict[bytes, bytes]:
    """Put a pack with blobs into a store as release 0.1.0 wrote it; return content by id. `recover` finds it."""
    made = {store.identify(data): data for data in contents}
    name = os.urandom(16)
    header = struct.pack("<8sI16s16s4x", b"rfs pack", 1, bytes.fromhex(store.id), name)
    sealed = [store._sealer.seal_alone(data, blob) for blob, data in made.items()]
    lengths = b"".join(struct.pack("<I", len(each)) for each in sealed)
    sizes = b"".join(struct.pack("<I", len(data)) for data in made.values())
    footer = msgspec.msgpack.encode([0, len(made), bytes(len(made)), lengths, sizes, b"".join(made)])
    end = store._sealer.seal_footer(footer, header)
    pack = b"".join((header, *sealed, end, struct.pack("<I8s", len(end), b"rfs foot")))
    Path(store.path, "packs", f"{name.hex()}.pack").write_bytes(pack)
    return made


def fill_disk(place: Path) -> Path:
    """Leave no room at all on the disk of `place`; return the file to remove."""
    ballast = place / "ballast"
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while True:
            os.write(fd, bytes(4096))
    os.close(fd)
    return ballast


def packs(root: str) -> list[Path]:
    return sorted(Path(root, "packs").glob("*.pack"))


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def assert_holds(store: Store, wanted: dict[bytes, bytes]) -> None:
    for blob, data in wanted.items():
        assert store.has(blob)
        assert store.get(blob) == data


class DiedError(BaseException):
    """The machine is off: nothing that would run in an exception handler runs."""


class Machine:
    """Counts calls that change the disk; at call `at` it fails once with `error`, or dies when that is None."""

    def __init__(self, at: int, error: int | None) -> None:
        self.at = at
        self.error = error
        self.calls = 0
        self.fired = ""
        self.on = True

    def step(self, name: str) -> None:
        if not self.on:
            return
        self.calls += 1
        if self.calls == self.at:
            self.fired = name
            if self.error is not None:
                raise OSError(self.error, os.strerror(self.error))
        if self.fired and self.error is None:
            raise DiedError


def _watched(state: Machine, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        if name == "open" and not args[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            return real(*args, **named)
        try:
            state.step(name)
        except (DiedError, OSError):
            if name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            raise
        return real(*args, **named)

    return call


def _watched_of_index(state: Machine, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        # SQLite's own calls go past `os`: they fail in test_store_space.py, on a disk that is full.
        if state.error is None:
            state.step(f"index.{name}")
        return real(*args, **named)

    return call


@contextmanager
def machine(at: int, error: int | None = None) -> Iterator[Machine]:
    """Let the calls in the block go through a Machine. A write that fails or dies writes half of its bytes first."""
    state = Machine(at, error)
    with pytest.MonkeyPatch.context() as patch:
        for name in WATCHED:
            patch.setattr(os, name, _watched(state, name, getattr(os, name)))
        for name in WATCHED_OF_INDEX:
            patch.setattr(Index, name, _watched_of_index(state, name, getattr(Index, name)))
        try:
            yield state
        finally:
            state.on = False


ERRORS = {"store.no_space": errno.ENOSPC, "store.unwritable": errno.EROFS}
