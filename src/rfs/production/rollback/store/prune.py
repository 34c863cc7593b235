"""Removal of what nothing needs any more. At every instant each kept blob lies in a durable pack.

Packs in which nothing is kept are removed. Of packs that are mostly waste, and of many small
packs, what is kept is copied into new packs: as it is, still sealed, or sealed anew when not all of its frame
is kept. Only when those are durable and indexed are the old ones removed. Every copy is compared with its id.
A pack with a record that is not kept is rewritten in any case: else a catalog made again from
the packs would name a checkpoint of which half is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from rfs.production.rollback.store.packs import FULL_SIZE, Entry, in_frames
from rfs.production.rollback.store.reports import Pruned
from rfs.production.rollback.store.seal import DamagedError, Type, decode_record
from rfs.production.rollback.store.shelf import Shelf

LIVE_ENOUGH = 0.7
SMALL_SIZE = FULL_SIZE // 4
# Merging at every prune would copy the same blobs again and again.
MANY_SMALL = 8
Wanted = Callable[[str, bytes], bool]


class _Survey(NamedTuple):
    """What is kept of one pack.

    Attributes:
        size: of the file, bytes.
        waste: bytes of sealed blobs that nothing needs; a pack's own frame is none.
        old_records: whether there is a record that is not kept.
        why: what is wrong with the pack itself.
    """

    name: str
    size: int
    blobs: int
    live_blobs: int
    live_size: int
    waste: int
    old_records: bool
    why: str


def prune(shelf: Shelf, keep: Set[bytes], wanted: Wanted, *, dry_run: bool) -> Pruned:
    """See `Store.prune`."""
    return _Pruning(shelf, keep, wanted).run(dry_run=dry_run)


class _Pruning:
    def __init__(self, shelf: Shelf, keep: Set[bytes], wanted: Wanted) -> None:
        self._shelf = shelf
        self._keep = keep
        self._wanted = wanted
        self._chosen: dict[bytes, str] = {}
        self._records: dict[bytes, bool] = {}
        self._left: list[str] = []

    def run(self, *, dry_run: bool) -> Pruned:
        shelf = self._shelf
        found = shelf.ask(lambda _: shelf.compare())
        self._left += [f"Pack {name} is damaged and was left: {why}." for name, why in found.unreadable.items()]
        self._choose_copies(dry_run=dry_run)
        packs = shelf.ask(lambda index: index.packs())
        surveys = [self._survey(name, size) for name, size in packs.items()]
        dead = [survey for survey in surveys if not survey.live_blobs and survey.blobs]
        worn = _worn([survey for survey in surveys if survey.live_blobs])
        removed = sum(survey.blobs - survey.live_blobs for survey in [*dead, *worn])
        if dry_run:
            freed = sum(survey.size for survey in dead) + sum(survey.size - survey.live_size for survey in worn)
            return Pruned(freed, len(dead) + len(worn), len(worn), removed, tuple(self._left))
        if dead:
            # First, because it may be what makes room for the copies.
            shelf.remove([survey.name for survey in dead])
        before = shelf.stored
        try:
            gone = self._rewrite(worn)
        except BaseException:  # half a rewritten pack must not be sealed with what comes next
            shelf.discard()
            raise
        stayed = {survey.name for survey in worn} - {survey.name for survey in gone}
        return Pruned(
            freed=sum(survey.size for survey in [*dead, *gone]) - (shelf.stored - before),
            packs_removed=len(dead) + len(gone),
            packs_rewritten=len(gone),
            blobs_removed=removed - sum(s.blobs - s.live_blobs for s in worn if s.name in stayed),
            left=tuple(self._left),
        )

    def _choose_copies(self, *, dry_run: bool) -> None:
        """Of each kept blob that lies in several packs, choose one copy that is whole."""
        for blob, copies in self._shelf.ask(lambda index: index.duplicates()).items():
            for copy in copies:
                if self._sound(copy.pack, copy.entry):
                    self._chosen[blob] = copy.pack
                    if copy.bad and not dry_run:
                        self._shelf.note_bad([(blob, copy.pack)], bad=False)
                    break

    def _sound(self, pack: str, entry: Entry) -> bool:
        try:
            self._shelf.cut(entry, self._shelf.opened(entry, self._shelf.read(pack, entry)))
        except (DamagedError, FileNotFoundError):
            return False
        return True

    def _survey(self, name: str, size: int) -> _Survey:
        entries, why = self._shelf.entries(name)
        count = live_blobs = live_size = waste = old_records = 0
        for frame in in_frames(entries):
            count += len(frame)
            live = [entry for entry in frame if self._live(name, entry)]
            live_blobs += len(live)
            old_records += sum(entry.type == Type.RECORD for entry in frame) - sum(e.type == Type.RECORD for e in live)
            # Of a frame that is kept in part, as much as it is of the content.
            length, content = frame[0].length, sum(entry.size for entry in frame)
            kept = length if len(live) == len(frame) else length * sum(e.size for e in live) // max(content, 1)
            live_size += kept
            waste += length - kept
        return _Survey(name, size, count, live_blobs, live_size, waste, bool(old_records), why)

    def _live(self, pack: str, entry: Entry) -> bool:
        if self._chosen.get(entry.blob, pack) != pack:
            return False
        if entry.type != Type.RECORD:
            return entry.blob in self._keep
        return self._live_record(pack, entry)

    def _live_record(self, pack: str, entry: Entry) -> bool:
        if entry.blob not in self._records:
            try:
                data = self._shelf.cut(entry, self._shelf.opened(entry, self._shelf.read(pack, entry)))
                self._records[entry.blob] = self._wanted(*decode_record(data)[1:])
            except DamagedError:
                # Nobody can tell whether it is wanted.
                return True
        return self._records[entry.blob]

    def _rewrite(self, worn: list[_Survey]) -> list[_Survey]:
        """Copy what is kept, pack by pack; return the packs that could be removed."""
        gone: list[_Survey] = []
        waiting: list[_Survey] = []
        for survey in worn:
            damaged = self._copy(survey.name)
            if damaged:
                self._left.append(f"Pack {survey.name} was left: {damaged} of its blobs are damaged.")
                continue
            waiting.append(survey)
            # Removed in between, so that a large prune needs room for one pack only.
            if sum(one.live_size for one in waiting) >= FULL_SIZE:
                self._settle(waiting)
                gone += waiting
                waiting = []
        self._settle(waiting)
        return gone + waiting

    def _settle(self, copied: Iterable[_Survey]) -> None:
        self._shelf.flush()
        names = [survey.name for survey in copied]
        if names:
            self._shelf.remove(names)

    def _copy(self, name: str) -> int:
        """Copy what is kept of a pack; return how many kept blobs of it are damaged."""
        damaged: set[tuple[bytes, str]] = set()
        entries, _ = self._shelf.entries(name)
        for frame in in_frames(entries):
            live = {entry.blob for entry in frame if self._live(name, entry)}
            if not live:
                continue
            try:
                broken: Iterable[bytes] = self._shelf.move(frame, live, self._shelf.read(name, frame[0]))
            except DamagedError:
                broken = live
            damaged.update((blob, name) for blob in broken)
        if damaged:
            self._shelf.note_bad(damaged)
        return len(damaged)


def _worn(surveys: list[_Survey]) -> list[_Survey]:
    """Return the packs worth rewriting: mostly waste, themselves damaged, or many small ones."""
    small = {survey.name for survey in surveys if survey.size < SMALL_SIZE}
    if len(small) < MANY_SMALL:
        small = set()
    return [survey for survey in surveys if _is_worn(survey) or survey.name in small]


def _is_worn(survey: _Survey) -> bool:
    mostly_waste = survey.live_size < LIVE_ENOUGH * (survey.live_size + survey.waste)
    return bool(survey.why) or survey.old_records or mostly_waste
