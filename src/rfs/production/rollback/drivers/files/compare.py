"""How two trees differ, folder by folder, and what of that a restore has to do."""

from __future__ import annotations

import enum
import stat
from collections.abc import Collection, ItemsView, Iterator
from typing import NamedTuple

from rfs.production.rollback.drivers.files.options import Rules
from rfs.production.rollback.drivers.files.tree import (
    DIGEST,
    GID,
    MTIME,
    ROW,
    ROW_BYTES,
    Block,
    Entry,
    Extra,
    Tree,
    above,
    empty_block,
    join,
    under,
)
from rfs.production.rollback.drivers.meta import shown
from rfs.production.rollback.errors import ConflictError
from rfs.production.rollback.model import Change, ChangeKind, Ref

_NO_FOLDER = empty_block()
# Where time, size, mode, owner and group stand in a row.
_STATE_FROM, _STATE_TO = 8 * MTIME, 8 * (GID + 1)


class Difference(NamedTuple):
    """One path at which two trees differ; None where it is not there. The root's path is ""."""

    path: str
    before: Entry | None
    after: Entry | None


class Verb(enum.Enum):
    """What a restore does to one path."""

    PUT = "put"  # there is something else, or nothing: a staged one takes its place
    WRITE = "write"  # a file whose inode must stay
    DESCRIBE = "describe"  # the content is right, the metadata is not
    TAKE = "take"  # it should not be there


class Task(NamedTuple):
    """One thing that a restore does. `group` is the position in the wanted tree's groups, or -1."""

    path: str
    verb: Verb
    want: Entry | None
    live: Entry | None
    group: int = -1


def differences(a: Tree, b: Tree) -> list[Difference]:
    """Return how `b` differs from `a`, in the order of folders, then of names."""
    if a.absent or b.absent:
        return _all_or_nothing(a, b)
    found: list[Difference] = []
    tops = (a.top.entry(0), b.top.entry(0))
    if not tops[0].same_meta(tops[1], time=not (a.top.loose or b.top.loose)):
        found.append(Difference("", *tops))
    for path in sorted(a.blocks.keys() | b.blocks.keys()):
        before, after = a.blocks.get(path, _NO_FOLDER), b.blocks.get(path, _NO_FOLDER)
        if not _equal(before, after):
            found += _in_folder(path, a, b)
    regrouped = _regrouped(a, b)
    if regrouped:
        regrouped.difference_update([each.path for each in found])
        found += [Difference(path, a.find(path), b.find(path)) for path in sorted(regrouped)]
    return found


def without_what_stays(found: list[Difference], stays: Collection[str]) -> list[Difference]:
    """Return the differences to a live tree without what was added to it and stays; see `staying`."""
    if not stays:
        return found
    return [each for each in found if each.before is not None or each.path not in stays]


def kept_in(live: Tree, brought: Tree | None = None) -> set[str]:
    """Return the paths in a live tree that match `keep`, so that they stay when they were added.

    Args:
        brought: what a rollback brought back where no root was. What is still as in there was added by nobody else.
    """
    kept = live.kept_paths()
    if brought is None:
        return kept
    then, now = brought.find_all(kept), live.find_all(kept)
    return kept - {path for path, entry in then.items() if _is_as_brought(entry, now[path])}


def staying(live: Tree, kept: set[str]) -> set[str]:
    """Return what a restore leaves when it was added: what is kept, and folders that hold that or what is left out."""
    stays = kept | shelters_of(live, kept)
    return stays | {""} if stays else stays


def _is_as_brought(then: Entry, now: Entry) -> bool:
    return then.same_content(now) and then.same_meta(now, time=not now.is_folder)


def _all_or_nothing(a: Tree, b: Tree) -> list[Difference]:
    if a.absent and b.absent:
        return []
    tree = b if a.absent else a
    top = tree.top.entry(0)
    found = [Difference("", None, top) if a.absent else Difference("", top, None)]
    for path in sorted(tree.blocks):
        found += _in_folder(path, a, b)
    return found


def _equal(before: Block, after: Block) -> bool:
    """Tell quickly that two folders are equal. That they are not, it does not tell."""
    if before is after:
        return True
    if before.digest != after.digest or before.kept or after.kept or not (before.counted and after.counted):
        return False
    # The digest leaves out the times of the folders in it.
    return not before.below or before.numbers()[MTIME::ROW] == after.numbers()[MTIME::ROW]


