"""The store's mechanics: the growing pack beside the sealed ones.

`Store` is the face; prune, verification and recovery work on a `Shelf`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn
from weakref import WeakSet

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.store.files import storage_error
from rfs.production.rollback.store.packs import Entry, PackWriter, Place
from rfs.production.rollback.store.seal import DamagedError, Data, Sealed, Sealer, Type, decode_record
from rfs.production.rollback.store.sealed import FOREIGN, SealedPacks, damaged

_shelves: WeakSet[Shelf] = WeakSet()


class Shelf(SealedPacks):
    """Blobs by id, sealed or about to be. Thread-safe; a forked child is refused.

    Args:
        repository: id of the repository, hex.

    Attributes:
        stored: bytes appended to packs so far.
    """

    def __init__(self, place: Place, repository: str, sealer: Sealer) -> None:
        super().__init__(place, repository, sealer)
        self.stored = 0
        self._writer: PackWriter | None = None
        self._failure: RollbackError | None = None
        self._stamp = 0
        _shelves.add(self)

    def close(self) -> None:
        """Drop what is unsealed and close all files; in a forked child they are left to its parent."""
        if os.getpid() == self._process:
            self.discard()
        super().close()

    def get(self, blob: bytes, kind: Type) -> bytes:
        """Return a blob's content, verified against its id.

        Raises:
            IntegrityError: store.blob_missing or store.damaged.
        """
        if self._writer is not None:
            unsealed = self._unsealed(blob, kind)
            if unsealed is not None:
                return unsealed
        return super().get(blob, kind)

    # — the growing pack —

    def has(self, blob: bytes) -> bool:
        """Tell whether a blob is here, sealed or not, as far as is known undamaged."""
        with self._lock:
            if self._writer is not None and blob in self._writer.blobs:
                return True
            # Asked for every file: what is held in memory is looked at without the ceremony of `ask`.
            index = self._index
            if index is None or index.known is None or not self._own:
                return self.ask(lambda index: index.has(blob))
            return blob in index.known

    def lacking(self, blobs: set[bytes]) -> set[bytes]:
        """Return those that are not here, sealed or not, as far as is known undamaged."""
        with self._lock:
            unsealed = self._writer.blobs.keys() if self._writer is not None else set()
            return self.ask(lambda index: index.absent(blobs - unsealed))

    def add(self, contents: Mapping[bytes, Data], kind: Type) -> None:
        """Seal and append contents, by id, but for those that are here.

        Raises:
            RollbackError: store.no_space or store.unwritable; then `discard` is needed before anything else.
        """
        with self._lock:
            absent = self._absent(contents)
        if absent:
            if len(absent) < len(contents):
                contents = {blob: data for blob, data in contents.items() if blob in absent}
            # Without the lock: other threads may seal, too.
            self.append(self.sealer.seal(contents, kind), kind)

    def add_sealed(self, sealed: Sealed, kind: Type) -> None:
        """Append sealed bytes, but for blobs that are here.

        Raises:
            As `add`.
        """
        with self._lock:
            blobs = sealed.blobs()
            absent = self._absent(blobs)
            if absent:
                self._append(sealed if len(absent) == len(blobs) else sealed.only(absent), kind)

    def _absent(self, blobs: Collection[bytes]) -> set[bytes]:
        """Return which of these are not here."""
        if self._failure is not None or not self._own:
            self._refuse()
        if not self._current:
            # Since the last flush or discard, another process may have had the lock and pruned.
            self.ask(lambda index: index.refresh())
            self._current = True
        absent = self.ask(lambda index: index.absent(blobs))
        if self._writer is not None:
            absent.difference_update(self._writer.blobs.keys() & absent)
        return absent

    def add_record(self, encode: Callable[[int], bytes]) -> bytes:
        """Append a record, stamped later than all others; return its id."""
        with self._lock:
            self._check_usable()
            self._stamp = max(time.time_ns(), self._stamp + 1, self.ask(lambda index: index.last_stamp()) + 1)
            data = encode(self._stamp)
            blob = self.sealer.identify(data, Type.RECORD)
            self.append(self.sealer.seal({blob: data}, Type.RECORD), Type.RECORD, self._stamp)
            return blob

    def append(self, sealed: Sealed, kind: Type, stamp: int = 0) -> None:
        """Append sealed bytes to the growing pack, but for what it holds already; a full pack is sealed.

        Raises:
            RollbackError: store.no_space or store.unwritable.
        """
        with self._lock:
            if self._failure is not None or not self._own:
                self._refuse()
            if self._writer is not None and (twice := self._writer.blobs.keys() & sealed.blobs()):
                sealed = sealed.only(set(sealed.blobs()) - twice)
            self._append(sealed, kind, stamp)

    def _append(self, sealed: Sealed, kind: Type, stamp: int = 0) -> None:
        writer = self._writer
        try:
            if writer is None:
                self._check_usable()
                writer = self._writer = PackWriter(self.place, self.repository)
                self.stored += writer.size
            writer.append(kind, sealed)
        except OSError as error:
            raise self._fail(storage_error(error, self.place.root)) from error
        if stamp:
            writer.stamp = max(writer.stamp, stamp)
        self.stored += len(sealed.data)
        if writer.full:
            self._seal()

    def move(self, entry: Entry, sealed: bytes) -> bool:
        """Append a copy of sealed bytes from another pack, unless they are damaged; tell whether they were sound."""
        kind, stamp = Type(entry.type), 0
        if kind is Type.RECORD:
            try:
                stamp = decode_record(self.sealer.open(sealed, entry.blob, kind))[0]
            except DamagedError:
                return False
        elif not self.sealer.authentic(sealed, entry.blob, kind):
            return False
        self.append(Sealed(entry.blob, [len(sealed)], [entry.size], sealed), kind, stamp)
        return True

    def flush(self) -> None:
        """Seal the growing pack; once this returns, all that was added survives power loss.

        Raises:
            RollbackError: store.no_space or store.unwritable; then `discard` is needed.
        """
        with self._lock:
            self._check_usable()
            if self._writer is not None:
                self._seal()
            self.forget_cached()

    def discard(self) -> None:
        """Drop the growing pack, also after a failure. What sealed packs hold stays until a prune."""
        with self._lock:
            if self._writer is not None:
                self._writer.abandon()
                self._writer = None
            self._failure = None
            self.forget_cached()

    @property
    def growing(self) -> str:
        """The name of the unsealed pack in `tmp/`, or "" when there is none."""
        return self._writer.name if self._writer is not None else ""

    def _seal(self) -> None:
        writer = self._writer
        assert writer is not None  # noqa: S101 — callers have looked
        before = writer.size
        try:
            contents = writer.finish(self.sealer)
        except OSError as error:
            raise self._fail(storage_error(error, self.place.root)) from error
        self._writer = None
        self._current = False
        self.stored += contents.size - before
        try:
            self.ask(lambda index: index.add(contents))
        except RollbackError as error:
            # The pack is durable: whoever opens the index next finds and adds it.
            self.forget_index()
            raise self._fail(error) from error

    def _unsealed(self, blob: bytes, kind: Type) -> bytes | None:
        with self._lock:
            entry = self._writer.find(blob) if self._writer is not None else None
            if self._writer is None or entry is None or entry.type != kind:
                return None
            self._check_usable()
            try:
                return self.sealer.open(self._writer.read(entry), blob, kind)
            except OSError as error:
                raise self._fail(storage_error(error, self.place.root)) from error
            except DamagedError as error:
                raise damaged(blob, self._writer.name, str(error)) from error

    def _check_usable(self) -> None:
        if self._failure is not None or not self._own or os.getpid() != self._process:
            self._refuse()

    def _refuse(self) -> NoReturn:
        if self._failure is None or not self._own:
            raise RuntimeError(FOREIGN)
        # Blobs that were put are lost with the pack: nothing may be acknowledged before a discard.
        raise type(self._failure)(self._failure.key, **self._failure.fields)

    def _fail(self, error: RollbackError) -> RollbackError:
        self._failure = error
        return error


def _disown() -> None:
    # Asking for the process at each of many small blobs would be a system call each.
    for shelf in _shelves:
        shelf._own = False


os.register_at_fork(after_in_child=_disown)
