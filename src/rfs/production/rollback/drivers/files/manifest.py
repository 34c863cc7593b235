"""A tree as manifest parts, and back.

A part holds about a thousand entries and ends at a folder whose name and number of
entries say so, so that a change somewhere else leaves it byte-equal and it costs nothing.
Everything in it is sorted, in columns, and names blobs by their place in the part's list.
"""

from __future__ import annotations

import os
import stat
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from rfs.production.rollback.driver import BlobSink, BlobSource
from rfs.production.rollback.drivers.files.options import Rules
from rfs.production.rollback.drivers.files.tree import (
    DIGEST,
    GID,
    MODE,
    MTIME,
    NONE,
    ROW,
    ROW_BYTES,
    SIZE,
    TOP,
    UID,
    Block,
    Chunk,
    Extra,
    Tree,
    absent_tree,
    empty_block,
    folders_at,
    join,
    portable,
    seal,
    state_columns,
)
from rfs.production.rollback.drivers.meta import shown
from rfs.production.rollback.errors import IntegrityError, RollbackError

_FORMAT = 1
_USUAL_ENTRIES = 1024
_MOST_ENTRIES = 8192
_UNSAFE = {b"", b".", b".."}
_COLUMNS = (MTIME, SIZE, MODE, UID, GID)


class _Record(msgspec.Struct, array_like=True):
    """A folder, or a slice of a large one (then records of equal path follow each other)."""

    path: bytes
    names: bytes
    columns: bytes
    digests: bytes
    places: bytes
    extras: dict[int, Extra]
    chunks: dict[int, list[tuple[int, int, int]]]
    loose: bool
    digest: bytes


class _Part(msgspec.Struct, array_like=True):
    """`link` is the root's text when it is a link; it stands in the first part. `groups` are hard links."""

    format: int
    records: list[_Record]
    link: bytes | None = None
    groups: list[bytes] = []
    absent: bool = False


class Written(NamedTuple):
    """The parts of a tree: their ids in order, and for those that hold blocks, how many."""

    parts: tuple[bytes, ...]
    sizes: list[int]


def write(tree: Tree, sink: BlobSink, reusable: Sequence[tuple[bytes, int] | None]) -> Written:
    """Store a tree as parts.

    Args:
        reusable: for each part number that a block may carry, its id and how many blocks it
            holds, when the store surely has it still; a run of just these blocks is not written again.
    """
    if tree.absent:
        return Written((sink.put_part([], msgspec.msgpack.encode(_Part(_FORMAT, [], tree.link, absent=True))),), [])
    ids: list[bytes] = []
    sizes: list[int] = []
    runs = list(_runs(tree))
    for number, run in enumerate(runs):
        known = _known_part(run, reusable)
        if known is None or not number:
            # The first part also says how the root itself is, which no block's being unchanged tells.
            link = tree.link if not number else None
            known = _put(run if number else [(TOP, tree.top), *run], sink, link)
        for _, block in run:
            block.part = number
        ids.append(known)
        sizes.append(len(run))
        sink.tick()
    for at in range(0, len(tree.groups), _USUAL_ENTRIES):
        groups = [os.fsencode("\0".join(group)) for group in tree.groups[at : at + _USUAL_ENTRIES]]
        ids.append(sink.put_part([], msgspec.msgpack.encode(_Part(_FORMAT, [], None, groups))))
    return Written(tuple(ids), sizes)


def _runs(tree: Tree) -> Iterator[list[tuple[str, Block]]]:
    run: list[tuple[str, Block]] = []
    entries = 0
    for path in sorted(tree.blocks):
        block = tree.blocks[path]
        run.append((path, block))
        entries += len(block)
        # A large folder is a likelier end, so that parts have a usual size whatever folders are like.
        ends = zlib.crc32(os.fsencode(path)) % _USUAL_ENTRIES < len(block) and entries >= _USUAL_ENTRIES // 4
        if ends or entries >= _MOST_ENTRIES or len(run) >= _MOST_ENTRIES:
            yield run
            run, entries = [], 0
    if run:
        yield run