def _in_folder(path: str, a: Tree, b: Tree) -> Iterator[Difference]:
    before, after = a.blocks.get(path, _NO_FOLDER), b.blocks.get(path, _NO_FOLDER)
    if before.names == after.names and len(before) == len(after):
        names = before.listed()
        for at in _unequal(before, after):
            first, second = before.entry(at), after.entry(at)
            if not _same(join(path, names[at]), first, second, a, b):
                yield Difference(join(path, names[at]), first, second)
        return
    old, new = _places(before), _places(after)
    # What is plainly equal in both is left out.
    for name in sorted({name for name, _ in _marks(before, old) ^ _marks(after, new)}):
        i, j = old.get(name, -1), new.get(name, -1)
        if i < 0:
            yield Difference(join(path, name), None, after.entry(j))
        elif j < 0:
            yield Difference(join(path, name), before.entry(i), None)
        else:
            first, second = before.entry(i), after.entry(j)
            if not _same(join(path, name), first, second, a, b):
                yield Difference(join(path, name), first, second)


def _unequal(before: Block, after: Block) -> list[int]:
    """Return where entries of two folders with equal names may differ; what it leaves out is equal."""
    old, new = before.rows, after.rows
    found = {
        at // ROW_BYTES
        for at in range(0, len(old), ROW_BYTES)
        if old[at + _STATE_FROM : at + _STATE_TO] != new[at + _STATE_FROM : at + _STATE_TO]
    }
    if before.digests != after.digests:
        found.update(at for at in range(len(before)) if not _plainly_same(before, at, after, at))
    if before.extras != after.extras:
        found.update(before.extras)
        found.update(after.extras)
    return sorted(found)


def _plainly_same(before: Block, i: int, after: Block, j: int) -> bool:
    """Tell quickly that two entries are equal. That they are not, it does not tell."""
    return (
        before.rows[i * ROW_BYTES + _STATE_FROM : i * ROW_BYTES + _STATE_TO]
        == after.rows[j * ROW_BYTES + _STATE_FROM : j * ROW_BYTES + _STATE_TO]
        and before.digests[i * DIGEST : (i + 1) * DIGEST] == after.digests[j * DIGEST : (j + 1) * DIGEST]
        and before.extras.get(i) == after.extras.get(j)
    )


def _same(path: str, first: Entry, second: Entry, a: Tree, b: Tree) -> bool:
    time = True
    if first.is_folder and second.is_folder:
        time = not ((path in a.blocks and a.blocks[path].loose) or (path in b.blocks and b.blocks[path].loose))
    return first.same_meta(second, time=time) and first.same_content(second)


def _marks(block: Block, places: dict[str, int]) -> ItemsView[str, tuple[bytes, bytes, Extra | None]]:
    """Return by name what makes up each entry's state."""
    rows, digests, extra = block.rows, block.digests, block.extras.get
    return {
        name: (
            rows[at * ROW_BYTES + _STATE_FROM : at * ROW_BYTES + _STATE_TO],
            digests[at * DIGEST : (at + 1) * DIGEST],
            extra(at),
        )
        for name, at in places.items()
    }.items()


def _places(block: Block) -> dict[str, int]:
    return {name: at for at, name in enumerate(block.listed())}


def shelters_of(tree: Tree, kept: set[str]) -> set[str]:
    """Return every folder that holds, at any depth, what is left out or one of the `kept` paths.

    It cannot go as a whole.
    """
    holding = {path for path, block in tree.blocks.items() if block.sheltering}
    holding.update(path.rpartition("/")[0] for path in kept)
    found: set[str] = set()
    for path in holding:
        if path not in found:
            found.add(path)
            found.update(above(path))
    return found


def _regrouped(a: Tree, b: Tree) -> set[str]:
    """Return the paths in both trees that are names of one file together with others than before.

    Names that only one tree has do not count: they are differences of their own.
    """
    before, after = _partners(a, b), _partners(b, a)
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def _partners(tree: Tree, other: Tree) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    there = other.find_all(path for group in tree.groups for path in group)
    for group in tree.groups:
        shared = tuple(path for path in group if path in there)
        if len(shared) > 1:
            found.update(dict.fromkeys(shared, shared))
    return found


