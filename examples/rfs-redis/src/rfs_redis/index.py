"""Where the DUMP of a value lies in the store, from one capture to the next.

It is kept in the component's work folder, and may vanish: then values are dumped again, and the store finds
that it has most of them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from types import TracebackType

import msgspec

from rfs_redis.keys import Key

_Entries = dict[bytes, list[bytes]]
_NAME = "dumps-1"


class Index:
    """Used with `with`: only the index of a capture that succeeded is kept."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._old: _Entries = {}
        self._new: _Entries = {}

    def refs(self, key: Key) -> list[bytes] | None:
        """Return the ids of the blobs that hold this value, if it was stored once."""
        found = self._old.get(_identity(key))
        if found is not None:
            self.add(key, found)
        return found

    def add(self, key: Key, refs: list[bytes]) -> None:
        self._new[_identity(key)] = refs

    def __enter__(self) -> Index:
        path = os.path.join(self._work, _NAME)
        # None yet, or not a whole one: then nothing is known.
        with suppress(OSError, msgspec.DecodeError), open(path, "rb") as file:
            self._old = msgspec.msgpack.decode(file.read(), type=_Entries)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None or self._new == self._old:
            return
        fresh = os.path.join(self._work, f"{_NAME}.new")
        with suppress(OSError):  # without it the next capture is only slower
            os.makedirs(self._work, mode=0o700, exist_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.msgpack.encode(self._new))
            os.replace(fresh, os.path.join(self._work, _NAME))


def _identity(key: Key) -> bytes:
    return f"{key.kind} ".encode() + key.digest
