"""What a power loss can leave behind, worked out from a log of calls.

SIGKILL keeps the page cache, so it cannot show a missing fsync. Here the act runs once
with the shim's log on; the log is replayed into a model of the file system that knows
which data and which directory entries were made durable, and at each point of the log the
trees that a power loss there could leave are built and handed to recovery:

    strict   nothing survives that was not fsynced: data by an fsync of the file, names by
             an fsync of their folder
    names    every name survives, data only where it was fsynced (delayed allocation)
    data     all data survives, names only where they were fsynced
    chance   some of what was not fsynced survives, chosen by a seed; the last write half

An operation on names in two folders (rename) survives in both or in neither, and takes the
earlier ones in these folders with it, as in a journal. A link, which nothing can fsync, is
durable with its folder. Everything in the initial tree is durable.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.harness import Bench, Outcome, Report, SweepError
from tests.crash.shim import Fault

VARIANTS = ("strict", "names", "data", "chance")

# Shared with `struct object` and `struct record` of shim.c: keep the layouts equal.
_OBJECT = struct.Struct("=QQQqIIII")
_RECORD = struct.Struct("=IIQQIIII")
_HEAD_SIZE = _RECORD.size + 3 * _OBJECT.size

CREATE, LINK, RENAME, REMOVE, WRITE, SIZE, CONTENT, META, XATTR, SYNC, SYNC_ALL, SYNC_DATA = range(1, 13)
EXCHANGE = 2


@dataclass(frozen=True)
class Attributes:
    """Metadata of an inode; `xattrs` are sorted pairs."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Record:
    """One logged call."""

    op: int
    number: int
    offset: int
    flags: int
    object: tuple[int, int]
    dir1: tuple[int, int]
    dir2: tuple[int, int]
    attributes: Attributes
    dir1_mtime: int
    dir2_mtime: int
    name1: str
    name2: str
    data: bytes


class Node:
    """An inode: what it is now, and what of it is durable."""

    def __init__(self, inode: int, attributes: Attributes, data: bytes) -> None:
        self.inode = inode
        self.attributes = attributes
        self.data = data
        self.names: dict[str, Node] = {}
        self.durable = attributes
        self.durable_data = b""
        self.durable_names: dict[str, Node] = {}
        self.pending: list[bytes] = []

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.attributes.mode)

    def change(self, data: bytes) -> None:
        """Replace the content, keeping the one before as something that may survive."""
        self.pending.append(self.data)
        self.data = data

    def settle(self, *, metadata: bool = True) -> None:
        """Make data and metadata durable; names are the file system's to settle."""
        if metadata:
            self.durable = self.attributes
        self.durable_data = self.data
        self.pending.clear()


@dataclass
class Naming:
    """One operation on names: for each (folder, name), what it is afterwards; None is gone."""

    changes: list[tuple[Node, str, Node | None]] = field(default_factory=list)

    def apply(self, *, durably: bool) -> None:
        for folder, name, node in self.changes:
            names = folder.durable_names if durably else folder.names
            if node is None:
                names.pop(name, None)
            else:
                names[name] = node

    @property
    def folders(self) -> set[int]:
        return {id(folder) for folder, _, _ in self.changes}


def _renaming(first: Node | None, second: Node | None, record: Record) -> Naming:
    moved = first.names.get(record.name1) if first else None
    other = second.names.get(record.name2) if second else None
    exchange = bool(record.flags & EXCHANGE)
    naming = Naming()
    # Renaming a file onto another of its own names is defined to do nothing.
    if moved is other and not exchange:
        return naming
    if first is not None:
        naming.changes.append((first, record.name1, other if exchange else None))
    if second is not None:
        naming.changes.append((second, record.name2, moved))
    return naming


