"""The store's mechanics: the growing pack beside the sealed ones.

`Store` is the face; prune, verification and recovery work on a `Shelf`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import NoReturn
from weakref import WeakSet

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.store.annex import Annex, Annexes, is_worth_a_pack
from rfs.production.rollback.store.files import storage_error
from rfs.production.rollback.store.packs import ALONE, Entry, PackWriter, Place
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
        self._annexes = Annexes(place, repository, sealer)
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
        if self._writer is not None or self._annexes.writers:
            unsealed = self._unsealed(blob, kind)
            if unsealed is not None:
                return unsealed
        return super().get(blob, kind)

    # — the growing pack —

    def has(self, blob: bytes) -> bool:
        """Tell whether a blob is here, sealed or not, as far as is known undamaged."""
        with self._lock:
            if any(blob in writer.blobs for writer in self._growing()):
                return True
            # Asked for every file: what is held in memory is looked at without the ceremony of `ask`.
            index = self._index
            if index is None or index.known is None or not self._own:
                return self.ask(lambda index: index.has(blob))
            return blob in index.known

    def lacking(self, blobs: Collection[bytes]) -> set[bytes]:
        """Return those that are not here, sealed or not, as far as is known undamaged."""
        with self._lock:
            absent = self.ask(lambda index: index.absent(blobs))
            for writer in self._growing():
                absent -= writer.blobs.keys() & absent
            return absent

    def _growing(self) -> list[PackWriter]:
        return [*self._annexes.writers.values(), *(() if self._writer is None else (self._writer,))]

    def add(self, contents: Mapping[bytes, Data], kind: Type) -> None:
        """Seal and append contents, by id, but for those that are here.

        Raises:
            RollbackError: store.no_space or store.unwritable; then `discard` is needed before anything else.
        """
        self._append_absent(*self._seal_absent(contents, kind), kind)

    def prepare(self, contents: Sequence[Data]) -> Callable[[], list[bytes]]:
        """Identify and seal blobs, but for those that are here; what is returned appends them, and returns all ids.

        Raises:
            As `add`, both.
        """
        blobs = self.sealer.identify_all(contents)
        absent, sealed = self._seal_absent(dict(zip(blobs, contents, strict=True)), Type.BLOB)

        def put() -> list[bytes]:
            self._append_absent(absent, sealed, Type.BLOB)
            return blobs

        return put

    def _seal_absent(self, contents: Mapping[bytes, Data], kind: Type) -> tuple[Mapping[bytes, Data], Sealed | None]:
        with self._lock:
            absent = self._absent(contents)
        if not absent:
            return {}, None
        if len(absent) < len(contents):
            contents = {blob: data for blob, data in contents.items() if blob in absent}
        # Without the lock: other threads may seal, too.
        return contents, self.sealer.seal(contents, kind)

    def _append_absent(self, contents: Mapping[bytes, Data], sealed: Sealed | None, kind: Type) -> None:
        if sealed is None:
            return
        with self._lock:
            if self._writer is not None and (twice := self._writer.blobs.keys() & contents.keys()):
                # Another thread put the same meanwhile. A frame cannot be cut, only sealed again.
                left = {blob: data for blob, data in contents.items() if blob not in twice}
                sealed = self.sealer.seal(left, kind)
            if sealed.counts:
                self.append(sealed, kind)

    def _absent(self, blobs: Collection[bytes]) -> set[bytes]:
        """Return which of these are not here."""
        if self._failure is not None or not self._own:
            self._refuse()
        if not self._current:
            # Since the last flush or discard, another process may have had the lock and pruned.
            self.ask(lambda index: index.refresh())
            self._current = True
        return self.lacking(blobs)

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
        """Append frames to the growing pack, which holds none of their blobs; a full pack is sealed.

        Raises:
            RollbackError: store.no_space or store.unwritable.
        """
        with self._lock:
            if self._failure is not None or not self._own:
                self._refuse()
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
                self._seal(writer)

    # — what a child stored —

    def annex(self) -> Annex:
        """Return what a child that is forked now may store into."""
        with self._lock:
            self._check_usable()
            self.sealer.unlock()
            return self._annexes.make()

    def adopt(self, name: str, ids: bytes, sizes: list[int], counts: list[int], lengths: list[int]) -> None:
        """Take over what a child stored in the pack `name`, as it said; see `Annex.taken`.

        Raises:
            RollbackError: store.no_space or store.unwritable; then `discard` is needed before anything else.
        """
        sealed = Sealed(ids, sizes, counts, lengths, b"")  # the bytes are there
        blobs = sealed.blobs()
        with self._lock:
            absent = self._absent(blobs)
            if name not in self._annexes.writers:
                self._settle()  # a child fills one after the other
            try:
                writer = self._annexes.writer(name)
            except OSError as error:
                raise self._fail(storage_error(error, self.place.root)) from error
            before = writer.size if writer.blobs else 0  # its header is news, too
            writer.enter(Type.BLOB, sealed)
            self.stored += writer.size - before
            if len(absent) < len(blobs):
                twice = sum(size for blob, size in zip(blobs, sealed.sizes, strict=True) if blob not in absent)
                self._annexes.waste(sum(sealed.lengths) * twice // max(sum(sealed.sizes), 1))

    def _settle(self) -> None:
        """Seal the packs that children filled, or bring what they hold into the growing one."""
        while self._annexes.writers:
            writer, is_worth_it = self._annexes.next_to_settle()
            if is_worth_it:
                self._seal(writer)
                continue
            del self._annexes.writers[writer.name]  # what it holds is now absent
            self.stored -= writer.size
            try:
                for sealed in writer.batches():
                    self._bring(sealed, Type.BLOB, self._absent(sealed.blobs()))
            except OSError as error:
                raise self._fail(storage_error(error, self.place.root)) from error
            except DamagedError as error:
                raise self._fail(damaged(sealed.blobs()[0], writer.name, str(error))) from error
            finally:
                writer.abandon()

    def _bring(self, sealed: Sealed, kind: Type, wanted: Collection[bytes]) -> None:
        """Append what is wanted of frames: those of which all is, as they are; what is wanted of others, sealed anew.

        Raises:
            DamagedError: a frame is not as it was sealed.
        """
        if len(wanted) == len(sealed.sizes):
            self.append(sealed, kind)
            return
        for frame in sealed.frames() if wanted else ():
            blobs = frame.blobs()
            left = [blob for blob in blobs if blob in wanted]
            if len(left) == len(blobs):
                self.append(frame, kind)
            elif left:
                content = self.sealer.open_frame(frame.data, kind)
                ends = accumulate(frame.sizes)
                of = {blob: content[end - size : end] for blob, end, size in zip(blobs, ends, frame.sizes, strict=True)}
                self.append(self.sealer.seal({blob: of[blob] for blob in left}, kind), kind)

    def move(self, frame: Sequence[Entry], wanted: Collection[bytes], sealed: bytes) -> list[bytes]:
        """Append a copy of what is wanted of a frame of another pack; return the ids of what is damaged.

        Args:
            frame: all that is known to lie in the sealed bytes.
            sealed: them; they are copied as they are when all of it is wanted and whole.
        """
        kind, stamp = Type(frame[0].type), 0
        contents: dict[bytes, bytes] = {}
        broken: list[bytes] = []
        opened = None
        with suppress(DamagedError):
            opened = self.opened(frame[0], sealed)
        for entry in frame:
            if entry.blob not in wanted:
                continue
            try:
                if opened is None:
                    raise DamagedError
                contents[entry.blob] = self.cut(entry, opened)
                if kind is Type.RECORD:
                    stamp = max(stamp, decode_record(contents[entry.blob])[0])
            except DamagedError:
                contents.pop(entry.blob, None)
                broken.append(entry.blob)
        with self._lock:
            for blob in self._writer.blobs.keys() & contents.keys() if self._writer is not None else ():
                del contents[blob]
            sizes = [entry.size for entry in frame]
            # Not taken for granted of an index that may be older than the pack: the frame must hold just these.
            if frame[0].start != ALONE and len(contents) == len(frame) and opened == b"".join(contents.values()):
                copy = Sealed(b"".join(contents), sizes, [len(frame)], [len(sealed)], sealed)
                self.append(copy, kind, stamp)
            elif contents:
                self.append(self.sealer.seal(contents, kind), kind, stamp)
        return broken

    def flush(self) -> None:
        """Seal the growing pack; once this returns, all that was added survives power loss.

        Raises:
            RollbackError: store.no_space or store.unwritable; then `discard` is needed.
        """
        with self._lock:
            self._check_usable()
            # First: the pack that is sealed last holds what refers to all others.
            self._settle()
            if self._writer is not None:
                self._seal(self._writer)
            self._annexes.sweep()
            self.forget_cached()

    def seal_early(self) -> None:
        """Seal the growing pack if it is worth one already, for who has time now and will not have it at the flush.

        Raises:
            RollbackError: store.no_space or store.unwritable; then `discard` is needed.
        """
        with self._lock:
            self._check_usable()
            if self._writer is not None and is_worth_a_pack(self._writer.size):
                self._seal(self._writer)

    def discard(self) -> None:
        """Drop the growing pack, also after a failure. What sealed packs hold stays until a prune."""
        with self._lock:
            if self._writer is not None:
                self._writer.abandon()
                self._writer = None
            self._annexes.clear()
            self._failure = None
            self.forget_cached()

    @property
    def growing(self) -> set[str]:
        """The names of the unsealed packs in `tmp/`."""
        return {writer.name for writer in self._growing()}

    def _seal(self, writer: PackWriter) -> None:
        before = writer.size
        try:
            contents = writer.finish(self.sealer)
        except OSError as error:
            raise self._fail(storage_error(error, self.place.root)) from error
        if self._annexes.writers.pop(writer.name, None) is None:
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
            for writer in self._growing():
                entry = writer.find(blob)
                if entry is None or entry.type != kind:
                    continue
                self._check_usable()
                try:
                    return self.cut(entry, self.opened(entry, writer.read(entry)))
                except OSError as error:
                    raise self._fail(storage_error(error, self.place.root)) from error
                except DamagedError as error:
                    raise damaged(blob, writer.name, str(error)) from error
            return None

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
