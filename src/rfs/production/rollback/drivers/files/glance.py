"""One glance at all folders that are known: which of them are as they were, with all that is in them.

Nearly all of most looks is this, and the C library does it without Python (see `bulk`), so that two threads
do it in half the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.drivers.ahead import in_order
from rfs.production.rollback.drivers.files.bulk import OneByOne
from rfs.production.rollback.drivers.files.tree import Block, above

# So many entries are asked about in one call. Fewer are not worth a thread.
_PIECE = 10_000


def at_folders(
    bulk: OneByOne, root: int, known: Sequence[tuple[str, Block]], pulse: Pulse | None
) -> list[bytes | None]:
    """Return for each folder the present rows of the entries that it had, or None; see `OneByOne.folders`.

    Args:
        root: the open root.
        known: paths from there, and what is known, with stamps.
        pulse: told of what was looked at.

    Raises:
        What the pulse raises.
    """
    found: list[bytes | None] = []
    pieces = list(_pieces(known))
    with in_order(partial(bulk.folders, root), pieces, apart=len(pieces) > 1) as told:
        for piece, rows in zip(pieces, told, strict=True):
            found += rows
            if pulse is not None:
                pulse.tick(sum([len(block) for _, block in piece]))
    return found


def quiet(known: Mapping[str, Block], told: Mapping[str, bytes]) -> frozenset[str]:
    """Return which folders are as they are known, with all folders in them at any depth.

    Args:
        told: present rows of folders in which the same names are.
    """
    loud: set[str] = set()
    for path, block in known.items():
        if path not in loud and told.get(path) != block.rows:
            loud.add(path)
            for folder in above(path):
                if folder in loud:
                    break
                loud.add(folder)
            loud.add("")
    return frozenset(known.keys() - loud)


def _pieces(known: Sequence[tuple[str, Block]]) -> Iterator[list[tuple[str, Block]]]:
    piece: list[tuple[str, Block]] = []
    entries = 0
    for path, block in known:
        piece.append((path, block))
        entries += len(block) + 1
        if entries >= _PIECE:
            yield piece
            piece, entries = [], 0
    if piece:
        yield piece
