"""`FilesDriver`: what the plugin page asks, said in scans, trees, differences and stages."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSink, BlobSource, BlobStore, Driver, Finding
from rfs.production.rollback.drivers.files import compare, index, manifest, places, room, root, text
from rfs.production.rollback.drivers.files.apply import Applier
from rfs.production.rollback.drivers.files.compare import Task, Verb
from rfs.production.rollback.drivers.files.graft import Said, graft, rewritten
from rfs.production.rollback.drivers.files.look import Look, nothing_changed
from rfs.production.rollback.drivers.files.options import FilesOptions, Rules, root_of
from rfs.production.rollback.drivers.files.places import Place
from rfs.production.rollback.drivers.files.stage import Stage, is_there, release
from rfs.production.rollback.drivers.files.tree import Tree, absent_tree, under
from rfs.production.rollback.drivers.meta import shown
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.model import Capture, Change, ChangeKind, Component, Fingerprint, Loss, Ref, Restored

_EXAMPLES = 5
_SPELLED = re.compile(rb"\\x([89a-f][0-9a-f])")

# How long the look of a capture is good enough to stage by. It may well be out of date by then:
# what became different since is staged in the outage.
_FRESH_SECONDS = 60.0

# From so many folders on, what is known of them is written while old files are removed.
_MANY_FOLDERS = 1_000

# The safety checkpoint and the state before, which are compared in the outage.
_MOST_CAPTURED = 2


class FilesDriver(Driver):
    """Looks after a folder: content, names, types, modes, owners, times, attributes, links, holes."""

    kind: ClassVar[str] = "files"
    options: ClassVar[type[msgspec.Struct]] = FilesOptions

    def __init__(self) -> None:
        # One operation asks for the same trees again and again, some of that in the outage: each is decoded,
        # found and compared once.
        self._known: tuple[str, index.Index | None] | None = None
        self._unsaved = False  # whether the known index is another one than what other processes find
        self._loaded: tuple[_Key, Tree] | None = None
        self._captured: dict[_Key, Tree] = {}
        self._seen: _Seen | None = None
        self._compared: _Compared | None = None

    # — looking —

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        """Record the folder; an unchanged file costs one lstat. See `Driver.capture`.

        Raises:
            RollbackError: path.missing, path.kind, path.unreadable or path.changing.
        """
        captured = self._capture(c, sink, previous)
        self._save(c)
        return captured

    def _capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        look = self._look(c, places.locate(c))
        held = previous.parts if previous is not None and previous.kind == self.kind else ()
        tree = look.at_tree(sink=sink, held=frozenset(held))
        seen, self._seen = self._seen, None
        if seen is not None and seen.look.place == look.place and nothing_changed(seen.tree, tree):
            tree = seen.tree
            if seen.capture.parts == held:
                self._seen = _Seen(look, tree, seen.capture, time.monotonic())
                return msgspec.structs.replace(seen.capture, warnings=tuple(look.warnings))
        captured = self._record(c, sink, look, tree)
        self._seen = _Seen(look, tree, captured, time.monotonic())
        return captured

    def salvage(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        """Record the folder before a rollback; that there is none is a state too."""
        try:
            return self._capture(c, sink, previous)
        except RollbackError as error:
            if error.key != "path.missing":
                raise
        self._seen = None
        look = self._look(c, Place(root_of(c), root.link_of(root_of(c)), ""))
        return self._record(c, sink, look, absent_tree(look.place.link))

    def _record(self, c: Component, sink: BlobSink, look: Look, tree: Tree) -> Capture:
        # Writing numbers the blocks anew. Should it fail half way, they and the known parts would not agree.
        self._known = None
        written = manifest.write(tree, sink, look.reusable)
        self._remember(c, look, tree, written)
        captured = _captured(c, look.rules, tree, written, look.warnings)
        self._captured[_key(look.rules, captured)] = tree
        while len(self._captured) > _MOST_CAPTURED:
            del self._captured[next(iter(self._captured))]
        return captured

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        """Return the identity of the live folder, of one that is not there too."""
        tree = self._live(c, rehash=rehash)
        return Fingerprint(tree.digest(), *tree.totals())

    def owns(self, c: Component) -> tuple[str, ...]:
        """Return the folder."""
        return (root_of(c),)

    def root(self, c: Component) -> str | None:
        """Return the folder."""
        return root_of(c)

    def examine(self, c: Component) -> Iterator[Finding]:
        """Yield what would stand in the way of a capture or a restore."""
        from rfs.production.rollback.drivers.files import examine

        yield from examine.findings(c)

    def _look(self, c: Component, place: Place) -> Look:
        if self._known is None or self._known[0] != c.work:
            self._known, self._unsaved = (c.work, index.load(c.work)), False
        return Look(c, place, self._known[1])

    def _remember(self, c: Component, look: Look, tree: Tree, written: manifest.Written | None = None) -> None:
        known, news = look.remember(tree, written)
        self._known = (c.work, known)
        self._unsaved = self._unsaved or news

    def _save(self, c: Component) -> None:
        """Keep the known index for other processes, when it is news."""
        if self._unsaved and self._known is not None and self._known[0] == c.work and self._known[1] is not None:
            index.save(c.work, self._known[1])
            self._unsaved = False

    def _live(self, c: Component, *, rehash: bool = False, restored: Tree | None = None) -> Tree:
        """Look at the live folder, also at one that is not there.

        Args:
            restored: what was just restored there: where the store has it is noted in the index.
        """
        try:
            place = places.locate(c)
        except RollbackError as error:
            if error.key != "path.missing":
                raise
            place = Place(root_of(c), root.link_of(root_of(c)), "")
        look = self._look(c, place)
        tree = look.at_tree(rehash=rehash)
        if restored is not None and not (restored.absent or tree.absent):
            _adopt(tree, restored)
        self._remember(c, look, tree)
        if restored is None:
            self._save(c)
        return tree

    def _load(self, c: Component, source: BlobSource, want: Capture) -> Tree:
        rules = Rules(c, ())
        key = _key(rules, want)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # two of them need not be in memory
            # What is kept is marked in the blocks, and by the rules of today, so that they cannot be shared.
            like = self._seen.tree.blocks if self._seen is not None and not rules.keep else None
            same_keep = list(rules.keep_lines) == want.meta.get("keep", [])
            tree = manifest.read(want.parts, source, like if same_keep else None)
            manifest.mark_kept(tree, rules, same_keep=same_keep)
            self._loaded = (key, tree)
        return self._loaded[1]

    def _tree_of(self, c: Component, source: BlobSource, capture: Capture) -> Tree:
        """Return a tree to compare; what is restored is always loaded, as what was stored is what counts."""
        captured = self._captured.get(_key(Rules(c, ()), capture))
        return self._load(c, source, capture) if captured is None else captured

    # — restoring —

    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        """Make everything that differs now, beside the live folder, so that the outage only exchanges it."""
        job = self._job(c, source, want, look_again=False)
        real, first = job.place.real, room.is_first(c, job.place.real)
        room.give_up(c, real, but=job.key)
        if any(task.verb in (Verb.PUT, Verb.WRITE) for task in job.tasks) or (first and job.tasks):
            with Stage.opened(c, real, job.key) as stage:
                stage.make(job.tasks, job.want, source)
            if first:
                room.make(c, real, job.key, room.needed(job.tasks, job.live, real))

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        """Converge the live folder on a capture; see `Driver.restore`.

        Raises:
            RollbackError: path.owner, path.unsafe, path.mounted or path.sheltering before anything was
                changed; path.swapped, path.unwritable or store.no_space.
            IntegrityError: a blob or part is missing or damaged; nothing was changed.
        """
        job = self._job(c, source, want, look_again=not source.still)
        self._seen = self._compared = None  # from here on the folder is another one
        warnings: list[str] = []
        if job.want.absent and not job.stays:
            changed = root.take_out(c, job.place, job.key, job.live)
        elif job.tasks or job.live.absent or is_there(c, job.place.real, job.key):
            changed = self._apply(c, source, job, warnings)
        else:
            changed = 0
        if job.want.absent and job.stays:
            warnings.append(_told_to_stay(job))
        changed += root.set_link(c, job.place.path, job.want.link, job.key)
        return Restored(changed, tuple(warnings))

    @staticmethod
    def _apply(c: Component, source: BlobSource, job: _Job, warnings: list[str]) -> int:
        with Stage.opened(c, job.place.real, job.key) as stage:
            tasks = job.tasks
            if stage.begun(tasks):
                tasks = [*tasks, *compare.loose_times(job.want, job.live)]
            if tasks or job.live.absent:
                stage.make(tasks, job.want, source)
                if job.live.absent:
                    root.note_brought(c, job.want_parts)
                root.make_folder(c, job.place)
                with places.opened(c, job.place.real) as fd:
                    applier = Applier(c.name, fd, stage, (job.want, job.live), source)
                    applier.run(tasks)
                    warnings += applier.warnings
            return max(len(tasks), job.live.absent)

    def release(self, c: Component) -> None:
        """Remove the stage, with the old files parked in it; keep the index, for which the outage had no time."""
        # Either waits for the disk, and the more so the larger the tree is.
        known = self._known[1] if self._known is not None else None
        saving = threading.Thread(target=self._save, args=(c,), name="rfs index")
        apart = known is not None and len(known.blocks) >= _MANY_FOLDERS
        (saving.start if apart else saving.run)()
        try:
            self._captured.clear()
            self._loaded = self._seen = self._compared = None
            path = root_of(c)
            release(c, {path, os.path.realpath(path), *root.remembered(c)})
        finally:
            if apart:
                saving.join()

    def _job(self, c: Component, source: BlobSource, capture: Capture, *, look_again: bool) -> _Job:
        want = self._load(c, source, capture)
        place = places.place_wanted(c, want.link)
        seen = None if look_again else self._seen
        if seen is not None and seen.look.place == place and time.monotonic() - seen.at < _FRESH_SECONDS:
            look, live = seen.look, seen.tree
        else:
            look = self._look(c, place)
            live = look.at_tree()
            self._remember(c, look, live)
        kept = self._kept(c, source, want, live)
        stays = compare.staying(live, kept)
        tasks = [] if want.absent and not stays else self._tasks(want, live, look.rules, kept)
        from rfs.production.rollback.drivers.files import refusals  # not needed to compare

        refusals.refuse_mounts(c, place, tasks)
        if os.geteuid() != 0:
            refusals.refuse_owners(tasks, live)
        root.remember(c, place.real)
        key = blake3(b"".join(capture.parts)).hexdigest(length=8)
        return _Job(want, capture.parts, live, place, tasks, key, kept, stays)

    def _tasks(self, want: Tree, live: Tree, rules: Rules, kept: set[str]) -> list[Task]:
        compared = self._compare(want, live)
        if compared.tasks is None:
            differing = compare.without_what_stays(compared.found, compare.staying(live, kept))
            compared.tasks = compare.tasks(want, live, rules, kept, differing)
        return compared.tasks

    @staticmethod
    def _kept(c: Component, source: BlobSource, want: Tree, live: Tree) -> set[str]:
        """Return which paths `keep` keeps; see `compare.kept_in`."""
        return compare.kept_in(live, root.brought(c, source) if want.absent and not live.absent else None)

    def _staying(self, c: Component, source: BlobSource, want: Tree, live: Tree) -> set[str]:
        return compare.staying(live, self._kept(c, source, want, live))

    # — comparing —

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        """Look again and return how the live folder differs; what a restore put there is read back."""
        tree = self._load(c, source, want)
        live = self._live(c, restored=tree)
        return self._changes(c, tree, live, times=True, stays=self._staying(c, source, tree, live))

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        """Yield the differences, sorted by path; a folder of which only the time differs is none."""
        if b is not None and a.parts == b.parts:
            return
        first = self._tree_of(c, source, a)
        if b is not None:
            yield from self._changes(c, first, self._tree_of(c, source, b), times=False)
            return
        live = self._live(c)
        yield from self._changes(c, first, live, times=False, stays=self._staying(c, source, first, live))

    def content(self, c: Component, source: BlobSource, capture: Capture | None, key: str, most: int) -> bytes | None:
        """Return what the file at a path held, or holds."""
        if capture is None:
            return text.live(c, key, most)
        return text.stored(self._tree_of(c, source, capture), source, key, most)

    def _compare(self, a: Tree, b: Tree) -> _Compared:
        done = self._compared
        if done is None or done.a is not a or done.b is not b:
            done = self._compared = _Compared(a, b, compare.differences(a, b))
        return done

    def _changes(
        self, c: Component, a: Tree, b: Tree, *, times: bool, stays: Collection[str] = frozenset()
    ) -> list[Change]:
        found = compare.without_what_stays(self._compare(a, b).found, stays)
        changes = [compare.as_change(c.name, each) for each in found if times or not _only_time(each)]
        if a.link != b.link:
            changes = [change for change in changes if change.key != "."]
            changes.append(Change(c.name, ChangeKind.CHANGED, ".", _link_ref(a), _link_ref(b)))
        changes.sort(key=lambda change: change.key)
        return changes

    def losses(self, c: Component, source: BlobSource, want: Capture, changes: Sequence[Change]) -> Iterator[Loss]:
        """Yield the files that were added or changed since and that a rollback would take away."""
        # Changes between two captures tell also of what was added under `keep`, where it stays.
        kept = {shown(path) for path in self._seen.tree.kept_paths()} if self._seen is not None else set()
        for kind, what in ((ChangeKind.CHANGED, "changed files"), (ChangeKind.ADDED, "new files")):
            paths = [path for path in _written(changes, kind) if kind is ChangeKind.CHANGED or path not in kept]
            if paths:
                yield Loss(c.name, what, len(paths), tuple(paths[:_EXAMPLES]))
        tree = self._load(c, source, want)
        if tree.link is None or tree.link == root.link_of(root_of(c)):
            return
        # The link is to be turned back to a folder that the live state says nothing of.
        place = places.place_wanted(c, tree.link)
        live = self._look(c, place).at_tree()
        there = self._changes(c, tree, live, times=False, stays=self._staying(c, source, tree, live))
        paths = _written(there, ChangeKind.CHANGED) + _written(there, ChangeKind.ADDED)
        if paths:
            yield Loss(c.name, f"changed or new files in {shown(place.real)}", len(paths), tuple(paths[:_EXAMPLES]))

    def select(self, c: Component, blobs: BlobStore, want: Capture, onto: Capture, keys: Sequence[str]) -> Capture:
        """Return the folder of `onto` with the files and folders at the paths `keys` as in `want`."""
        rules = Rules(c, ())
        # Read anew: trees that were captured share their blocks with what is known of the live folder.
        wanted, there = (manifest.read(each.parts, blobs) for each in (want, onto))
        tree = graft(wanted, there, [_spelled(key, wanted, there) for key in keys], c.name)
        manifest.mark_kept(tree, rules, same_keep=False)
        written = manifest.write(tree, blobs, ())
        return _captured(c, rules, tree, written, onto.warnings)

    def rewrite(self, c: Component, blobs: BlobStore, capture: Capture, contents: Mapping[str, bytes]) -> Capture:
        """Return the folder of a capture, in which the files at these paths say something else."""
        rules = Rules(c, ())
        tree = manifest.read(capture.parts, blobs)
        written = rewritten(tree, {_spelled(key, tree): Said.of(data, blobs) for key, data in contents.items()})
        manifest.mark_kept(written, rules, same_keep=False)
        return _captured(c, rules, written, manifest.write(written, blobs, ()), capture.warnings)

    def among(self, changes: Sequence[Change], keys: Sequence[str]) -> list[Change]:
        """Return the changes at these paths and in the folders there."""
        paths = {shown(key) for key in keys}
        return [each for each in changes if each.key in paths or under(each.key, paths)]


def _spelled(key: str, *trees: Tree) -> str:
    """Return the path that a key stands for: bytes that are not UTF-8 are spelled out in it, as changes show them.

    Raises:
        UsageError: select.where, two names are shown alike.
    """
    raw = os.fsdecode(_SPELLED.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(key)))
    if raw == key or all(tree.find(raw) is None for tree in trees):
        return key
    if any(tree.find(key) is not None for tree in trees):
        raise UsageError("select.where", path=key, hint="Two names are shown alike: name the folder that they are in.")
    return raw


def _captured(c: Component, rules: Rules, tree: Tree, written: manifest.Written, warnings: Sequence[str]) -> Capture:
    entries, size = tree.totals()
    return Capture(
        component=c.name,
        kind=FilesDriver.kind,
        fingerprint=Fingerprint(tree.digest(), entries, size),
        parts=written.parts,
        entries=entries,
        size=size,
        warnings=tuple(warnings),
        meta={"keep": list(rules.keep_lines)},
    )


def _written(changes: Sequence[Change], kind: ChangeKind) -> list[str]:
    """Return what changed in this way and is no folder."""
    return [
        change.key
        for change in changes
        if change.kind is kind and change.after is not None and not change.after.label.startswith("d")
    ]


class _Job(msgspec.Struct):
    """A restore as it was found necessary."""

    want: Tree
    want_parts: tuple[bytes, ...]
    live: Tree
    place: Place
    tasks: list[Task]
    key: str
    kept: set[str]
    stays: set[str]


class _Seen(msgspec.Struct):
    """The look of the last capture, and when it was taken (time.monotonic)."""

    look: Look
    tree: Tree
    capture: Capture
    at: float


class _Compared(msgspec.Struct):
    """How two trees differ, and what turns the second into the first once that was asked."""

    a: Tree
    b: Tree
    found: list[compare.Difference]
    tasks: list[Task] | None = None


_Key = tuple[tuple[str, ...], tuple[bytes, ...]]


def _key(rules: Rules, capture: Capture) -> _Key:
    """Return what a capture's tree depends on: what was stored, and what is kept now."""
    return rules.keep_lines, capture.parts


