"""A tree of which some paths are as in another one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from rfs.production.rollback.drivers.files.tree import (
    DIGEST,
    ROW_BYTES,
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
    tree = Tree(onto.top, dict(onto.blocks), onto.link, [])
    for path in paths:
        if want.find(path) is None and onto.find(path) is None:
            raise NotFoundError("select.none", what=shown(path), component=component)
        _put(want, tree, path, component)
    chosen = set(paths)
    tree.groups = _groups(want, onto, chosen)
    return tree


def _put(want: Tree, tree: Tree, path: str, component: str) -> None:
    folder, _, name = path.rpartition("/")
    line = _lines(want.blocks.get(folder)).get(name)
    for inner in [each for each in tree.blocks if each == path or each.startswith(path + "/")]:
        del tree.blocks[inner]
    if line is None:
        lines = _lines(tree.blocks.get(folder))
        lines.pop(name, None)
        if folder in tree.blocks:
            tree.blocks[folder] = _block(lines, tree.blocks[folder])
        return
    if folder not in tree.blocks:
        _make_way(want, tree, folder, component)
    lines = _lines(tree.blocks[folder])
    lines[name] = line
    tree.blocks[folder] = _block(lines, tree.blocks[folder])
    if path in want.blocks:
        for inner in want.inside(path):
            tree.blocks[inner] = want.blocks[inner]


def _make_way(want: Tree, tree: Tree, folder: str, component: str) -> None:
    """Put a folder of `want` there, empty, with those above it."""
    above, _, name = folder.rpartition("/")
    if above not in tree.blocks:
        _make_way(want, tree, above, component)
    lines = _lines(tree.blocks[above])
    if name in lines:
        raise ConflictError("select.way", what=shown(folder), component=component)
    lines[name] = _lines(want.blocks[above])[name]
    tree.blocks[above] = _block(lines, tree.blocks[above])
    tree.blocks[folder] = empty_block()


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
