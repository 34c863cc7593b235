"""fsck: every blob is read, decrypted, decompressed and hashed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from rfs.production.rollback.store.index import Index
from rfs.production.rollback.store.packs import Contents, Entry
from rfs.production.rollback.store.reports import Damage
from rfs.production.rollback.store.seal import DamagedError
from rfs.production.rollback.store.shelf import Shelf

Tick = Callable[[int, int], None]


def _nothing(items: int, size: int) -> None:
    """Tick of a caller that does not want to know."""


def verify(shelf: Shelf, tick: Tick | None, only: set[bytes] | None) -> Damage:
    """Read every sealed blob, or only those in `only`; see `Store.verify`."""
    checker = _Checker(shelf, tick or _nothing)
    damage = checker.everything() if only is None else checker.these(only)
    checker.note()
    return damage


class _Checker:
    def __init__(self, shelf: Shelf, tick: Tick) -> None:
        self._shelf = shelf
        self._tick = tick
        self._checked = self._size = 0
        self._failed: set[tuple[bytes, str]] = set()
        self._known_bad = shelf.ask(lambda index: index.bad())
        self._worked: set[tuple[bytes, str]] = set()
        self._last: tuple[tuple[str, int], bytes | None] | None = None

    def everything(self) -> Damage:
        """Check all packs, with all that is in them."""
        shelf = self._shelf
        found = shelf.ask(lambda _: shelf.compare())
        sentences = [f"Pack {name} is gone." for name in found.gone]
        sentences += [f"Pack {name} is damaged: {why}." for name, why in found.unreadable.items()]
        totals = shelf.ask(lambda index: index.totals())
        stale = False
        for name in shelf.ask(lambda index: index.packs()):
            try:
                entries, why = shelf.entries(name)
            except FileNotFoundError:
                continue  # a prune took it away meanwhile
            if why:
                sentences.append(f"Pack {name} is damaged: {why}.")
            elif isinstance(entries, Contents):
                stale = stale or totals.get(name, (0, 0)) != (len(entries), sum(entries.spans()))
            for entry in entries:
                self._check(name, entry)
        if stale:
            shelf.rebuild()
        lost = frozenset(blob for blob in {blob for blob, _ in self._failed} if not self._elsewhere(blob))
        return Damage(lost, tuple(sentences), self._checked, self._size)

    def these(self, only: Iterable[bytes]) -> Damage:
        """Check some blobs, in the order in which they lie on the disk."""
        lost = set()
        places = []
        for blob in only:
            copies = self._shelf.ask(partial(Index.find, blob=blob))
            if copies:
                places.append((copies[0].pack, copies[0].entry.offset, copies))
            else:
                lost.add(blob)
        places.sort(key=lambda place: place[:2])
        for _, _, copies in places:
            if not any(self._check(copy.pack, copy.entry) for copy in copies):
                lost.add(copies[0].entry.blob)
        return Damage(frozenset(lost), (), self._checked, self._size)

    def note(self) -> None:
        """Remember which copies failed, and which work again."""
        if self._failed - self._known_bad:
            self._shelf.note_bad(self._failed)
        if self._worked:
            self._shelf.note_bad(self._worked, bad=False)

    def _check(self, pack: str, entry: Entry) -> bool:
        self._checked += 1
        self._tick(1, 0)
        try:
            self._shelf.cut(entry, self._opened(pack, entry))
        except (DamagedError, FileNotFoundError):
            self._failed.add((entry.blob, pack))
            return False
        if (entry.blob, pack) in self._known_bad:
            self._worked.add((entry.blob, pack))
        return True

    def _opened(self, pack: str, entry: Entry) -> bytes:
        """Return what the sealed bytes hold in which a blob lies; read and opened once for all blobs of a frame."""
        place = (pack, entry.offset)
        if self._last is None or self._last[0] != place:
            self._last = (place, None)
            self._size += entry.length
            self._tick(0, entry.length)
            self._last = (place, self._shelf.opened(entry, self._shelf.read(pack, entry)))
        if self._last[1] is None:
            raise DamagedError
        return self._last[1]

    def _elsewhere(self, blob: bytes) -> bool:
        copies = self._shelf.ask(lambda index: index.find(blob))
        return any((copy.entry.blob, copy.pack) not in self._failed for copy in copies)
