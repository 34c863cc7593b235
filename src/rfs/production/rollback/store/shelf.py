"""The store's mechanics: the growing pack, the sealed ones and the index as one thing.

`Store` is the face; prune, verification and recovery work on a `Shelf`.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import NoReturn, TypeVar
from weakref import WeakSet

from rfs.production.rollback.errors import IntegrityError, RollbackError
from rfs.production.rollback.store.files import reading, storage_error, sync_folder, writing
from rfs.production.rollback.store.index import MEMORY, Compared, Copy, Index, IndexDamagedError
from rfs.production.rollback.store.nearby import Nearby
from rfs.production.rollback.store.packs import Contents, Entry, PackFiles, PackWriter, Place, read_contents
from rfs.production.rollback.store.seal import DamagedError, Data, Sealed, Sealer, Type, decode_record

T = TypeVar("T")
_FOREIGN = "a forked child may only identify and seal"
_shelves: WeakSet[Shelf] = WeakSet()
_HINT = "`rfs verify --store` lists what is damaged and which checkpoints are still whole."


class Shelf:
    """Blobs by id, sealed or about to be. Thread-safe; a forked child is refused.

    Args:
        repository: id of the repository, hex.

    Attributes:
        stored: bytes appended to packs so far.
    """

    def __init__(self, place: Place, repository: str, sealer: Sealer) -> None:
        self.place = place
        self.repository = repository
        self.sealer = sealer
        self.stored = 0
        self._lock = threading.RLock()
        self._files = PackFiles(place)
        self._nearby = Nearby(self.contents)
        self._index: Index | None = None
        self._writer: PackWriter | None = None
        self._failure: RollbackError | None = None
        self._stamp = 0
        # Whether the index was asked for changes by others since the last flush or discard.
        self._current = False
        self._process = os.getpid()
        self._own = True
        _shelves.add(self)

    def close(self) -> None:
        """Drop what is unsealed and close all files; in a forked child they are left to its parent."""
        if os.getpid() != self._process:
            return
        self.discard()
        self._files.close()
        self.forget_index()

    # — the index —

    def ask(self, question: Callable[[Index], T]) -> T:
        """Return `question(index)`; a damaged index is made again from the packs first."""
        if not self._own:
            raise RuntimeError(_FOREIGN)
        with self._lock:
            try:
                if self._index is None:
                    self._open_index()
                assert self._index is not None  # noqa: S101 — for the type checker
                return question(self._index)
            except IndexDamagedError:
                return question(self.rebuild())

    def _open_index(self) -> Compared:
        try:
            self._index = Index(self.place.index)
            return self._compare(self._index)
        except RollbackError as error:
            self.forget_index()
            if error.key not in {"store.no_space", "store.unwritable"}:
                raise
        except BaseException:  # an index that was not compared must not be believed by the next call
            self.forget_index()
            raise
        # Going back must work on a full disk and from a read-only copy.
        self._index = Index(MEMORY)
        return self._compare(self._index)

    def forget_index(self) -> None:
        """Close the index; the next question opens it and compares it with the packs again."""
        with self._lock:
            self._current = False
            if self._index is not None:
                self._index.close()
                self._index = None

    def forget_cached(self) -> None:
        """Let the next questions go to the index file, which another process may have changed."""
        with self._lock:
            self._current = False
            self._nearby.forget()
            if self._index is not None:
                self._index.forget()

    def compare(self) -> Compared:
        """Make the index's list of packs equal to the folder's; return what was different.

        Raises:
            IndexDamagedError: `rebuild` is needed.
        """
        with self._lock:
            return self._open_index() if self._index is None else self._compare(self._index)

    def _compare(self, index: Index) -> Compared:
        known = index.packs()
        with reading(self.place.packs):
            there = self.place.names()
        found = Compared([], [], [], {})
        for name, size in known.items():
            if name not in there:
                found.gone.append(name)
            elif there[name] != size:
                found.resized.append(name)
        if found.gone:
            index.drop(found.gone)
        for name in there.keys() - known.keys():
            try:
                contents = self.contents(name)
            except FileNotFoundError:
                continue  # a prune took it away meanwhile
            except DamagedError as error:
                found.unreadable[name] = str(error)
                continue
            index.add(contents)
            found.added.append(contents)
        return found

    def rebuild(self) -> Index:
        """Make the index anew from the packs alone, and return it.

        Only of a pack whose own index is damaged, the rows of the old index are kept.
        """
        packs, damaged = [], []
        with self._lock:
            with reading(self.place.packs):
                names = self.place.names()
            for name in names:
                try:
                    packs.append(self.contents(name))
                except DamagedError:
                    damaged.append(name)
            try:
                if self._index is None:
                    self._index = Index(self.place.index)
                self._index.replace(packs, damaged)
            except IndexDamagedError:
                self.forget_index()
                with writing(self.place.index):
                    Index.remove(self.place.index)
                self._index = Index(self.place.index)
                self._index.replace(packs, ())
            return self._index

    # — sealed packs —

    def contents(self, name: str) -> Contents:
        """Return what a pack says of itself.

        Raises:
            DamagedError: it is not as it was sealed.
            FileNotFoundError: it is gone.
            RollbackError: store.format or store.unreadable.
        """
        path = self.place.pack(name)
        try:
            return read_contents(path, name, self.repository, self.sealer)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unreadable(error, path) from error

    def entries(self, name: str) -> tuple[Iterable[Entry], str]:
        """Return the blobs of a pack and, when only the index could tell them, what is wrong with the pack."""
        try:
            return self.contents(name), ""
        except DamagedError as error:
            return [copy.entry for copy in self.ask(lambda index: index.of_pack(name))], str(error)

    def read(self, pack: str, entry: Entry) -> bytes:
        """Return sealed bytes.

        Raises:
            DamagedError: they are not all there, or the disk cannot read them.
            FileNotFoundError: the pack is gone.
        """
        try:
            sealed = self._files.read(pack, entry.offset, entry.length)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unreadable(error, self.place.pack(pack)) from error
        if len(sealed) < entry.length:
            raise DamagedError("the pack ends before it")
        return sealed

    def get(self, blob: bytes, kind: Type) -> bytes:
        """Return a blob's content, verified against its id.

        Raises:
            IntegrityError: store.blob_missing or store.damaged.
        """
        if self._writer is not None:
            unsealed = self._unsealed(blob, kind)
            if unsealed is not None:
                return unsealed
        near = self._nearby.find(blob) if self._own else None
        if near is not None and near[1].type == kind:
            # What fails here is tried again below, where it is told and other copies are known.
            with suppress(FileNotFoundError, DamagedError):
                return self.sealer.open(self.read(*near), blob, kind)
        why = ""
        # Twice: a prune may have moved it, or the index may point to a wrong place.
        for again in (False, True):
            copies = [copy for copy in self.ask(lambda index: index.find(blob)) if copy.entry.type == kind]
            for copy in copies:
                try:
                    data = self.sealer.open(self.read(copy.pack, copy.entry), blob, kind)
                    self._nearby.note(copy.pack)
                    return data
                except FileNotFoundError:
                    why = why or "its pack is gone"
                except DamagedError as error:
                    why = str(error)
            if not again:
                self._check_index(copies)
        if not why:
            raise IntegrityError("store.blob_missing", blob=blob.hex()[:12])
        self.note_bad([(copy.entry.blob, copy.pack) for copy in copies])
        raise _damaged(blob, copies[0].pack if copies else "", why)

    def expect(self, blobs: Collection[bytes]) -> None:
        """Have the disk read these ahead, all at once instead of one after the other; what is not here is left."""
        places = self.ask(lambda index: index.places(blobs))
        self._nearby.expect(places)
        pieces: dict[str, list[tuple[int, int]]] = {}
        for pack, entry in places.values():
            pieces.setdefault(pack, []).append((entry.offset, entry.length))
        for pack, wanted in pieces.items():
            with suppress(OSError):  # who reads it finds out, and knows what to do
                self._files.advise(pack, sorted(wanted))

    def _check_index(self, copies: list[Copy]) -> None:
        """Compare the index with the packs, and make it anew when it says wrong things about `copies`."""
        self.ask(lambda _: self.compare())
        for copy in copies:
            with suppress(DamagedError, FileNotFoundError):
                if copy.entry not in set(self.contents(copy.pack)):
                    self.rebuild()
                    return

    def note_bad(self, copies: Iterable[tuple[bytes, str]], *, bad: bool = True) -> None:
        """Remember copies (blob, pack) that failed, so that the same content is stored anew when it is met again."""
        # It is a hint: verification must work on a store that cannot be written.
        with suppress(RollbackError):
            self.ask(lambda index: index.mark(copies, bad=bad))

    def records(self, problems: list[str] | None) -> Iterator[tuple[int, str, bytes]]:
        """Yield (stamp, kind, body) of each sealed record, oldest first.

        Args:
            problems: takes a sentence for each record that is damaged; without it, the first raises.
        """
        found = []
        for blob in {copy.entry.blob for copy in self.ask(lambda index: index.records())}:
            try:
                found.append(decode_record(self.get(blob, Type.RECORD)))
            except IntegrityError as error:
                if problems is None:
                    raise
                problems.append(str(error))
        found.sort()
        yield from found

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

    def remove(self, names: list[str]) -> None:
        """Remove packs; what is needed of them must lie durably in others.

        Raises:
            RollbackError: store.unwritable.
        """
        try:
            self.ask(lambda index: index.drop(names))
        except RollbackError:
            # On a full disk not even this can be written. The index finds out when it is opened.
            self.forget_index()
        self._files.close()
        try:
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(self.place.pack(name))
            sync_folder(self.place.packs)
        except OSError as error:
            # Some are still there, and the index has dropped them.
            self.forget_index()
            raise storage_error(error, self.place.packs) from error

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
                raise _damaged(blob, self._writer.name, str(error)) from error

    def _check_usable(self) -> None:
        if self._failure is not None or not self._own or os.getpid() != self._process:
            self._refuse()

    def _refuse(self) -> NoReturn:
        if self._failure is None or not self._own:
            raise RuntimeError(_FOREIGN)
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


def _damaged(blob: bytes, pack: str, why: str) -> IntegrityError:
    place = f" in pack {pack[:12]}" if pack else ""
    return IntegrityError("store.damaged", what=f"blob {blob.hex()[:12]}{place}: {why}", hint=_HINT)


def _unreadable(error: OSError, path: str) -> Exception:
    if error.errno == errno.EIO:
        return DamagedError("the disk cannot read it")
    return RollbackError("store.unreadable", path=path, why=error.strerror or str(error))
