"""A tree of which some paths are as in another one."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from blake3 import blake3

from rfs.production.rollback.driver import BlobSink
from rfs.production.rollback.drivers.files.tree import (
    DIGEST,
    MTIME,
    NONE,
    ROW_BYTES,
    SIZE,
    Block,
    Chunk,
    Extra,
    Tree,
    empty_block,
    under,
)
from rfs.production.rollback.drivers.meta import shown
from rfs.production.rollback.errors import ConflictError, NotFoundError


class _Line(NamedTuple):
    """One entry as a block has it."""

    row: bytes
    digest: bytes
    blob: bytes
    extra: Extra | None
    chunks: list[Chunk] | None


class Said(NamedTuple):
    """What a file is to say."""

    size: int
    digest: bytes
    blob: bytes

    @classmethod
    def of(cls, data: bytes, sink: BlobSink) -> Said:
        """Return a content, which is stored."""
        return cls(len(data), blake3(data).digest(), sink.put(data) if data else NONE)


def graft(want: Tree, onto: Tree, paths: Sequence[str], component: str) -> Tree:
    """Return `onto` with what lies at `paths` as in `want`, with the folders that lead there; neither is changed.

    Args:
        paths: from the root; of files, or of folders with all that is in them.

    Raises:
        NotFoundError: select.none, a path is in neither.
        ConflictError: select.absent, there is no folder on one side; select.way, something else than a folder is now
            where a folder is needed.
    """
    if want.absent or onto.absent:
        raise ConflictError("select.absent", component=component)
    draft = _Draft(want, onto, component)
    for path in paths:
        if want.find(path) is None and onto.find(path) is None:
            raise NotFoundError("select.none", what=shown(path), component=component)
        draft.put(path)
    tree = Tree(onto.top, draft.closed(), onto.link, [])
    chosen = set(paths)
    tree.groups = _groups(want, onto, chosen)
    return tree


def rewritten(tree: Tree, contents: Mapping[str, Said]) -> Tree:
    """Return a tree in which files say something else; it is not changed.

    Args:
        contents: by path. Each is a file there.
    """
    draft = _Draft(tree, tree, "")
    for path, said in contents.items():
        draft.say(path, said)
    written = Tree(tree.top, draft.closed(), tree.link, [])
    # What says something else is no longer the same file as its other names.
    written.groups = [
        left for group in tree.groups if len(left := [each for each in group if each not in contents]) > 1
    ]
    return written


class _Draft:
    """The folders of a tree that is made. Those in which something is changed are taken apart once, however often."""

    def __init__(self, want: Tree, onto: Tree, component: str) -> None:
        self._want = want
        self._component = component
        self._blocks = dict(onto.blocks)
        self._open: dict[str, dict[str, _Line]] = {}
        self._wanted: dict[str, dict[str, _Line]] = {}

    def put(self, path: str) -> None:
        """Let what is at a path be as it is wanted."""
        folder, _, name = path.rpartition("/")
        line = self._wanted_in(folder).get(name)
        if path in self._blocks:
            for inner in [each for each in self._blocks if each == path or each.startswith(path + "/")]:
                del self._blocks[inner]
                self._open.pop(inner, None)
        if line is None:
            if folder in self._blocks:
                self._lines(folder).pop(name, None)
            return
        if folder not in self._blocks:
            self._make_way(folder)
        self._lines(folder)[name] = line
        if path in self._want.blocks:
            for inner in self._want.inside(path):
                self._blocks[inner] = self._want.blocks[inner]

    def say(self, path: str, said: Said) -> None:
        """Let a file that is there say something else, from now on."""
        folder, _, name = path.rpartition("/")
        line = self._lines(folder)[name]
        numbers = array("Q", line.row)
        numbers[SIZE], numbers[MTIME] = said.size, time.time_ns()
        self._lines(folder)[name] = line._replace(
            row=numbers.tobytes(), digest=said.digest, blob=said.blob, chunks=None
        )

    def _make_way(self, folder: str) -> None:
        """Put a wanted folder there, empty, with those above it."""
        above, _, name = folder.rpartition("/")
        if above not in self._blocks:
            self._make_way(above)
        lines = self._lines(above)
        if name in lines:
            raise ConflictError("select.way", what=shown(folder), component=self._component)
        lines[name] = self._wanted_in(above)[name]
        self._blocks[folder] = empty_block()

    def _lines(self, folder: str) -> dict[str, _Line]:
        if folder not in self._open:
            self._open[folder] = _lines(self._blocks[folder])
        return self._open[folder]

    def _wanted_in(self, folder: str) -> dict[str, _Line]:
        if folder not in self._wanted:
            self._wanted[folder] = _lines(self._want.blocks.get(folder))
        return self._wanted[folder]

    def closed(self) -> dict[str, Block]:
        """Return the folders."""
        changed = {folder: _block(lines, self._blocks[folder]) for folder, lines in self._open.items()}
        return {**self._blocks, **changed}


def _groups(want: Tree, onto: Tree, chosen: set[str]) -> list[list[str]]:
    """Return the names of one file: inside what was chosen as in `want`, outside as they are."""

    def inside(path: str) -> bool:
        return path in chosen or under(path, chosen)

    groups = [[path for path in group if inside(path)] for group in want.groups]
    groups += [[path for path in group if not inside(path)] for group in onto.groups]
    return sorted(group for group in groups if len(group) > 1)


def _lines(block: Block | None) -> dict[str, _Line]:
    if block is None:
        return {}
    return {
        name: _Line(
            block.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES],
            block.digests[at * DIGEST : (at + 1) * DIGEST],
            block.blobs[at * DIGEST : (at + 1) * DIGEST],
            block.extras.get(at),
            block.chunks.get(at),
        )
        for at, name in enumerate(block.listed())
    }


def _block(lines: dict[str, _Line], like: Block) -> Block:
    names = sorted(lines)
    ordered = [lines[name] for name in names]
    return Block(
        os.fsencode("\0".join(names)),
        b"".join(line.row for line in ordered),
        b"".join(line.digest for line in ordered),
        b"".join(line.blob for line in ordered),
        {at: line.extra for at, line in enumerate(ordered) if line.extra is not None},
        {at: line.chunks for at, line in enumerate(ordered) if line.chunks is not None},
        [],
        like.loose,
        like.sheltering,
    )