def _adopt(live: Tree, want: Tree) -> None:
    """Note for what was just restored where the store has it, so that the next capture need not store it."""
    for path, block in live.blocks.items():
        wanted = want.blocks.get(path)
        if (
            block.part < 0
            and wanted is not None
            and not block.kept
            and block.digest == wanted.digest
            and block.names == wanted.names
        ):
            block.blobs, block.chunks = wanted.blobs, wanted.chunks


def _told_to_stay(job: _Job) -> str:
    kept = sorted(path for path in job.kept if not job.live.blocks.get(path))
    what = "what is excluded or another component's"
    if kept:
        what = f"what is kept and was added: {', '.join(shown(path) for path in kept[:_EXAMPLES])}"
    return f"{shown(job.place.real)} was to go, and stays with {what}."


def _only_time(found: compare.Difference) -> bool:
    before, after = found.before, found.after
    return (
        before is not None
        and after is not None
        and before.is_folder
        and after.is_folder
        and before.same_meta(after, time=False)
    )


def _link_ref(tree: Tree) -> Ref:
    if tree.link is None:
        return Ref("absent" if tree.absent else "folder", 0, "absent" if tree.absent else "a folder")
    return Ref(blake3(tree.link).hexdigest(length=16), 0, "-> " + tree.link.decode("utf-8", "backslashreplace"))
