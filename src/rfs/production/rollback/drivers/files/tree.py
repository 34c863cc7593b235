"""A whole tree in memory, compactly: one block of columns for each folder, never an object for each file."""

from __future__ import annotations

import os
import stat
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, cast

import msgspec
from blake3 import blake3

from rfs.production.rollback.drivers.meta import Meta

# One row of numbers for each entry, in this order.
ROW = 8
INODE, CTIME, MTIME, SIZE, MODE, UID, GID, LINKS = range(ROW)
row_of = cast(
    "Any", attrgetter("st_ino", "st_ctime_ns", "st_mtime_ns", "st_size", "st_mode", "st_uid", "st_gid", "st_nlink")
)
ROW_BYTES = 8 * ROW
DIGEST = 32
NONE = bytes(DIGEST)

# Times are held as unsigned numbers. 2^64 ns end in 2554; what is beyond this lies before 1970.
_BEFORE_1970 = 1 << 63 | 1 << 62 | 1 << 61
_ALL = (1 << 64) - 1
TOP = "/"  # the name of the block that holds only the root's own entry; no path from a root can be this


_TYPE = 0o170000
_AFTER_FILES = stat.S_IFREG + (1 << 12)


class Extra(msgspec.Struct, frozen=True, array_like=True):
    """What few entries have. `device` is st_rdev of a device node, `link` a link's text."""

    link: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    flags: int = 0
    device: int = 0


PLAIN = Extra()


class Chunk(NamedTuple):
    """One piece of a file that is stored in pieces; what no piece covers is a hole."""

    offset: int
    length: int
    blob: bytes


class Block(msgspec.Struct, array_like=True):
    """One folder's entries, sorted by name.

    Attributes:
        names: joined by NUL.
        rows: for each entry ROW unsigned 64-bit numbers of this machine's byte order. In a tree
            that comes from a manifest inode, change time and number of links are 0.
        digests: for each entry BLAKE3 of its content, unkeyed, or zeros.
        blobs: for each entry the id of the one blob that holds its content, or zeros.
        extras: by position.
        chunks: by position, for files stored in pieces.
        kept: positions of entries that match `keep`.
        loose: whether the folder holds what is no part of the state, so that its time tells nothing.
        sheltering: whether something that is left out was there when it was looked at.
        counted: False in a folder that itself matches `keep`: then nothing in it is part of the identity.
        digest: of all that is state here, but `kept`.
        part: number of the manifest part that held it, in the local index; -1 when there is none.
        below: positions of the folders in it.
        linked: whether an entry has several names.
        stamp: changes whenever a name in it comes or goes, see `stamp_of`; empty when that cannot be trusted.
    """

    names: bytes
    rows: bytes
    digests: bytes
    blobs: bytes
    extras: dict[int, Extra]
    chunks: dict[int, list[Chunk]]
    kept: list[int]
    loose: bool = False
    sheltering: bool = False
    counted: bool = True
    digest: bytes = b""
    part: int = -1
    below: list[int] = []
    linked: bool = False
    stamp: bytes = b""

    def __len__(self) -> int:
        return len(self.rows) // ROW_BYTES

    def listed(self) -> list[str]:
        """Return the names."""
        return names_in(self.names, self.rows)

    def numbers(self) -> array[int]:
        """Return all rows as one array."""
        return array("Q", self.rows)

    def entry(self, at: int, numbers: array[int] | None = None) -> Entry:
        """Return one entry as an object of its own."""
        if numbers is None:
            row = array("Q", self.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES])
        else:
            row = numbers[at * ROW : (at + 1) * ROW]
        return Entry(
            row[MODE],
            row[UID],
            row[GID],
            signed(row[MTIME]),
            row[SIZE] if stat.S_ISREG(row[MODE]) else 0,
            self.digests[at * DIGEST : (at + 1) * DIGEST],
            self.blobs[at * DIGEST : (at + 1) * DIGEST],
            self.extras.get(at, PLAIN),
            self.chunks.get(at),
            row[INODE],
        )

    def folders(self) -> list[str]:
        """Return the names of the folders in it."""
        if not self.below:
            return []
        names = self.listed()
        return [names[at] for at in self.below]


