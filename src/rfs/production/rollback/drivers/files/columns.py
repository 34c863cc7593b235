"""A folder while it is looked at: as it was listed, as it was known before, and what is found out about its entries."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

from rfs.production.rollback.driver import BlobSink
from rfs.production.rollback.drivers.files.tree import (
    DIGEST,
    NONE,
    PLAIN,
    ROW_BYTES,
    Block,
    Chunk,
    Extra,
    empty_block,
    names_in,
    pack_rows,
)

# So many bytes of contents are held before they are stored.
_TOGETHER = 4 << 20


class Folder(NamedTuple):
    """A folder as it was listed.

    Attributes:
        names: sorted, joined by NUL.
        rows: of numbers, which belong to them.
        stamp: if any.
    """

    path: str
    names: bytes
    rows: bytes
    counted: bool
    left_out: bool
    loose: bool
    stamp: bytes

    @property
    def entries(self) -> int:
        """How many it has."""
        return len(self.rows) // ROW_BYTES

    def listed(self) -> list[str]:
        """Return the names."""
        return names_in(self.names, self.rows)


class Row(NamedTuple):
    """One entry as it is known."""

    numbers: tuple[int, ...]
    digest: bytes
    blob: bytes
    extra: Extra
    chunks: list[Chunk] | None


class Before:
    """A folder's block of an earlier look, asked by name.

    Args:
        block: None when there was no earlier look.
        held: whether the store surely has all of it.

    Attributes:
        block: the block, empty when there was none.
    """

    def __init__(self, block: Block | None, *, held: bool) -> None:
        self.block = empty_block() if block is None else block
        self._places: dict[str, int] | None = None
        self.held = held

    def __len__(self) -> int:
        return len(self.block)

    def place(self, name: str) -> int:
        """Return where an entry is, or -1."""
        return self.places([name])[0]

    def places(self, names: Sequence[str]) -> list[int]:
        """Return where entries are, or -1."""
        if self._places is None:
            self._places = {name: at for at, name in enumerate(self.block.listed())}
        return list(map(self._places.get, names, repeat(-1)))

    def stored(self, name: str, digest: bytes) -> tuple[bytes, list[Chunk] | None]:
        """Return where the store has the content of an entry, if that is still this one."""
        at = self.place(name)
        if at < 0 or self.block.digests[at * DIGEST : (at + 1) * DIGEST] != digest:
            return NONE, None
        return self.block.blobs[at * DIGEST : (at + 1) * DIGEST], self.block.chunks.get(at)

    def row(self, at: int) -> Row:
        """Return one entry of it."""
        block = self.block
        return Row(
            tuple(array("Q", block.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES])),
            block.digests[at * DIGEST : (at + 1) * DIGEST],
            block.blobs[at * DIGEST : (at + 1) * DIGEST],
            block.extras.get(at, PLAIN),
            block.chunks.get(at),
        )


class Columns:
    """A folder's entries by position, while it is looked at.

    Attributes:
        changed: rows that are no longer as they were listed.
        gone: entries that are no longer there.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.changed: dict[int, bytes] = {}
        self.digests = [NONE] * folder.entries
        self.blobs = [NONE] * folder.entries
        self.extras: dict[int, Extra] = {}
        self.chunks: dict[int, list[Chunk]] = {}
        self.gone: set[int] = set()

    def take_over(self, old: Block) -> list[int]:
        """Take from a folder with the same names what did not change; return the positions of the other entries."""
        own, theirs = split(self._folder.rows, ROW_BYTES), split(old.rows, ROW_BYTES)
        others = [at for at, (row, other) in enumerate(zip(own, theirs, strict=True)) if row != other]
        self.digests, self.blobs = split(old.digests, DIGEST), split(old.blobs, DIGEST)
        self.extras, self.chunks = dict(old.extras), dict(old.chunks)
        for at in others:
            self.digests[at] = self.blobs[at] = NONE
            self.extras.pop(at, None)
            self.chunks.pop(at, None)
        return others

    def take(self, at: int, row: Row | None) -> None:
        """Note what one entry is; None when it is gone."""
        if row is None:
            self.gone.add(at)
            return
        self.changed[at], self.digests[at], self.blobs[at] = pack_rows(row.numbers), row.digest, row.blob
        if row.extra is not PLAIN:
            self.extras[at] = row.extra
        if row.chunks is not None:
            self.chunks[at] = row.chunks

    def block(self) -> tuple[Block, list[bytes]]:
        """Return what is there as a block that lacks `blobs`, and these, some of which may not be known yet."""
        names, digests, blobs, extras, chunks = self._folder.names, self.digests, self.blobs, self.extras, self.chunks
        rows = self._folder.rows
        if self.changed:
            now = split(rows, ROW_BYTES)
            for at, row in self.changed.items():
                now[at] = row
            rows = b"".join(now)
        if self.gone:
            listed, now = self._folder.listed(), split(rows, ROW_BYTES)
            there = [at for at in range(len(listed)) if at not in self.gone]
            names, rows = os.fsencode("\0".join([listed[at] for at in there])), b"".join([now[at] for at in there])
            digests, blobs = [digests[at] for at in there], [blobs[at] for at in there]
            extras = {new: extras[at] for new, at in enumerate(there) if at in extras}
            chunks = {new: chunks[at] for new, at in enumerate(there) if at in chunks}
        return Block(names, rows, b"".join(digests), b"", extras, chunks, []), blobs


class Unstored:
    """Contents that are read and not yet stored. Storing many at once is faster."""

    def __init__(self, sink: BlobSink | None) -> None:
        self._sink = sink
        self._wanted: list[tuple[list[bytes], Sequence[int]]] = []
        self._contents: list[bytes] = []
        self._size = 0

    def add(self, blobs: list[bytes], places: Sequence[int], contents: list[bytes]) -> None:
        """Take contents, whose ids will be wanted at these positions of a list; empty ones have none."""
        if not all(contents):
            places = [at for at, data in zip(places, contents, strict=True) if data]
            contents = [data for data in contents if data]
        self._wanted.append((blobs, places))
        self._contents += contents
        self._size += sum(map(len, contents))
        if self._size >= _TOGETHER:
            self.store()

    def store(self) -> None:
        """Store what was taken."""
        if self._sink is not None and self._contents:
            stored = self._sink.put_all(self._contents)
            done = 0
            for blobs, places in self._wanted:
                fill(blobs, places, stored[done : done + len(places)])
                done += len(places)
            self._sink.tick()
            self._wanted, self._contents, self._size = [], [], 0


def fill(column: list[bytes], places: Sequence[int], values: list[bytes]) -> None:
    """Put values at some places, ascending, of a column."""
    if len(values) == len(column):
        column[:] = values
        return
    for at, value in zip(places, values, strict=True):
        column[at] = value


def split(column: bytes, width: int) -> list[bytes]:
    """Return the values of a column, each of so many bytes."""
    return [column[at : at + width] for at in range(0, len(column), width)]
