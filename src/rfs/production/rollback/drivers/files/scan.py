"""One look at a live tree: an unchanged file costs one lstat, a changed one is read.

Large trees are looked at by two processes. Where nearly everything is to be read, folders
are first listed and then shared out; else whole subtrees are.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from array import array
from collections.abc import Iterator, Set
from typing import Any

from rfs.production.rollback.driver import BlobSink
from rfs.production.rollback.drivers.files import workers
from rfs.production.rollback.drivers.files.bulk import bulk
from rfs.production.rollback.drivers.files.columns import Folder
from rfs.production.rollback.drivers.files.options import Rules
from rfs.production.rollback.drivers.files.places import Folders
from rfs.production.rollback.drivers.files.reader import Reader
from rfs.production.rollback.drivers.files.tree import (
    INODE,
    LINKS,
    MODE,
    NONE,
    PLAIN,
    ROW,
    SIZE,
    Block,
    Extra,
    Tree,
    empty_block,
    join,
    pack_rows,
    row_of,
    seal,
)
from rfs.production.rollback.drivers.files.walk import Known, Walker
from rfs.production.rollback.drivers.files.workers import Found
from rfs.production.rollback.drivers.meta import read_flags, read_xattrs, shown
from rfs.production.rollback.errors import RollbackError

# Folders are read in bunches of so much work, where an entry counts as much as its bytes and _ENTRY more.
_BUNCH = 1 << 20
_ENTRY = 8 << 10
# For fewer folders, loading what asks about many entries at once costs more than it saves.
_MANY_FOLDERS = 200
# A tree of fewer entries is looked at alone. A share is a subtree of at most so many; there are
# enough of them for both processes to end at about the same time.
_MANY = 20_000
_SHARES = 24


class Scan:
    """A look at one tree.

    Args:
        component: its name, for errors.
        rules: what is left out and what is kept.
        known: what an earlier look found.
        sink: where content goes; None when only its identity is asked for.
        rehash: read every file again, whatever its times say.

    Attributes:
        warnings: sentences about what could not be recorded exactly.
        reread: how many entries were looked at closely.
    """

    def __init__(
        self, component: str, rules: Rules, known: Known, sink: BlobSink | None = None, *, rehash: bool = False
    ) -> None:
        self._rules, self._known, self._sink, self._rehash = rules, known, sink, rehash
        # The clock that the kernel stamps files with, so that a later write is never stamped earlier.
        started = time.clock_gettime_ns(getattr(time, "CLOCK_REALTIME_COARSE", time.CLOCK_REALTIME))
        quick = bulk(many=not known.blocks or len(known.blocks) >= _MANY_FOLDERS)
        self._reader = Reader(component, rules, sink, started=started, rehash=rehash, bulk=quick)
        self._devices: dict[str, int] = {}
        # What a glance told: rows of folders with the same names as before, and which are as known with all in them.
        self._told: dict[str, bytes] = {}
        self._quiet: frozenset[str] = frozenset()
        self.warnings: list[str] = []

    @property
    def reread(self) -> int:
        return self._reader.count

    def run(self, root: int, link: bytes | None = None) -> Tree:
        """Look at the tree under an open folder.

        Args:
            root: its descriptor; stays open.
            link: the text of the root when it is a link.

        Raises:
            RollbackError: path.unreadable, path.changing, or what the sink's pulse raises.
        """
        if self._rehash or not self._known.blocks:
            blocks = self._read_as_listed(root)
        else:
            if self._sink is not None:
                self._ask_what_is_held()
            self._glance(root)
            blocks = self._shared(root, shares) if (shares := self._shares()) else self._walked(root)
        top = self._top(root, blocks[""])
        groups = self._groups(blocks)
        self.warnings = [*self._reader.warnings, *self.warnings]
        return Tree(top, blocks, link, groups)

    def _walker(self, reader: Reader, *, elsewhere: Set[str] = frozenset(), put_off: bool = False) -> Walker:
        return Walker(
            self._rules,
            self._known,
            reader,
            rehash=self._rehash,
            put_off=put_off,
            elsewhere=self._quiet | elsewhere,
            told=self._told,
            pulse=reader.sink,
        )

    # — everything is to be read —

    def _read_as_listed(self, root: int) -> dict[str, Block]:
        walker = self._walker(self._reader, put_off=True)

        def work(folders: list[tuple[Any, ...]], opener: Folders, reader: Reader) -> Found:
            listed = [Folder(*folder) for folder in folders]
            return Found([(os.fsencode(folder.path), self._read(folder, opener, reader)) for folder in listed])

        blocks = self._found(root, _bunches(walker, root), work)
        self._devices.update(walker.devices)
        return _joined(blocks, {})

    def _read(self, folder: Folder, opener: Folders, reader: Reader) -> Block:
        fd = -1
        try:
            fd = opener.open(folder.path)
        except RollbackError:
            # It went away after it was listed; if its parent still lists it, it is empty.
            folder = folder._replace(names=b"", rows=b"")
        except OSError as error:
            raise reader.unreadable(folder.path, error) from error
        return seal(reader.block(fd, folder, self._known.before(folder.path, storing=self._sink is not None)))

    # — little is —

    def _ask_what_is_held(self) -> None:
        """Ask the store once what it holds of the folders in no part that it surely has; a helper cannot ask it."""
        known = self._known
        unsure = {path: block for path, block in known.blocks.items() if block.part not in known.held_parts}
        self._known = known._replace(held=self._reader.holding(unsure))

    def _glance(self, root: int) -> None:
        """Ask about all folders whose stamps may be believed, each with all that was in it."""
        known, storing = self._known, self._sink is not None
        if not (known.same_rules and self._reader.bulk.glances) or os.fstat(root).st_dev not in known.steady:
            return
        from rfs.production.rollback.drivers.files import glance  # few trees are large

        asked = [
            (path, block)
            for path, block in known.blocks.items()
            if block.stamp and (not storing or known.holds(path, block))
        ]
        for (path, _), rows in zip(asked, glance.at_folders(self._reader.bulk, root, asked, self._sink), strict=True):
            if rows is not None:
                self._told[path] = rows
        self._quiet = glance.quiet(known.blocks, self._told)

    def _walked(self, root: int) -> dict[str, Block]:
        known = self._known.blocks
        if "" in self._quiet:
            return dict(known)
        walker = self._walker(self._reader)
        walker.walk(os.dup(root), "", counted=True)
        self._reader.finish()
        top_device = os.fstat(root).st_dev
        self._devices = {path: device for path, device in walker.devices.items() if device != top_device}
        return _joined(walker.blocks, known) if self._quiet else walker.blocks

    def _shares(self) -> list[str]:
        """Return subtrees to share out, or none when the tree is too small, or what is known of it of no use."""
        known = self._known
        if not (known.same_rules and "" in known.blocks and workers.possible(self._sink)):
            return []
        weights = {path: len(block) + 1 for path, block in known.blocks.items() if path not in self._quiet}
        for path in sorted(weights, reverse=True):
            if path:
                above = path.rpartition("/")[0]
                weights[above] = weights.get(above, 0) + weights[path]
        if weights.get("", 0) < _MANY:
            return []
        shares: list[str] = []
        waiting = [""]
        while waiting:
            path = waiting.pop()
            if weights.get(path, 0) <= weights[""] // _SHARES:
                shares.append(path)
            else:
                below = [join(path, name) for name in known.blocks[path].folders()]
                waiting += [each for each in below if each not in self._quiet]
        return shares if len(shares) > 1 else []

    def _shared(self, root: int, shares: list[str]) -> dict[str, Block]:
        known = self._known.blocks

        def work(path: str | None, opener: Folders, reader: Reader) -> Found:
            if path is None:  # what lies above all shares
                walker, path, fd = self._walker(reader, elsewhere=frozenset(shares)), "", os.dup(root)
            else:
                walker = self._walker(reader)
                try:
                    fd = os.dup(opener.open(path))
                except RollbackError:
                    return Found([])  # it is no longer there
            walker.walk(fd, path, counted=known[path].counted if path in known else True)
            changed = [(os.fsencode(p), block) for p, block in walker.blocks.items() if known.get(p) is not block]
            devices = {os.fsencode(p): device for p, device in walker.devices.items() if device != top_device}
            return Found(changed, devices)

        top_device = os.fstat(root).st_dev
        jobs = [workers.Job(_MANY, path) for path in (None, *shares)]
        return _joined(self._found(root, iter(jobs), work), known)

    def _found(self, root: int, jobs: Iterator[workers.Job], work: workers.Work) -> dict[str, Block]:
        found: dict[str, Block] = {}
        with contextlib.closing(workers.shared_out(root, jobs, work, self._reader)) as results:
            for result in results:
                for path, block in result.blocks:
                    found[os.fsdecode(path)] = block
                self._devices.update({os.fsdecode(path): device for path, device in result.devices.items()})
                if self._sink is not None:
                    self._sink.tick(sum([len(block) for _, block in result.blocks]))
        return found

    # — the whole —

    def _top(self, root: int, inside: Block) -> Block:
        numbers = row_of(os.fstat(root))
        extra = Extra(b"", read_xattrs(root), read_flags(root))
        extras = {0: extra} if extra != PLAIN else {}
        return seal(Block(b".", pack_rows(numbers), NONE, NONE, extras, {}, [], inside.loose))

    def _groups(self, blocks: dict[str, Block]) -> list[list[str]]:
        """Return the names that are one file, and warn of files with names outside the component."""
        paths: dict[tuple[int, int], list[str]] = {}
        counts: dict[tuple[int, int], int] = {}
        for folder, block in blocks.items():
            if not block.linked:
                continue
            numbers, names = block.numbers(), block.listed()
            device = self._devices.get(folder, -1)
            for at, (count, mode) in enumerate(zip(numbers[LINKS::ROW], numbers[MODE::ROW], strict=True)):
                if count > 1 and mode & 0o170000 != stat.S_IFDIR:
                    key = (device, numbers[at * ROW + INODE])
                    paths.setdefault(key, []).append(join(folder, names[at]))
                    counts[key] = count
        outside = sorted(found[0] for key, found in paths.items() if len(found) < counts[key])
        if outside:
            examples = ", ".join(shown(path) for path in outside[:3])
            self.warnings.append(
                f"{len(outside)} files have further names (hard links) outside the component, "
                f"which a restored file will no longer share: {examples}"
            )
        return sorted(sorted(found) for found in paths.values() if len(found) > 1)


def _bunches(walker: Walker, root: int) -> Iterator[workers.Job]:
    """List folders, and yield them in bunches of about equal work."""
    filled = entries = 0
    for _ in walker.steps(os.dup(root), "", counted=True):
        for folder in walker.listed[len(walker.listed) - 1 :]:
            entries += folder.entries
            filled += _weight(folder)
        if filled >= _BUNCH:
            yield workers.Job(entries, list(map(tuple, walker.listed)))
            walker.listed.clear()
            filled = entries = 0
    if walker.listed:
        yield workers.Job(entries, list(map(tuple, walker.listed)))


def _weight(folder: Folder) -> int:
    # What is no file has a size, too, but a small one.
    return _ENTRY * folder.entries + sum(array("Q", folder.rows)[SIZE::ROW])


def _joined(found: dict[str, Block], known: dict[str, Block]) -> dict[str, Block]:
    """Return the tree that hangs together: what was found, else what was known, from the root down.

    So folders and the names of folders agree where one came or went away meanwhile.
    """
    blocks: dict[str, Block] = {}
    waiting = [""]
    while waiting:
        path = waiting.pop()
        block = found.get(path, known.get(path))
        if block is None:
            block = seal(empty_block())
        blocks[path] = block
        if block.below:
            waiting += [join(path, name) for name in block.folders()]
    return blocks


__all__ = ["Known", "Scan"]