class Entry(NamedTuple):
    """One entry, for what is done to few. `inode` is 0 unless it was seen live."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    digest: bytes
    blob: bytes
    extra: Extra
    chunks: list[Chunk] | None
    inode: int = 0

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def meta(self) -> Meta:
        """Its metadata in the form that is applied."""
        return Meta(self.mode, self.uid, self.gid, self.mtime_ns, self.extra.xattrs, self.extra.flags)

    def same_content(self, other: Entry) -> bool:
        """Tell whether both are of one type with equal content, link text or device number."""
        return (
            stat.S_IFMT(self.mode) == stat.S_IFMT(other.mode)
            and self.size == other.size
            and self.digest == other.digest
            and self.extra.link == other.extra.link
            and self.extra.device == other.extra.device
        )

    def same_meta(self, other: Entry, *, time: bool = True) -> bool:
        """Tell whether mode, owner, time (unless told not to look at it), attributes and flags are equal."""
        return (
            self[:3] == other[:3]
            and (not time or self.mtime_ns == other.mtime_ns)
            and self.extra.xattrs == other.extra.xattrs
            and self.extra.flags == other.extra.flags
        )

    def identity(self) -> str:
        """Return a digest of all that is state, in hexadecimal."""
        state = (self.mode, self.uid, self.gid, self.mtime_ns, self.size, self.digest, self.extra)
        return blake3(msgspec.msgpack.encode(state)).hexdigest(length=16)


class Tree(msgspec.Struct):
    """A component's state.

    Attributes:
        top: a block of one entry, the root folder itself.
        blocks: by path from the root ("" is the root), every folder's entries.
        link: the root's own text when it is a link.
        groups: names of one file (hard links), each group and all of them sorted.
        absent: there is no folder; then `top` and `blocks` are empty.
    """

    top: Block
    blocks: dict[str, Block]
    link: bytes | None = None
    groups: list[list[str]] = []
    absent: bool = False
    _paths: list[str] = []

    def digest(self) -> str:
        """Return the identity of the whole state, in hexadecimal. Equal on every machine and for every store."""
        if self.absent:
            return blake3(msgspec.msgpack.encode((self.link, "absent"))).hexdigest()
        hasher = blake3(msgspec.msgpack.encode((self.link, self.top.digest)))
        for path in sorted(self.blocks):
            block = self.blocks[path]
            if block.counted:
                hasher.update(os.fsencode(path) + b"\0" + block.digest)
        kept = self.kept_paths() if self.groups else set()
        for group in self.groups:
            counted = [path for path in group if path not in kept]
            if len(counted) > 1:
                hasher.update(b"\0\0" + os.fsencode("\0".join(counted)))
        return hasher.hexdigest()

    def kept_paths(self) -> set[str]:
        """Return the paths of all that matches `keep`."""
        found: set[str] = set()
        for folder, block in self.blocks.items():
            if block.kept:
                names = block.listed()
                found.update(join(folder, names[at]) for at in block.kept)
        return found

    def totals(self) -> tuple[int, int]:
        """Return the number of entries and the bytes of all regular files."""
        entries = size = 0
        for block in self.blocks.values():
            entries += len(block)
            numbers = block.numbers()
            modes = numbers[MODE::ROW]
            sizes = numbers[SIZE::ROW]
            if _are_files(modes):
                size += sum(sizes)
            else:
                size += sum([s for s, m in zip(sizes, modes, strict=True) if m & _TYPE == stat.S_IFREG])
        return entries, size

    def inside(self, path: str) -> list[str]:
        """Return a folder and every folder in it, at any depth, parents first."""
        # "0" follows "/": all paths that begin with "path/" lie between the two.
        paths = self._sorted()
        return [path, *paths[bisect_left(paths, path + "/") : bisect_left(paths, path + "0")]]

    def _sorted(self) -> list[str]:
        if len(self._paths) != len(self.blocks):
            self._paths = sorted(self.blocks)
        return self._paths

    def find_all(self, paths: Iterable[str]) -> dict[str, Entry]:
        """Return the entries at many paths from the root; those that are not there are left out."""
        names: dict[str, list[str]] = {}
        for path in paths:
            folder, _, name = path.rpartition("/")
            names.setdefault(folder, []).append(name)
        found: dict[str, Entry] = {}
        for folder, wanted in names.items():
            block = self.blocks.get(folder)
            places = {name: at for at, name in enumerate(block.listed())} if block is not None else {}
            for name in wanted:
                if name in places and block is not None:
                    found[join(folder, name)] = block.entry(places[name])
                elif not folder and not name and not self.absent:
                    found[""] = self.top.entry(0)
        return found

    def find(self, path: str) -> Entry | None:
        """Return the entry at a path from the root, or None; "" is the root."""
        if not path:
            return self.top.entry(0)
        folder, _, name = path.rpartition("/")
        block = self.blocks.get(folder)
        if block is None:
            return None
        names = block.listed()
        return block.entry(names.index(name)) if name in names else None


def seal(block: Block) -> Block:
    """Compute what follows from the columns: the digest of everything that is state, and what is asked often.

    A folder's own time and size are left out: they tell no more than that names in it
    changed, which its entries tell exactly, and a name that is no part of the state changes them too.
    """
    columns = state_columns(block)
    block.below = folders_at(columns[2])
    links = block.numbers()[LINKS::ROW]
    # Folders have several links, too, but most folders hold none.
    block.linked = max(links, default=0) > 1 and any(
        count > 1 and mode & _TYPE != stat.S_IFDIR for count, mode in zip(links, columns[2], strict=True)
    )
    names, digests, extras = block.names, block.digests, block.extras
    if block.kept:
        kept = set(block.kept)
        counted = [at for at in range(len(block)) if at not in kept]
        listed = block.listed()
        names = os.fsencode("\0".join([listed[at] for at in counted]))
        digests = b"".join([digests[at * DIGEST : (at + 1) * DIGEST] for at in counted])
        columns = [array("Q", [column[at] for at in counted]) for column in columns]
        extras = {new: extras[at] for new, at in enumerate(counted) if at in extras}
    for at in folders_at(columns[2]) if block.below else ():
        columns[0][at] = 0
    state = (names, portable(columns), digests, sorted(extras.items()))
    block.digest = blake3(msgspec.msgpack.encode(state)).digest()
    return block


def folders_at(modes: array[int]) -> list[int]:
    """Return where the folders are among entries with these modes."""
    # No type that has a larger number than a file's is a folder's, and one look at all says so of most folders.
    if not modes or min(modes) >= stat.S_IFREG:
        return []
    return [at for at, mode in enumerate(modes) if mode & _TYPE == stat.S_IFDIR]


def _are_files(modes: array[int]) -> bool:
    """Tell whether all entries with these modes are regular files, as in most folders."""
    return not modes or (min(modes) >= stat.S_IFREG and max(modes) < _AFTER_FILES)


def state_columns(block: Block) -> list[array[int]]:
    """Return time, size, mode, owner and group of all entries as columns; sizes of folders and devices are 0."""
    numbers = block.numbers()
    columns = [numbers[at::ROW] for at in (MTIME, SIZE, MODE, UID, GID)]
    sizes, modes = columns[1], columns[2]
    if not _are_files(modes):
        for at, mode in enumerate(modes):
            if mode & _TYPE != stat.S_IFREG:
                sizes[at] = 0
    return columns


def portable(columns: list[array[int]]) -> bytes:
    """Return columns one after the other, little end first."""
    if sys.byteorder == "big":
        for column in columns:
            column.byteswap()
    return b"".join(columns)


def names_in(joined: bytes, rows: bytes) -> list[str]:
    """Return the names of entries, which are joined by NUL; without rows there are none."""
    return os.fsdecode(joined).split("\0") if rows else []


def pack_rows(flat: Sequence[int]) -> bytes:
    """Return rows of numbers as the bytes of a block; numbers below 0 and beyond 64 bits wrap."""
    try:
        return array("Q", flat).tobytes()
    except OverflowError:
        return array("Q", [number & _ALL for number in flat]).tobytes()


def signed(time: int) -> int:
    """Return a time that may lie before 1970, in nanoseconds."""
    return time - (1 << 64) if time >= _BEFORE_1970 else time


def join(folder: str, name: str) -> str:
    """Return the path of an entry from the root."""
    return f"{folder}/{name}" if folder else name


def under(path: str, folders: set[str]) -> bool:
    """Tell whether one of the folders above a path is in the set."""
    return any(folder in folders for folder in above(path))


def above(path: str) -> Iterator[str]:
    """Yield the folders above a path, nearest first, without the root."""
    at = path.rfind("/")
    while at > 0:
        yield path[:at]
        at = path.rfind("/", 0, at)


def empty_block() -> Block:
    """Return the block of a folder with nothing in it."""
    return Block(b"", b"", b"", b"", {}, {}, [])


def absent_tree(link: bytes | None) -> Tree:
    """Return the tree of a component that is not there."""
    return Tree(empty_block(), {}, link, absent=True)
