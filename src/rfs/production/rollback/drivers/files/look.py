"""One look at a live folder through the index of the last one, which it brings up to date."""

from __future__ import annotations

import os
import stat

from rfs.production.rollback.driver import BlobSink
from rfs.production.rollback.drivers.files import index, manifest, places
from rfs.production.rollback.drivers.files.options import Rules
from rfs.production.rollback.drivers.files.places import Place
from rfs.production.rollback.drivers.files.scan import Known, Scan
from rfs.production.rollback.drivers.files.tree import Tree, absent_tree
from rfs.production.rollback.model import Component


class Look:
    """One look at a live folder.

    Args:
        place: where the folder is, or is to be.
        known: what the look before found, if it is known.

    Attributes:
        rules: what is left out and what is kept.
        warnings: sentences about what could not be recorded exactly.
        reusable: for each part number that a block may carry, its id and how many blocks it holds,
            when the store surely has it still; see `manifest.write`.
    """

    def __init__(self, c: Component, place: Place, known: index.Index | None) -> None:
        self.place = place
        self.rules = Rules(c, tuple({place.path, place.real} - {""}))
        self.warnings: list[str] = []
        self.reusable: list[tuple[bytes, int] | None] = []
        self._c = c
        self._known = known
        self._stale = True

    def at_tree(
        self, *, sink: BlobSink | None = None, held: frozenset[bytes] = frozenset(), rehash: bool = False
    ) -> Tree:
        """Return what is there now; an absent tree when nothing is.

        Args:
            sink: where content goes; None when only its identity is asked for.
            held: manifest parts that the store surely has, with all that they refer to.
            rehash: read every file again, whatever its times say.

        Raises:
            RollbackError: path.missing, path.unreadable, path.changing, or what the sink's pulse raises.
        """
        if not self.place.real or not os.path.lexists(self.place.real):
            return absent_tree(self.place.link)
        if stat.S_ISLNK(os.lstat(self.place.real).st_mode):
            return absent_tree(None)  # a link stands where a folder is to be
        known = index.Index("", {}) if self._known is None else self._known
        self.reusable = [
            (part, size) if part in held else None for part, size in zip(known.parts, known.sizes, strict=False)
        ]
        held_parts = frozenset(number for number, part in enumerate(self.reusable) if part is not None)
        blocks = {os.fsdecode(path): block for path, block in known.blocks.items()}
        same_rules = known.rules == self.rules.identity
        seen_before = Known(blocks, held_parts, same_rules, steady=places.steady_devices())
        scan = Scan(self._c.name, self.rules, seen_before, sink, rehash=rehash)
        with places.opened(self._c, self.place.real) as fd:
            tree = scan.run(fd, self.place.link)
        self.warnings += scan.warnings
        self._stale = (
            not same_rules
            or len(blocks) != len(tree.blocks)
            or any(blocks.get(path) is not block for path, block in tree.blocks.items())
        )
        return tree

    def remember(self, tree: Tree, written: manifest.Written | None = None) -> tuple[index.Index | None, bool]:
        """Return the index as it now is, and whether it is news that other processes need, too."""
        if tree.absent:
            return self._known, False
        parts, sizes = ([], []) if self._known is None else (self._known.parts, self._known.sizes)
        if written is not None:
            news = list(written.parts[: len(written.sizes)])
            self._stale = self._stale or news != parts
            parts, sizes = news, written.sizes
        blocks = {os.fsencode(path): block for path, block in tree.blocks.items()}
        return index.Index(self.rules.identity, blocks, parts, sizes), self._stale


def nothing_changed(before: Tree, now: Tree) -> bool:
    """Tell whether a look found just what one through its index had found, down to inodes and change times."""
    return (
        (before.link, before.absent, before.groups) == (now.link, now.absent, now.groups)
        and (before.top.rows, before.top.extras, before.top.loose) == (now.top.rows, now.top.extras, now.top.loose)
        and len(before.blocks) == len(now.blocks)
        and all(before.blocks.get(path) is block for path, block in now.blocks.items())
    )
