"""What a forked child stores: it fills packs of its own in `tmp/`, and its parent takes them over.

So what the child sealed need not pass through the parent, which is told only what lies where.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

from rfs.production.rollback.store.files import storage_error
from rfs.production.rollback.store.keys import ID_SIZE
from rfs.production.rollback.store.packs import SUFFIX, PackWriter, Place
from rfs.production.rollback.store.seal import Data, Sealer

_COUNTER_SIZE = 4
# What a child filled is sealed as it is when it is large enough, and not more than a sixteenth is stored elsewhere.
WORTH_A_PACK = 8 << 20
_MOST_WASTED = 16


def is_worth_a_pack(size: int) -> bool:
    """Tell whether so many bytes are better kept in a pack of their own than put together with what follows."""
    return size >= WORTH_A_PACK


# A pack's name, and what a Sealed tells of what lies there; the bytes are there already.
Told: TypeAlias = tuple[str, bytes, list[int], list[int], list[int]]


class Annex:
    """The packs of one child. Made by the parent before it forks, used by the child, and swept by the parent.

    Args:
        repository: id of the repository, hex.
        sealer: unlocked, so that the child need not do it.
    """

    def __init__(self, place: Place, repository: str, sealer: Sealer) -> None:
        self._place, self._repository, self._sealer = place, repository, sealer
        # All names begin in the same way: the parent can tell them from others, also if it was not told of one.
        self._stem = os.urandom(ID_SIZE - _COUNTER_SIZE).hex()
        self._count = 0
        self._writer: PackWriter | None = None
        self._seen: set[bytes] = set()
        self._news: list[Told] = []

    # — in the child —

    def has(self, blob: bytes) -> bool:
        """Tell whether the child stored a blob."""
        return blob in self._seen

    def put_all(self, contents: Sequence[Data]) -> list[bytes]:
        """Store blobs unless the child did it before; return their ids.

        Raises:
            RollbackError: store.no_space or store.unwritable.
        """
        blobs = self._sealer.identify_all(contents)
        new = {blob: data for blob, data in zip(blobs, contents, strict=True) if blob not in self._seen}
        if new:
            sealed = self._sealer.seal(new)
            try:
                writer = self._room()
                writer.append_unlisted(sealed)
            except OSError as error:
                raise storage_error(error, self._place.root) from error
            self._seen.update(new)
            self._news.append((writer.name, *sealed[:-1]))
        return blobs

    def taken(self) -> list[Told]:
        """Return what was stored since the last call, in its order: as `Store.adopt` takes it.

        Raises:
            RollbackError: store.no_space or store.unwritable.
        """
        if self._writer is not None:
            try:
                self._writer.drain()
            except OSError as error:
                raise storage_error(error, self._place.root) from error
        news, self._news = self._news, []
        return news

    def leave(self) -> None:
        """Close what is open; a child's end does it as well."""
        if self._writer is not None:
            self._writer.leave()
            self._writer = None

    def _room(self) -> PackWriter:
        if self._writer is not None and self._writer.full:
            self._writer.drain()
            self.leave()
        if self._writer is None:
            self._count += 1
            name = self._stem + self._count.to_bytes(_COUNTER_SIZE, "big").hex()
            self._writer = PackWriter(self._place, self._repository, name)
        return self._writer

    # — in the parent —

    def sweep(self) -> None:
        """Remove what the parent was not told of, once the child has ended; else `recover` does it."""
        with suppress(OSError), os.scandir(self._place.tmp) as entries:
            for entry in entries:
                if entry.name.startswith(self._stem) and entry.name.endswith(SUFFIX):
                    os.unlink(entry.path)


class Annexes:
    """What a parent has to do with its children's packs. Not thread-safe.

    Attributes:
        writers: the packs that are taken over and not settled, by name.
    """

    def __init__(self, place: Place, repository: str, sealer: Sealer) -> None:
        self._place, self._repository, self._sealer = place, repository, sealer
        self._annexes: list[Annex] = []
        self.writers: dict[str, PackWriter] = {}
        self._wasted = 0

    def make(self) -> Annex:
        """Return what a child that is forked now may store into."""
        annex = Annex(self._place, self._repository, self._sealer)
        self._annexes.append(annex)
        return annex

    def writer(self, name: str) -> PackWriter:
        """Return a child's pack, taken over.

        Raises:
            OSError: it cannot be opened.
        """
        if name not in self.writers:
            self.writers[name] = PackWriter(self._place, self._repository, name, adopted=True)
        return self.writers[name]

    def waste(self, size: int) -> None:
        """Note that so many bytes of the pack that was taken over last are stored elsewhere, too."""
        self._wasted += size

    def next_to_settle(self) -> tuple[PackWriter, bool]:
        """Return a pack, and whether it is worth being sealed as it is; else what it holds belongs into another."""
        wasted, self._wasted = self._wasted, 0
        writer = next(iter(self.writers.values()))
        return writer, is_worth_a_pack(writer.size) and wasted * _MOST_WASTED <= writer.size

    def sweep(self) -> None:
        """Remove what children left, once they have ended."""
        for annex in self._annexes:
            annex.sweep()
        self._annexes.clear()

    def clear(self) -> None:
        """Drop everything."""
        for writer in self.writers.values():
            writer.abandon()
        self.writers.clear()
        self._wasted = 0
        self.sweep()
