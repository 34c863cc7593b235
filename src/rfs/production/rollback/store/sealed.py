"""What lies in sealed packs, and the index that tells where: found, read, compared and made anew."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from rfs.production.rollback.errors import IntegrityError, RollbackError
from rfs.production.rollback.store.files import reading, storage_error, sync_folder, writing
from rfs.production.rollback.store.index import MEMORY, Compared, Copy, Index, IndexDamagedError
from rfs.production.rollback.store.nearby import Nearby
from rfs.production.rollback.store.packs import ALONE, Contents, Entry, PackFiles, Place, read_contents
from rfs.production.rollback.store.seal import NOT_ITS_OWN, DamagedError, Data, Sealer, Type, decode_record

T = TypeVar("T")
FOREIGN = "a forked child may only identify, and store into an annex"
# Opened frames of several blobs that are held: who goes through a tree asks for the next blob of the same frames.
_MOST_OPEN = 16
_HINT = "`rfs verify --store` lists what is damaged and which checkpoints are still whole."


class SealedPacks:
    """The sealed packs of a repository. Thread-safe; a forked child is refused.

    Args:
        repository: id of the repository, hex.
    """

    def __init__(self, place: Place, repository: str, sealer: Sealer) -> None:
        self.place = place
        self.repository = repository
        self.sealer = sealer
        self._lock = threading.RLock()
        self._files = PackFiles(place)
        self._nearby = Nearby(self.contents)
        self._open: dict[tuple[str, int], bytes] = {}
        self._index: Index | None = None
        # Whether the index was asked for changes by others since the last flush or discard.
        self._current = False
        self._process = os.getpid()
        self._own = True

    def close(self) -> None:
        """Close all files; in a forked child they are left to its parent."""
        if os.getpid() == self._process:
            self._files.close()
            self.forget_index()

    # — the index —

    def ask(self, question: Callable[[Index], T]) -> T:
        """Return `question(index)`; a damaged index is made again from the packs first."""
        if not self._own:
            raise RuntimeError(FOREIGN)
        with self._lock:
            try:
                if self._index is None:
                    self._open_index()
                assert self._index is not None  # noqa: S101 — for the type checker: read just above
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
            self._open = {}
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

    def opened(self, entry: Entry, sealed: Data) -> bytes:
        """Return all that sealed bytes hold: of a frame, what all its blobs do; see `cut`.

        Raises:
            DamagedError: a bit of it differs.
        """
        if entry.start == ALONE:
            return self.sealer.open_alone(sealed, entry.blob, Type(entry.type))
        return self.sealer.open_frame(sealed, Type(entry.type))

    def cut(self, entry: Entry, opened: bytes) -> bytes:
        """Return a blob's content out of what `opened` returned for it, verified against its id.

        Raises:
            DamagedError: it is not of this id.
        """
        if entry.start == ALONE:
            return opened
        data = opened if len(opened) == entry.size else opened[entry.start : entry.start + entry.size]
        if not self.sealer.is_of(data, entry.blob, Type(entry.type)):
            raise DamagedError(NOT_ITS_OWN)
        return data

    def _content(self, pack: str, entry: Entry) -> bytes:
        """Return a blob's content, verified against its id.

        Raises:
            DamagedError, FileNotFoundError: it cannot be had from there.
        """
        frame = self._open.get((pack, entry.offset))
        if frame is None:
            frame = self.opened(entry, self.read(pack, entry))
            if len(frame) > entry.size:
                # Replaced as a whole, never changed: other threads look into it.
                held = list(self._open.items())[-_MOST_OPEN + 1 :]
                self._open = dict([*held, ((pack, entry.offset), frame)])
        return self.cut(entry, frame)

    def get(self, blob: bytes, kind: Type) -> bytes:
        """Return a blob's content, verified against its id.

        Raises:
            IntegrityError: store.blob_missing or store.damaged.
        """
        near = self._nearby.find(blob) if self._own else None
        if near is not None and near[1].type == kind:
            # What fails here is tried again below, where it is told and other copies are known.
            with suppress(FileNotFoundError, DamagedError):
                return self._content(*near)
        why = ""
        # Twice: a prune may have moved it, or the index may point to a wrong place.
        for again in (False, True):
            copies = [copy for copy in self.ask(lambda index: index.find(blob)) if copy.entry.type == kind]
            for copy in copies:
                try:
                    data = self._content(copy.pack, copy.entry)
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
        raise damaged(blob, copies[0].pack if copies else "", why)

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


def damaged(blob: bytes, pack: str, why: str) -> IntegrityError:
    """Return the error for a blob that cannot be had as it was put."""
    place = f" in pack {pack[:12]}" if pack else ""
    return IntegrityError("store.damaged", what=f"blob {blob.hex()[:12]}{place}: {why}", hint=_HINT)


def _unreadable(error: OSError, path: str) -> Exception:
    if error.errno == errno.EIO:
        return DamagedError("the disk cannot read it")
    return RollbackError("store.unreadable", path=path, why=error.strerror or str(error))
