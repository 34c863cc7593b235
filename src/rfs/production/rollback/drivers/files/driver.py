"""`FilesDriver`: what the plugin page asks, said in scans, trees, differences and stages."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSink, BlobSource, Driver, Finding
from rfs.production.rollback.drivers.files import compare, examine, index, manifest, places, root
from rfs.production.rollback.drivers.files.apply import Applier
from rfs.production.rollback.drivers.files.compare import Task, Verb
from rfs.production.rollback.drivers.files.options import FilesOptions, Rules, root_of
from rfs.production.rollback.drivers.files.places import Place
from rfs.production.rollback.drivers.files.scan import Known, Scan
from rfs.production.rollback.drivers.files.stage import Stage, release
from rfs.production.rollback.drivers.files.tree import Tree, absent_tree
from rfs.production.rollback.drivers.meta import check_owner, shown
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Capture, Change, ChangeKind, Component, Fingerprint, Loss, Ref, Restored

_EXAMPLES = 5

# How long the look of a capture is good enough to stage by. It may well be out of date by then:
# what became different since is staged in the outage.
_FRESH_SECONDS = 60.0


class FilesDriver(Driver):
    """Looks after a folder: content, names, types, modes, owners, times, attributes, links, holes."""

    kind: ClassVar[str] = "files"
    options: ClassVar[type[msgspec.Struct]] = FilesOptions

    def __init__(self) -> None:
        # One operation asks for the same capture several times, twice of them in the outage.
        self._loaded: tuple[tuple[str, tuple[bytes, ...]], Tree] | None = None
        self._seen: _Seen | None = None

    # — looking —

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        """Record the folder; an unchanged file costs one lstat. See `Driver.capture`.

        Raises:
            RollbackError: path.missing, path.kind, path.unreadable or path.changing.
        """
        place = places.locate(c)
        look = _Look(c, place)
        tree = look.at_tree(sink=sink, previous=previous)
        captured = self._captured(c, sink, look, tree)
        self._seen = _Seen(look, tree, time.monotonic())
        return captured

    def salvage(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        """Record the folder before a rollback; that there is none is a state too."""
        try:
            return self.capture(c, sink, previous)
        except RollbackError as error:
            if error.key != "path.missing":
                raise
        self._seen = None
        look = _Look(c, Place(root_of(c), root.link_of(root_of(c)), ""))
        return self._captured(c, sink, look, absent_tree(look.place.link))

    @staticmethod
    def _captured(c: Component, sink: BlobSink, look: _Look, tree: Tree) -> Capture:
        written = manifest.write(tree, sink, look.reusable)
        look.remember(tree, written)
        entries, size = tree.totals()
        return Capture(
            component=c.name,
            kind=FilesDriver.kind,
            fingerprint=Fingerprint(tree.digest(), entries, size),
            parts=written.parts,
            entries=entries,
            size=size,
            warnings=tuple(look.warnings),
            meta={"keep": list(look.rules.keep_lines)},
        )

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        """Return the identity of the live folder, of one that is not there too."""
        look, tree = self._live(c, rehash=rehash)
        look.remember(tree)
        return Fingerprint(tree.digest(), *tree.totals())

    def owns(self, c: Component) -> tuple[str, ...]:
        """Return the folder."""
        return (root_of(c),)

    def root(self, c: Component) -> str | None:
        """Return the folder."""
        return root_of(c)

    def examine(self, c: Component) -> Iterator[Finding]:
        """Yield what would stand in the way of a capture or a restore."""
        yield from examine.findings(c)

    @staticmethod
    def _live(c: Component, *, rehash: bool = False) -> tuple[_Look, Tree]:
        try:
            place = places.locate(c)
        except RollbackError as error:
            if error.key != "path.missing":
                raise
            place = Place(root_of(c), root.link_of(root_of(c)), "")
        look = _Look(c, place)
        return look, look.at_tree(rehash=rehash)

    def _load(self, c: Component, source: BlobSource, want: Capture) -> Tree:
        rules = Rules(c, ())
        key = (repr(rules.keep_lines), want.parts)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # two of them need not be in memory
            tree = manifest.read(want.parts, source)
            manifest.mark_kept(tree, rules, same_keep=list(rules.keep_lines) == want.meta.get("keep", []))
            self._loaded = (key, tree)
        return self._loaded[1]

    # — restoring —

    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        """Make everything that differs now, beside the live folder, so that the outage only exchanges it."""
        job = self._job(c, source, want, look_again=False)
        if any(task.verb in (Verb.PUT, Verb.WRITE) for task in job.tasks):
            with Stage.opened(c, job.place.real, job.key) as stage:
                stage.make(job.tasks, job.want, source)

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        """Converge the live folder on a capture; see `Driver.restore`.

        Raises:
            RollbackError: path.owner, path.unsafe, path.mounted or path.sheltering before anything was
                changed; path.swapped, path.unwritable or store.no_space.
            IntegrityError: a blob or part is missing or damaged; nothing was changed.
        """
        job = self._job(c, source, want, look_again=not source.still)
        self._seen = None  # from here on the folder is another one
        changed = len(job.tasks)
        warnings: list[str] = []
        if job.want.absent:
            changed = root.take_out(c, job.place, job.key, job.live)
        elif job.tasks or job.live.absent:
            changed = max(changed, 1)
            with Stage.opened(c, job.place.real, job.key) as stage:
                stage.make(job.tasks, job.want, source)
                root.make_folder(c, job.place)
                with places.opened(c, job.place.real) as fd:
                    applier = Applier(c.name, fd, stage, (job.want, job.live), source)
                    applier.run(job.tasks)
                    warnings += applier.warnings
        changed += root.set_link(c, job.place.path, job.want.link, job.key)
        return Restored(changed, tuple(warnings))

    def release(self, c: Component) -> None:
        """Remove the stage, with the old files that are parked in it."""
        path = root_of(c)
        release(c, {path, os.path.realpath(path), *root.remembered(c)})

    def _job(self, c: Component, source: BlobSource, capture: Capture, *, look_again: bool) -> _Job:
        want = self._load(c, source, capture)
        place = places.place_wanted(c, want.link)
        seen = None if look_again else self._seen
        if seen is not None and seen.look.place == place and time.monotonic() - seen.at < _FRESH_SECONDS:
            look, live = seen.look, seen.tree
        else:
            look = _Look(c, place)
            live = look.at_tree()
            look.remember(live)
        tasks = [] if want.absent else compare.tasks(want, live, look.rules)
        _refuse_mounts(c, place, tasks)
        if os.geteuid() != 0:
            _refuse_owners(tasks, live)
        root.remember(c, place.real)
        key = blake3(b"".join(capture.parts)).hexdigest(length=8)
        return _Job(want, live, place, tasks, key)

    # — comparing —

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        """Look again and return how the live folder differs; what a restore put there is read back."""
        tree = self._load(c, source, want)
        look, live = self._live(c)
        found = self._changes(c, tree, live, live=True, times=True)
        if not live.absent and not tree.absent:
            _adopt(live, tree)
        look.remember(live)
        return found

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        """Yield the differences, sorted by path; a folder of which only the time differs is none."""
        first = self._load(c, source, a)
        if b is None:
            look, second = self._live(c)
            look.remember(second)
        else:
            second = self._load(c, source, b)
        yield from self._changes(c, first, second, live=b is None, times=False)

    @staticmethod
    def _changes(c: Component, a: Tree, b: Tree, *, live: bool, times: bool) -> list[Change]:
        found = [
            compare.as_change(c.name, difference)
            for difference in compare.differences(a, b, live=live)
            if times or not _only_time(difference)
        ]
        if a.link != b.link:
            found = [change for change in found if change.key != "."]
            found.append(Change(c.name, ChangeKind.CHANGED, ".", _link_ref(a), _link_ref(b)))
        found.sort(key=lambda change: change.key)
        return found

    def losses(self, c: Component, source: BlobSource, want: Capture, changes: Sequence[Change]) -> Iterator[Loss]:
        """Yield the files that were added or changed since and that a rollback would take away."""
        for kind, what in ((ChangeKind.CHANGED, "changed files"), (ChangeKind.ADDED, "new files")):
            paths = _written(changes, kind)
            if paths:
                yield Loss(c.name, what, len(paths), tuple(paths[:_EXAMPLES]))
        tree = self._load(c, source, want)
        if tree.link is None or tree.link == root.link_of(root_of(c)):
            return
        # The link is to be turned back to a folder that the live state says nothing of.
        place = places.place_wanted(c, tree.link)
        there = self._changes(c, tree, _Look(c, place).at_tree(), live=True, times=False)
        paths = _written(there, ChangeKind.CHANGED) + _written(there, ChangeKind.ADDED)
        if paths:
            yield Loss(c.name, f"changed or new files in {shown(place.real)}", len(paths), tuple(paths[:_EXAMPLES]))


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
    live: Tree
    place: Place
    tasks: list[Task]
    key: str


class _Seen(msgspec.Struct):
    """The look of the last capture, and when it was taken (time.monotonic)."""

    look: _Look
    tree: Tree
    at: float


class _Look:
    """One look at a live folder through the index, which is brought up to date by it."""

    def __init__(self, c: Component, place: Place) -> None:
        self.place = place
        self.rules = Rules(c, tuple({place.path, place.real} - {""}))
        self.warnings: list[str] = []
        self.reusable: list[tuple[bytes, int] | None] = []
        self._c = c
        self._known = index.load(c.work)
        self._stale = True

    def at_tree(self, *, sink: BlobSink | None = None, previous: Capture | None = None, rehash: bool = False) -> Tree:
        """Return what is there now; an absent tree when nothing is."""
        if not self.place.real or not os.path.lexists(self.place.real):
            return absent_tree(self.place.link)
        if stat.S_ISLNK(os.lstat(self.place.real).st_mode):
            return absent_tree(None)  # a link stands where a folder is to be
        known = self._known
        if known is None:
            known = index.Index("", {})
        held_ids = set(previous.parts) if previous is not None and previous.kind == FilesDriver.kind else set()
        self.reusable = [
            (part, size) if part in held_ids else None for part, size in zip(known.parts, known.sizes, strict=False)
        ]
        held = frozenset(number for number, part in enumerate(self.reusable) if part is not None)
        blocks = {os.fsdecode(path): block for path, block in known.blocks.items()}
        same_rules = known.rules == self.rules.identity
        scan = Scan(self._c.name, self.rules, Known(blocks, held, same_rules), sink, rehash=rehash)
        with places.opened(self._c, self.place.real) as fd:
            tree = scan.run(fd, self.place.link)
        self.warnings += scan.warnings
        self._stale = bool(scan.reread) or not same_rules or len(blocks) != len(tree.blocks)
        return tree

    def remember(self, tree: Tree, written: manifest.Written | None = None) -> None:
        """Keep what was found in the index, when it is news."""
        if tree.absent:
            return
        old = self._known
        parts, sizes = ([], []) if old is None else (old.parts, old.sizes)
        if written is not None:
            news = list(written.parts[: len(written.sizes)])
            self._stale = self._stale or news != parts
            parts, sizes = news, written.sizes
        if self._stale:
            blocks = {os.fsencode(path): block for path, block in tree.blocks.items()}
            index.save(self._c.work, index.Index(self.rules.identity, blocks, parts, sizes))


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


def _refuse_mounts(c: Component, place: Place, tasks: list[Task]) -> None:
    """Refuse what would carry a mounted file system away: its content would go with the folder."""
    mounts = [os.path.relpath(path, place.real) for path in places.mounts_under(place.real)] if place.real else []
    if not mounts:
        return
    for task in tasks:
        if task.live is None or not task.live.is_folder or task.verb is Verb.DESCRIBE:
            continue
        for mount in mounts:
            if mount == task.path or mount.startswith(task.path + "/"):
                raise RollbackError("path.mounted", path=shown(mount), component=c.name)


def _refuse_owners(tasks: list[Task], live: Tree) -> None:
    """Without root, refuse before anything is changed what only another user may do."""
    user = os.geteuid()
    folders = live.find_all({task.path.rpartition("/")[0] for task in tasks if task.verb is not Verb.DESCRIBE})
    for path, entry in folders.items():
        if entry.uid != user:
            raise RollbackError("path.owner", path=shown(path) or ".")
    for task in tasks:
        if task.want is not None:
            check_owner(task.path, task.want.meta)
        if task.verb in (Verb.DESCRIBE, Verb.WRITE) and task.live is not None and task.live.uid != user:
            raise RollbackError("path.owner", path=shown(task.path) or ".")