def _known_part(run: list[tuple[str, Block]], reusable: Sequence[tuple[bytes, int] | None]) -> bytes | None:
    number = run[0][1].part
    if number < 0 or number >= len(reusable):
        return None
    known = reusable[number]
    if known is None or known[1] != len(run) or any(block.part != number for _, block in run):
        return None
    return known[0]


def _put(run: list[tuple[str, Block]], sink: BlobSink, link: bytes | None) -> bytes:
    places: dict[bytes, int] = {NONE: -1}  # in the order of places, so its length says the next one
    records = []
    for path, block in run:
        for start in range(0, max(len(block), 1), _MOST_ENTRIES):
            records.append(_record(path, block, start, places))
    body = msgspec.msgpack.encode(_Part(_FORMAT, records, link))
    return sink.put_part(list(places)[1:], body)


def _record(path: str, block: Block, start: int, places: dict[bytes, int]) -> _Record:
    place = places.setdefault
    count = len(block)
    end = min(start + _MOST_ENTRIES, count)
    whole = end - start == count
    columns = state_columns(block)
    ids, digests, extras, chunks = block.blobs, block.digests, block.extras, block.chunks
    blobs = [ids[at : at + DIGEST] for at in range(start * DIGEST, end * DIGEST, DIGEST)]
    first = len(places) - 1
    # Nearly always none of them was met before.
    numbers: Sequence[int] = range(first, first + len(blobs))
    new = dict(zip(blobs, numbers, strict=True))
    if len(new) == len(blobs) and places.keys().isdisjoint(new):
        places.update(new)
    else:
        numbers = [place(blob, len(places) - 1) for blob in blobs]
    return _Record(
        os.fsencode(path),
        block.names if whole else os.fsencode("\0".join(block.listed()[start:end])),
        portable(columns if whole else [column[start:end] for column in columns]),
        digests if whole else digests[start * DIGEST : end * DIGEST],
        portable([array("i", numbers)]),
        {at - start: extra for at, extra in extras.items() if start <= at < end} if extras else {},
        {
            at - start: [(offset, length, place(blob, len(places) - 1)) for offset, length, blob in pieces]
            for at, pieces in chunks.items()
            if start <= at < end
        }
        if chunks
        else {},
        block.loose,
        block.digest,
    )


def read(parts: Sequence[bytes], source: BlobSource, like: Mapping[str, Block] | None = None) -> Tree:
    """Return the tree that was stored as these parts.

    Args:
        like: folders as a capture found them. Those that are equal are taken from there: that is
            quicker than to make them, and equal ones are then seen to be so at a glance.

    Raises:
        IntegrityError: a part is missing or damaged, or it is no part.
        RollbackError: path.unsafe, when it names anything outside the root.
    """
    decoder = msgspec.msgpack.Decoder(_Part)
    like = {} if like is None else like
    tree = Tree(empty_block(), {}, None, [])
    for number, part in enumerate(parts):
        refs, body = source.get_part(part)
        try:
            decoded = decoder.decode(body)
            _take(decoded, refs, tree, like, first=not number)
        except (msgspec.DecodeError, ValueError, IndexError) as error:
            raise _damaged("manifest part", part.hex()[:12], str(error)) from error
    if tree.absent:
        return absent_tree(tree.link)
    if len(tree.top) != 1 or "" not in tree.blocks:
        raise _damaged("manifest", parts[0].hex()[:12] if parts else "", "it has no root")
    _check(tree, like)
    return tree


def _take(part: _Part, refs: list[bytes], tree: Tree, like: Mapping[str, Block], *, first: bool) -> None:
    if part.format > _FORMAT:
        message = f"its format is {part.format}"
        raise ValueError(message)
    if first:
        tree.link, tree.absent = part.link, part.absent
    for record in part.records:
        path = os.fsdecode(record.path)
        there = like.get(path)
        block = there if there is not None and _is(record, there) else _block(record, refs)
        if path == TOP:
            tree.top = block
        elif path not in tree.blocks:
            tree.blocks[path] = block
        elif tree.blocks[path] is there:
            message = "a folder stands in it twice"
            raise ValueError(message)
        else:
            _append(tree.blocks[path], block)
    tree.groups.extend(os.fsdecode(group).split("\0") for group in part.groups)


