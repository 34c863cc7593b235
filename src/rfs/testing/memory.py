"""For authors of drivers: a store in memory, components on the fly, and a component in memory."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSink, BlobSource, Driver
from rfs.production.rollback.errors import IntegrityError, TimedOutError
from rfs.production.rollback.model import Capture, Component, Fingerprint, Restored

_KEY = blake3(b"rfs.testing: ids are keyed, as in a real store, so that nobody computes them beside it").digest()


class MemoryStore:
    """A BlobSink and BlobSource that holds everything in dictionaries.

    Attributes:
        blobs: content by id; spoil it to see what a damaged store does: `get` verifies.
        parts: (refs, body) by id.
        ticks: how often `tick` was called.
        time_out_at: the number of the tick at which the time is over; None is never.
    """

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}
        self.parts: dict[bytes, tuple[list[bytes], bytes]] = {}
        self.ticks = 0
        self.still = False
        self.time_out_at: int | None = None

    def tick(self, items: int = 0, size: int = 0) -> None:
        self.ticks += 1
        if self.time_out_at is not None and self.ticks >= self.time_out_at:
            raise TimedOutError("timeout", seconds=0)

    def remaining(self) -> float:
        return 60.0

    def identify(self, data: bytes) -> bytes:
        return blake3(data, key=_KEY).digest()

    def has(self, blob: bytes) -> bool:
        return blob in self.blobs

    def put(self, data: bytes) -> bytes:
        blob = self.identify(data)
        self.blobs[blob] = bytes(data)
        return blob

    def put_all(self, contents: Sequence[bytes]) -> list[bytes]:
        return [self.put(data) for data in contents]

    def put_part(self, refs: Sequence[bytes], body: bytes) -> bytes:
        part = self.identify(b"".join(refs) + body)
        self.parts[part] = (list(refs), body)
        return part

    def get(self, blob: bytes) -> bytes:
        try:
            data = self.blobs[blob]
        except KeyError:
            raise IntegrityError("store.blob_missing", blob=blob.hex()[:12]) from None
        if self.identify(data) != blob:
            raise _damaged(blob)
        return data

    def expect(self, blobs: Collection[bytes]) -> None:
        pass

    def get_part(self, part: bytes) -> tuple[list[bytes], bytes]:
        try:
            refs, body = self.parts[part]
        except KeyError:
            raise IntegrityError("store.blob_missing", blob=part.hex()[:12]) from None
        if self.identify(b"".join(refs) + body) != part:
            raise _damaged(part)
        return list(refs), body


def _damaged(blob: bytes) -> IntegrityError:
    return IntegrityError("store.damaged", what=f"blob {blob.hex()[:12]}", hint="Choose another checkpoint.")


def component(kind: str, home: Path, *, name: str = "part", carved: Sequence[str] = (), **options: Any) -> Component:
    """Return a component whose private folder is `home/.work/NAME`, made when missing."""
    work = home / ".work" / name
    work.mkdir(parents=True, exist_ok=True)
    return Component(name=name, kind=kind, options=options, home=str(home), work=str(work), carved=tuple(carved))


def save_capture(path: Path, store: MemoryStore, capture: Capture) -> None:
    """Write a capture with all its parts and blobs into one file, for a test of a later release.

    Args:
        path: the file to make.
        store: where `capture` lies.
    """
    parts = {part: store.parts[part] for part in capture.parts}
    blobs = {ref: store.blobs[ref] for refs, _ in parts.values() for ref in refs}
    path.write_bytes(
        msgspec.json.format(msgspec.json.encode(_Saved(capture, list(parts.items()), list(blobs.items()))))
    )


def load_capture(path: Path) -> tuple[MemoryStore, Capture]:
    """Return a new store and the capture in it that `save_capture` wrote."""
    saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    store = MemoryStore()
    # Put anew: how ids are made is no part of what is promised.
    ids = {blob: store.put(data) for blob, data in saved.blobs}
    parts = {part: store.put_part([ids[ref] for ref in refs], body) for part, (refs, body) in saved.parts}
    return store, msgspec.structs.replace(saved.capture, parts=tuple(parts[part] for part in saved.capture.parts))


class _Saved(msgspec.Struct, frozen=True):
    capture: Capture
    parts: list[tuple[bytes, tuple[list[bytes], bytes]]]
    blobs: list[tuple[bytes, bytes]]


class MemoryOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of MemoryDriver: none."""


class MemoryDriver(Driver):
    """A component that is one JSON value in this process: the smallest driver that is right.

    `value` is the live state. `fail_in` names methods that raise, for tests of the engine.
    """

    kind = "memory"
    options = MemoryOptions

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.fail_in: set[str] = set()

    def _point(self, method: str) -> None:
        if method in self.fail_in:
            raise IntegrityError("store.damaged", what=f"{method} was told to fail", hint="It is a test.")

    def _encoded(self) -> bytes:
        return json.dumps(self.value, sort_keys=True).encode()

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        self._point("capture")
        data = self._encoded()
        part = sink.put_part([sink.put(data)], b"")
        return Capture(
            component=c.name, kind=self.kind, fingerprint=self.fingerprint(c, rehash=True), parts=(part,), entries=1
        )

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        data = self._encoded()
        return Fingerprint(blake3(data).hexdigest(), 1, len(data))

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        self._point("restore")
        (blob,), _ = source.get_part(want.parts[0])
        value = json.loads(source.get(blob))
        changed = value != self.value
        self.value = value
        return Restored(int(changed))