def tasks(want: Tree, live: Tree, rules: Rules, kept: set[str], differing: list[Difference]) -> list[Task]:
    """Return what turns the live tree into the wanted one, in the order of paths.

    A folder that is new, or goes as a whole, is one task.

    Args:
        kept: see `kept_in`.
        differing: how the live tree differs from the wanted one, without what stays.

    Raises:
        ConflictError: path.sheltering, when a folder must become something else but holds what is left out.
    """
    group_of = {path: number for number, group in enumerate(want.groups) for path in group}
    shelters = shelters_of(live, kept)
    regrouped = _regrouped(want, live)
    done: set[str] = set()  # folders that are dealt with as a whole
    found: list[Task] = []
    spoilt: set[int] = set()
    for difference in sorted(differing):
        path, before, after = difference
        if done and under(path, done):
            continue
        verb = _verb(difference, rules, regrouped=path in regrouped, linked=path in group_of)
        if (before is None or after is None or not (before.is_folder and after.is_folder)) and path:
            if after is not None and after.is_folder and path in shelters:
                raise ConflictError("path.sheltering", path=shown(path))
            done.add(path)
        if verb is Verb.PUT and path in group_of:
            spoilt.add(group_of[path])
        found.append(Task(path, verb, before, after, group_of.get(path, -1)))
    for number, group in enumerate(want.groups):
        if any(under(path, done) for path in group):
            spoilt.add(number)
    return _with_whole_groups(found, want, live, spoilt, done)


def loose_times(want: Tree, live: Tree) -> list[Task]:
    """Return what gives folders their times that hold what is no part of the state, and so have times that are none.

    A restore leaves such a time as it is, unless it changed the folder itself.
    """
    kept = live.kept_paths()
    loose = {
        path
        for tree in (want, live)
        for path, block in tree.blocks.items()
        if block.loose and block.counted and path not in kept
    }
    wanted, found = want.find_all(loose), live.find_all(loose)
    return [
        Task(path, Verb.DESCRIBE, entry, there)
        for path, entry in wanted.items()
        if (there := found.get(path)) is not None
        and (entry.is_folder, there.is_folder) == (True, True)
        and entry.mtime_ns != there.mtime_ns
    ]


def _verb(found: Difference, rules: Rules, *, regrouped: bool, linked: bool) -> Verb:
    path, want, live = found
    if not path:
        return Verb.DESCRIBE  # a root that is missing is made before
    if want is None:
        return Verb.TAKE
    if live is None or regrouped:
        return Verb.PUT
    if (want.is_folder and live.is_folder) or want.same_content(live):
        return Verb.DESCRIBE
    in_place = want.is_file and live.is_file and not linked and _matches_inside(rules, path)
    return Verb.WRITE if in_place else Verb.PUT


def _matches_inside(rules: Rules, path: str) -> bool:
    """Tell whether a file, or a folder above it, matches `in_place`."""
    if not rules.in_place:
        return False
    folder, _, name = path.rpartition("/")
    if rules.in_place.match(folder, name, is_folder=False):
        return True
    return any(
        rules.in_place.match(above_it, name, is_folder=True)
        for above_it, _, name in (parent.rpartition("/") for parent in above(path))
    )


def _with_whole_groups(found: list[Task], want: Tree, live: Tree, spoilt: set[int], done: set[str]) -> list[Task]:
    """Have every name of a file put anew when one is: they must be one file again."""
    if not spoilt:
        return found
    kept = [task for task in found if task.group not in spoilt]
    whole = {task.path for task in found if task.group in spoilt and task.verb is Verb.PUT}
    for number in spoilt:
        for path in want.groups[number]:
            if path in whole or not under(path, done):
                kept.append(Task(path, Verb.PUT, want.find(path), live.find(path), number))
    kept.sort(key=_path_of)
    return kept


def _path_of(task: Task) -> str:
    return task.path


def as_change(component: str, difference: Difference) -> Change:
    """Return a difference in the words of the plugin page."""
    path, before, after = difference
    if before is None:
        kind = ChangeKind.ADDED
    elif after is None:
        kind = ChangeKind.REMOVED
    else:
        kind = ChangeKind.CHANGED
    return Change(component, kind, shown(path) or ".", _ref(before), _ref(after))


def _ref(entry: Entry | None) -> Ref | None:
    if entry is None:
        return None
    label = stat.filemode(entry.mode)
    if entry.extra.link:
        label += " -> " + entry.extra.link.decode("utf-8", "backslashreplace")
    return Ref(entry.identity(), entry.size, label)