def _block(record: _Record, refs: list[bytes]) -> Block:
    count = len(record.columns) // (8 * len(_COLUMNS))
    columns = array("Q", record.columns)
    places = array("i", record.places)
    if array("H", [1]).tobytes() == b"\0\1":
        columns.byteswap()
        places.byteswap()
    rows = array("Q", bytes(ROW_BYTES * count))
    for number, column in enumerate(_COLUMNS):
        rows[column::ROW] = columns[number * count : (number + 1) * count]
    if len(places) != count or len(record.digests) != DIGEST * count:
        message = "columns of different lengths"
        raise ValueError(message)
    if (count and record.names.count(b"\0") != count - 1) or (not count and record.names):
        message = "not as many names as entries"
        raise ValueError(message)
    ids = [*refs, NONE]  # place -1 is the last one
    return Block(
        record.names,
        rows.tobytes(),
        record.digests,
        b"".join([ids[place] for place in places]),
        record.extras,
        {at: [Chunk(offset, length, refs[place]) for offset, length, place in c] for at, c in record.chunks.items()},
        [],
        record.loose,
        digest=record.digest,
        below=folders_at(rows[MODE::ROW]),
    )


def _is(record: _Record, block: Block) -> bool:
    """Tell whether a record is of just this folder, as far as the digest tells, and the times of the folders in it."""
    count = len(block)
    return (
        record.digest == block.digest
        and len(record.columns) == count * 8 * len(_COLUMNS)
        and record.loose == block.loose
        and block.counted
        and not block.kept
        and (not block.below or record.columns[: count * 8] == portable([block.numbers()[MTIME::ROW]]))
    )


def _append(block: Block, more: Block) -> None:
    here = len(block)
    block.below += [here + at for at in more.below]
    block.names += b"\0" + more.names
    block.rows += more.rows
    block.digests += more.digests
    block.blobs += more.blobs
    block.extras.update({here + at: extra for at, extra in more.extras.items()})
    block.chunks.update({here + at: chunks for at, chunks in more.chunks.items()})


def _check(tree: Tree, like: Mapping[str, Block]) -> None:
    """Refuse a manifest that names anything but plain names in folders of its own.

    Args:
        like: folders that were found on disk, where there are no other names.

    Raises:
        RollbackError: path.unsafe.
    """
    folders = {""}
    for path, block in tree.blocks.items():
        folders.update(join(path, name) for name in block.folders())
        if like.get(path) is block:
            continue
        names = block.names.split(b"\0") if len(block) else []
        if b"/" in block.names or any(name in _UNSAFE for name in names) or len(set(names)) < len(names):
            raise _unsafe(path)
    for path in folders ^ tree.blocks.keys():
        raise _unsafe(path)
    seen: set[str] = set()
    for group in tree.groups:
        for path in group:
            entry = tree.find(path)
            if entry is None or entry.is_folder or path in seen:
                raise _unsafe(path)
            seen.add(path)


def mark_kept(tree: Tree, rules: Rules, *, same_keep: bool) -> None:
    """Note in a tree from a manifest what matches `keep` now.

    Args:
        same_keep: whether the patterns were the same at the capture; if not, digests are computed again.
    """
    keep = rules.keep
    kept_folders: set[str] = set()
    for path in sorted(tree.blocks) if keep or not same_keep else ():
        block = tree.blocks[path]
        names, modes = block.listed(), block.numbers()[MODE::ROW]
        if path in kept_folders:
            block.counted = False
            block.kept = list(range(len(names)))
        elif keep:
            block.kept = [
                at
                for at, name in enumerate(names)
                if keep.match(path, name, is_folder=modes[at] & 0o170000 == stat.S_IFDIR)
            ]
        kept_folders.update(join(path, names[at]) for at in block.kept)
        if not same_keep:
            seal(block)


def _unsafe(path: str) -> RollbackError:
    return RollbackError("path.unsafe", path=shown(path))


def _damaged(what: str, name: str, why: str) -> IntegrityError:
    return IntegrityError(
        "store.damaged",
        what=f"{what} {name} cannot be read: {why}",
        hint="`rfs verify --store` lists which checkpoints are whole.",
    )