class FileSystem:
    """The model. Args: root: the tree as it is on disk; all of it counts as durable."""

    def __init__(self, root: Path) -> None:
        self._nodes: dict[tuple[int, int], Node] = {}
        self.root = self._scan(root)
        self._pending: list[Naming] = []

    def _scan(self, path: Path) -> Node:
        st = path.lstat()
        known = self._nodes.get((st.st_dev, st.st_ino))
        if known is not None:
            return known
        data, xattrs = b"", ()
        if stat.S_ISLNK(st.st_mode):
            data = os.fsencode(os.readlink(path))
        else:
            xattrs = tuple((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
            if stat.S_ISREG(st.st_mode):
                data = path.read_bytes()
        node = Node(st.st_ino, Attributes(st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, xattrs), data)
        node.settle()
        self._nodes[st.st_dev, st.st_ino] = node
        if stat.S_ISDIR(st.st_mode):
            for child in sorted(path.iterdir()):
                node.names[child.name] = self._scan(child)
            node.durable_names = dict(node.names)
        return node

    # — replaying —

    def apply(self, record: Record) -> None:
        """Let one logged call happen."""
        if record.op in (CREATE, LINK, RENAME, REMOVE):
            self._rename_or_make(record)
        elif record.op == SYNC_ALL:
            for node in set(self._nodes.values()):
                node.settle()
            self._settle_names(self._pending)
        else:
            node = self._nodes.get(record.object)
            if node is not None:
                self._change(node, record)

    def _change(self, node: Node, record: Record) -> None:
        if record.op in (SYNC, SYNC_DATA):
            # fdatasync owes the data and the size, but neither mode nor owner nor times.
            node.settle(metadata=record.op == SYNC)
            if node.is_folder:
                self._sync_folder(node)
            return
        xattrs = node.attributes.xattrs
        if record.op == XATTR:
            kept = {name: value for name, value in xattrs if name != record.name1}
            xattrs = tuple(sorted((kept if record.flags else {**kept, record.name1: record.data}).items()))
        elif record.op == WRITE:
            grown = node.data.ljust(record.offset, b"\0")
            node.change(grown[: record.offset] + record.data + grown[record.offset + len(record.data) :])
        elif record.op == SIZE:
            node.change(node.data[: record.offset].ljust(record.offset, b"\0"))
        elif record.op == CONTENT:
            node.change(record.data)
        now = record.attributes
        node.attributes = Attributes(now.mode, now.uid, now.gid, now.mtime_ns, xattrs)

    def _rename_or_make(self, record: Record) -> None:
        first, second = self._nodes.get(record.dir1), self._nodes.get(record.dir2)
        naming = Naming()
        if record.op == CREATE:
            node = Node(record.object[1], record.attributes, record.data)
            node.durable_data = record.data
            self._nodes[record.object] = node
            if first is not None and record.name1:
                naming.changes.append((first, record.name1, node))
        elif record.op == LINK and first is not None:
            naming.changes.append((first, record.name1, self._nodes[record.object]))
        elif record.op == REMOVE and first is not None:
            naming.changes.append((first, record.name1, None))
        elif record.op == RENAME:
            naming = _renaming(first, second, record)
        naming.apply(durably=False)
        for folder, mtime in ((first, record.dir1_mtime), (second, record.dir2_mtime)):
            if folder is not None:
                was = folder.attributes
                folder.attributes = Attributes(was.mode, was.uid, was.gid, mtime, was.xattrs)
        if naming.changes:
            self._pending.append(naming)

    def _sync_folder(self, folder: Node) -> None:
        # Links, pipes and devices cannot be opened to be synced; their folder's sync has to do.
        for node in folder.names.values():
            if not node.is_folder and not stat.S_ISREG(node.attributes.mode):
                node.settle()
        needed = {id(folder)}
        chosen = []
        for naming in reversed(self._pending):
            if naming.folders & needed:
                needed |= naming.folders
                chosen.append(naming)
        self._settle_names(chosen[::-1])

    def _settle_names(self, chosen: list[Naming]) -> None:
        for naming in chosen:
            naming.apply(durably=True)
        gone = {id(naming) for naming in chosen}
        self._pending = [naming for naming in self._pending if id(naming) not in gone]

    # — what could be left —

    def image(self, variant: str, chance: random.Random) -> Image:
        """Return a tree that a power loss now could leave; "all" is the tree as it is."""
        if variant == "chance":
            return self._by_chance(chance)
        names, data = variant in ("names", "all"), variant in ("data", "all")
        return Image(
            self.root,
            lambda node: node.names if names else node.durable_names,
            lambda node: (node.attributes, node.data) if data else (node.durable, node.durable_data),
        )

    def _by_chance(self, chance: random.Random) -> Image:
        names = {id(node): dict(node.durable_names) for node in self._nodes.values()}
        # A prefix of what happened to the names: a journal does not leave out what came before.
        for naming in self._pending[: chance.randint(0, len(self._pending))]:
            for folder, name, node in naming.changes:
                entries = names.setdefault(id(folder), {})
                if node is None:
                    entries.pop(name, None)
                else:
                    entries[name] = node
        states: dict[int, tuple[Attributes, bytes]] = {}
        # By inode number of the model, so that a seed always chooses the same.
        for node in self._nodes.values():
            states[id(node)] = _chosen_state(node, chance)
        return Image(
            self.root,
            lambda node: names.get(id(node), {}),
            lambda node: states.get(id(node), (node.durable, node.durable_data)),
        )


def _chosen_state(node: Node, chance: random.Random) -> tuple[Attributes, bytes]:
    if not node.pending:
        return chance.choice([node.durable, node.attributes]), node.durable_data
    states = [node.durable_data, *node.pending, node.data]
    at = chance.randrange(1, len(states))
    before, after = states[at - 1], states[at]
    # Half of the last write that got through: its first half, behind what was there.
    torn = after[: (len(before) + len(after)) // 2] if len(after) > len(before) else after
    return chance.choice([node.durable, node.attributes]), chance.choice([states[at], torn, node.durable_data])


Names = Callable[[Node], dict[str, Node]]
State = Callable[[Node], tuple[Attributes, bytes]]


class Image:
    """A tree that can be compared with another and built on disk."""

    def __init__(self, root: Node, names: Names, state: State) -> None:
        self._root = root
        self._names = names
        self._state = state

    def signature(self) -> int:
        """Return a number that is equal for equal trees."""
        return hash(tuple(self._walk(self._root, "", set())))

    def _walk(self, node: Node, path: str, seen: set[int]) -> Iterator[tuple[object, ...]]:
        attributes, data = self._state(node)
        yield path, id(node), attributes, data
        # A folder can stand in two places when a rename survived in part; it is built once.
        if id(node) in seen or not node.is_folder:
            return
        seen.add(id(node))
        for name, child in sorted(self._names(node).items()):
            yield from self._walk(child, f"{path}/{name}", seen)

    def build(self, root: Path, pool: Mapping[int, Path]) -> None:
        """Write the tree to disk as `root`, which must not exist.

        Args:
            pool: by inode number, where the inode lies now; it is moved into its place, so that
                what a journal recorded of inodes stays true. Missing ones are made.
        """
        self._pool = dict(pool)
        self._built: dict[int, Path] = {}
        self._times: list[tuple[Path, Attributes]] = []
        self._build(self._root, root)
        for path, attributes in reversed(self._times):
            os.utime(path, ns=(attributes.mtime_ns, attributes.mtime_ns), follow_symlinks=False)

    def _build(self, node: Node, path: Path) -> None:
        known = self._built.get(id(node))
        if known is not None:
            if not node.is_folder:
                os.link(known, path, follow_symlinks=False)
            return
        self._built[id(node)] = path
        attributes, data = self._state(node)
        mode = attributes.mode
        there = self._pool.pop(node.inode, None)
        if there is not None:
            there.rename(path)
        if stat.S_ISREG(mode):
            path.write_bytes(data)
        elif there is None:
            _make(path, mode, data)
        os.chown(path, attributes.uid, attributes.gid, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode))
            wanted = dict(attributes.xattrs)
            for name in os.listxattr(path):
                if name not in wanted:
                    os.removexattr(path, name)
            for name, value in wanted.items():
                os.setxattr(path, name, value)
        self._times.append((path, attributes))
        if stat.S_ISDIR(mode):
            for name, child in sorted(self._names(node).items()):
                self._build(child, path / name)


def _make(path: Path, mode: int, data: bytes) -> None:
    if stat.S_ISDIR(mode):
        path.mkdir()
    elif stat.S_ISLNK(mode):
        os.symlink(os.fsdecode(data), path)
    else:
        os.mknod(path, mode)


def pool(trees: Sequence[Path], into: Path) -> dict[int, Path]:
    """Take trees apart: move each inode into the empty folder `into`; return where each lies."""
    found: dict[int, Path] = {}

    def take(path: Path) -> None:
        inode = path.lstat().st_ino
        if path.is_dir() and not path.is_symlink():
            for child in list(path.iterdir()):
                take(child)
        if inode in found:
            path.unlink()
        else:
            found[inode] = path.rename(into / str(inode))

    for tree in trees:
        take(tree)
    return found


def read_log(path: Path) -> list[Record]:
    """Return the calls that the shim wrote down, in order."""
    raw = path.read_bytes() if path.exists() else b""
    records, at = [], 0
    while at < len(raw):
        total, op, number, offset, flags, name1, name2, data = _RECORD.unpack_from(raw, at)
        objects = [_OBJECT.unpack_from(raw, at + _RECORD.size + i * _OBJECT.size) for i in range(3)]
        here = at + _HEAD_SIZE
        (device, inode, _, mtime, mode, uid, gid, _), dir1, dir2 = objects
        records.append(
            Record(
                op,
                number,
                offset,
                flags,
                (device, inode),
                dir1[:2],
                dir2[:2],
                Attributes(mode, uid, gid, mtime),
                dir1[3],
                dir2[3],
                os.fsdecode(raw[here : here + name1]),
                os.fsdecode(raw[here + name1 : here + name1 + name2]),
                raw[here + name1 + name2 : here + name1 + name2 + data],
            )
        )
        at += total
    return records


def power_sweep(
    bench: Bench,
    *,
    variants: Sequence[str] = VARIANTS,
    limit: int | None = None,
    seed: int = 1,
    until: Sequence[str] = (),
) -> Report:
    """Lose power at every point of the act, or at `limit` sampled ones; recover and judge. For `until` see Report.

    After the act's last call only "new" will do: it had been acknowledged.
    """
    report = Report(f"{type(bench.scenario).__name__} power loss", until)
    began = time.monotonic()
    bench.prepare()
    points, calls = _distinct(bench, variants, seed)
    last = [point for point in points if point[0] == calls]
    if limit is not None and limit < len(points):
        points = sorted({*random.Random(seed).sample(points, limit), *last})
    # From the end, where the act had been acknowledged: what forgets an fsync is caught there.
    for at, variant in reversed(points):
        if report.enough:
            break
        outcome, model = _until(bench, at if at < calls else None)
        # A run may make a few calls less than the one that was counted; it came to its end then.
        acknowledged = outcome.how == "ok"
        if not acknowledged and outcome.how != "killed":
            report.add(f"call {at}", f"unfired: {outcome.how} {outcome.text}")
            continue
        image = model.image(variant, random.Random(f"{seed} {at}"))
        parts = bench.base / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        image.build(bench.world, pool([bench.world, bench.base / "graveyard"], parts))
        report.fired += 1
        report.add(
            f"power lost ({variant}) after call {at} of {calls}", bench.verdict(must_be="new" if acknowledged else None)
        )
    report.seconds = time.monotonic() - began
    return report


def _until(bench: Bench, at: int | None) -> tuple[Outcome, FileSystem]:
    """Run the act with the log on, killed after call `at` (None: to its end); return the model as it is then."""
    bench.reset()
    model = FileSystem(bench.world)
    graveyard, log = bench.base / "graveyard", bench.base / "log"
    shutil.rmtree(graveyard, ignore_errors=True)
    graveyard.mkdir()
    log.unlink(missing_ok=True)
    fault = None if at is None else Fault.KILL
    outcome = bench.act(fault, (at or 0) + 1, log=str(log), graveyard=str(graveyard))
    for record in read_log(log):
        model.apply(record)
    return outcome, model


def _distinct(bench: Bench, variants: Sequence[str], seed: int) -> tuple[list[tuple[int, str]], int]:
    """Return the (call, variant) pairs that give different trees, and how many calls the act makes."""
    bench.reset()
    model = FileSystem(bench.world)
    log = bench.base / "log"
    outcome = bench.act(log=str(log))
    calls = bench.control.count
    if outcome.how != "ok":
        raise SweepError("without any fault, act", outcome)
    seen: set[int] = set()
    points = []
    by_number: dict[int, list[Record]] = {}
    for record in read_log(log):
        by_number.setdefault(record.number, []).append(record)
    for number in range(1, calls + 1):
        for record in by_number.get(number, ()):
            model.apply(record)
        for variant in variants:
            signature = model.image(variant, random.Random(f"{seed} {number}")).signature()
            if signature not in seen or number == calls:
                seen.add(signature)
                points.append((number, variant))
    return points, calls
