"""Where the blobs of the packs lie that are being read, so that a large restore asks the index less often."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from contextlib import suppress

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.store.packs import Contents, Entry
from rfs.production.rollback.store.seal import DamagedError

# So many questions to the index cost as much as reading the list of an ordinary pack.
_ASKED_BEFORE_HOLDING = 1_024
# About 180 bytes a blob: two full packs of the smallest blobs take 24 MB. Restores go through packs in their order.
_MOST_HELD = 2


class _Located:
    """The list of one pack, by id."""

    def __init__(self, contents: Contents) -> None:
        self.name = contents.name
        self._contents = contents
        self._offsets = array("Q", contents.offsets())
        self._spans = array("I", contents.spans())
        self._starts = array("i", contents.starts())
        self._numbers = dict(zip(contents.ids(), range(len(contents)), strict=True))

    def find(self, blob: bytes) -> Entry | None:
        number = self._numbers.get(blob)
        if number is None:
            return None
        found = self._contents
        return Entry(
            blob,
            found.types[number],
            self._offsets[number],
            self._spans[number],
            found.sizes[number],
            self._starts[number],
        )


class Nearby:
    """The lists of a few packs. Thread-safe.

    A sealed pack never changes, so that what is said here is true, or the pack is gone or damaged: then
    whoever reads it asks the index.

    Args:
        load: returns what a pack says of itself; raises as `Shelf.contents` does.
    """

    def __init__(self, load: Callable[[str], Contents]) -> None:
        self._load = load
        self._asked: dict[str, int] = {}
        # Replaced as a whole, never changed: it is looked through without the lock.
        self._held: tuple[_Located, ...] = ()
        self._expected: dict[bytes, tuple[str, Entry]] = {}
        self._lock = threading.Lock()

    def find(self, blob: bytes) -> tuple[str, Entry] | None:
        """Return a pack in which a blob lies, and where; None when the index must be asked."""
        expected = self._expected.get(blob)
        if expected is not None:
            return expected
        for pack in self._held:
            entry = pack.find(blob)
            if entry is not None:
                return pack.name, entry
        return None

    def expect(self, places: dict[bytes, tuple[str, Entry]]) -> None:
        """Hold where some blobs lie, instead of those that were expected before."""
        self._expected = places

    def note(self, pack: str) -> None:
        """Note that a blob of a pack was found through the index; the pack's list is held after many."""
        with self._lock:
            asked = self._asked[pack] = self._asked.get(pack, 0) + 1
            if asked < _ASKED_BEFORE_HOLDING:
                return
            self._asked[pack] = 0
            # It only saves time: the index goes on knowing.
            with suppress(DamagedError, FileNotFoundError, RollbackError):
                others = [held for held in self._held if held.name != pack]
                self._held = (_Located(self._load(pack)), *others[: _MOST_HELD - 1])

    def forget(self) -> None:
        """Drop what is held."""
        with self._lock:
            self._held = ()
            self._expected = {}
            self._asked.clear()
