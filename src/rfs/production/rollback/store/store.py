"""The face of the store. What a store is made of is described in docs/format.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from types import TracebackType

from rfs.production.rollback.errors import IntegrityError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.store.annex import Annex
from rfs.production.rollback.store.files import (
    make_private,
    read_whole,
    reading,
    write_durably,
    writing,
)
from rfs.production.rollback.store.keys import (
    Repository,
    check_key_file,
    decode_repository,
    encode_repository,
    make_key_file,
    new_repository,
    unwrap,
)
from rfs.production.rollback.store.packs import Place
from rfs.production.rollback.store.reports import Damage, Pruned
from rfs.production.rollback.store.reserve import Reserve
from rfs.production.rollback.store.seal import (
    BLOB_ID_SIZE,
    DamagedError,
    Data,
    Sealer,
    Type,
    decode_part,
    encode_part,
    encode_record,
)
from rfs.production.rollback.store.shelf import Shelf

_OTHERS_MAY_WRITE = 0o022
# Bytes of parts that are kept for the next question, and what an id in a list takes of them.
_MOST_LOOKED_THROUGH = 32 << 20
_REF_IN_MEMORY = 80


class Store:
    """Blobs, manifest parts and records, each known by a keyed digest of its content.

    What is put goes to a growing pack and is there for `get` at once; `flush` makes it
    durable, `discard` drops it. One process at a time may put, flush, recover or prune:
    the caller holds the application's lock, and flushes or discards before it lets go of it.
    Any number may read meanwhile.

    Thread-safe. A child forked from the process that opened the store may call `identify`,
    and store into an `annex` that was made before it was forked, nothing else (it is refused).
    What it stored counts when the parent has taken it over by `adopt`.

    Attributes:
        path: the store's folder.
        id: of the repository, 32 hex digits.
        reserve: space set aside for a disk that fills up.
    """

    def __init__(self, path: str, key: str, record: Repository) -> None:
        """Use `open` or `create`."""
        self.path = path
        self.reserve = Reserve(path)
        self.id = record.id
        self._record = record
        self._sealer = Sealer(lambda: unwrap(record, key, path))
        self._shelf = Shelf(Place(path), record.id, self._sealer)
        # Parts that `missing` has read and checked: who asks that is about to ask for them.
        self._looked_through: dict[bytes, tuple[list[bytes], bytes]] = {}

    @staticmethod
    def exists(path: str) -> bool:
        """Tell whether there is a store at `path`, whole or not; when there is none, one can be made there.

        Raises:
            UsageError: store.occupied, there is something else.
            RollbackError: store.unreadable, this user may not look.
        """
        place = Place(path)
        if _is_store(place):
            return True
        _refuse_occupied(place)
        return False

    @classmethod
    def create(cls, path: str, key: str) -> Store:
        """Make an empty store.

        Args:
            path: its folder, made with mode 0700 when missing.
            key: the key file, made with mode 0600 when missing; an existing one is used.

        Raises:
            UsageError: store.exists, store.occupied, store.writable, store.key_open or store.key_wrong.
            RollbackError: store.no_space or store.unwritable.
        """
        place = Place(path)
        if cls.exists(path):
            raise UsageError("store.exists", path=path)
        with writing(path):
            make_private(path)
        _refuse_writable(path)
        make_key_file(key)
        check_key_file(key)
        record = new_repository(key, path)
        with writing(path):
            for folder in (place.packs, place.tmp):
                make_private(folder)
            # The copy goes with the packs, so that they and the key are a whole store.
            write_durably(place.repository_copy, encode_repository(record), replace=True)
            write_durably(place.repository, encode_repository(record), replace=True)
        made = cls(path, key, record)
        made.reserve.make()
        return made

    @classmethod
    def open(cls, path: str, key: str) -> Store:
        """Open a store. Cheap: the key is only read when something is sealed or opened, or by `check_key`.

        Raises:
            NotFoundError: store.none.
            UsageError: store.writable, store.key_missing or store.key_open.
            RollbackError: store.format, written by a newer release; store.unreadable.
            IntegrityError: store.damaged, both copies of the repository's record are.
        """
        place = Place(path)
        if not _is_store(place):
            raise NotFoundError("store.none", path=path)
        _refuse_writable(path)
        for name in (place.repository, place.repository_copy):
            record = _read_record(name, path)
            if record is not None:
                _refuse_unsafe_key(key)
                return cls(path, key, record)
        raise IntegrityError(
            "store.damaged",
            what=f"both copies of the store's record, {place.repository} and {place.repository_copy}",
            hint="Bring one of them back from a backup; without it no checkpoint can be read.",
        )

    def check_key(self) -> None:
        """Make sure that the key opens this store.

        Raises:
            UsageError: store.key_missing, store.key_open, store.key_unreadable, store.key_wrong or store.key_format.
        """
        self._sealer.unlock()

    def close(self) -> None:
        """Drop what was not flushed and close all files."""
        self._shelf.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def stored(self) -> int:
        """Bytes appended to packs since the store was opened."""
        return self._shelf.stored

    # — blobs and manifest parts —

    def identify(self, data: Data) -> bytes:
        """Return the id that `put` would give: 32 bytes."""
        return self._sealer.identify(data)

    def has(self, blob: bytes) -> bool:
        """Tell whether a blob or manifest part is here, as far as is known undamaged."""
        return self._shelf.has(blob)

    def lacking(self, blobs: set[bytes]) -> set[bytes]:
        """Return which of these blobs are not here, or only damaged: `has` for many, which is faster."""
        return self._shelf.lacking(blobs)

    def put(self, data: Data) -> bytes:
        """Store a blob unless it is here; return its id.

        Raises:
            RollbackError: store.no_space or store.unwritable; `discard` before anything else is put.
            ValueError: it is larger than 1 GiB.
        """
        blob = self._sealer.identify(data)
        self._shelf.add({blob: data}, Type.BLOB)
        return blob

    def put_all(self, contents: Sequence[Data]) -> list[bytes]:
        """Store blobs as `put` does; return their ids in the same order. With many small ones it is much faster.

        Raises:
            As `put`.
        """
        return self._shelf.prepare(contents)()

    def prepare(self, contents: Sequence[Data]) -> Callable[[], list[bytes]]:
        """Do of `put_all` what takes time; what is returned does the rest, and returns the ids.

        Threads may prepare while one, by calling what they return, decides on the order in the packs. What was
        prepared before a flush or a discard must not be put after it.

        Raises:
            As `put`, both.
        """
        return self._shelf.prepare(contents)

    def put_part(self, refs: Sequence[bytes], body: bytes) -> bytes:
        """Store a manifest part unless it is here; return its id.

        Args:
            refs: ids of the blobs that `body` needs.
            body: the driver's own encoding.

        Raises:
            As `put`.
        """
        data = encode_part(refs, body)
        blob = self._sealer.identify(data, Type.PART)
        self._shelf.add({blob: data}, Type.PART)
        return blob

    def seal(self, data: Data) -> bytes:
        """Return data encrypted, for what keeps it elsewhere than in packs; `unseal` gives it back.

        Raises:
            ValueError: it is larger than 1 GiB.
        """
        blob = self._sealer.identify(data)
        return blob + self._sealer.seal_alone(data, blob)

    def unseal(self, sealed: bytes) -> bytes:
        """Return what `seal` was given.

        Raises:
            IntegrityError: store.damaged, a bit of it differs.
        """
        try:
            return self._sealer.open_alone(sealed[BLOB_ID_SIZE:], sealed[:BLOB_ID_SIZE])
        except DamagedError as error:
            hint = "Bring that file back from a backup of the store."
            raise IntegrityError("store.damaged", what=f"a sealed record: {error}", hint=hint) from error

    def annex(self) -> Annex:
        """Return what a child that is forked now may store into. It is gone with the next flush or discard."""
        return self._shelf.annex()

    def adopt(self, name: str, ids: bytes, sizes: list[int], counts: list[int], lengths: list[int]) -> None:
        """Take over blobs that a child stored, as `Annex.taken` says which. They need not be new.

        Raises:
            As `put`.
        """
        self._shelf.adopt(name, ids, sizes, counts, lengths)

    def get(self, blob: bytes) -> bytes:
        """Return a blob, verified against its id.

        Raises:
            IntegrityError: store.blob_missing or store.damaged.
        """
        return self._shelf.get(blob, Type.BLOB)

    def expect(self, blobs: Collection[bytes]) -> None:
        """Say which blobs will be asked for next, so that the disk reads them all at once; missing ones are left."""
        self._shelf.expect(blobs)

    def get_part(self, part: bytes) -> tuple[list[bytes], bytes]:
        """Return (refs, body) of a manifest part, verified against its id.

        Raises:
            IntegrityError: store.blob_missing or store.damaged.
        """
        return self._looked_through.pop(part, None) or decode_part(self._shelf.get(part, Type.PART))

    def reachable(self, parts: Iterable[bytes]) -> set[bytes]:
        """Return the ids of the parts and of all that they refer to.

        Raises:
            IntegrityError: a part is missing or damaged.
        """
        found: set[bytes] = set()
        for part in parts:
            if part not in found:
                found.add(part)
                found.update(self.get_part(part)[0])
        return found

    def missing(self, parts: Iterable[bytes]) -> list[bytes]:
        """Return what is not here, or only damaged, of manifest parts and all that they refer to.

        Parts that were found whole are kept, up to some size, for one `get_part` each.
        """
        lost: list[bytes] = []
        needed: set[bytes] = set()
        self._looked_through.clear()
        size = 0
        for part in dict.fromkeys(parts):
            try:
                refs, body = self.get_part(part)
            except IntegrityError:
                lost.append(part)
                continue
            needed.update(refs)
            size += len(body) + _REF_IN_MEMORY * len(refs)
            if size <= _MOST_LOOKED_THROUGH:
                self._looked_through[part] = (refs, body)
        return lost + sorted(self._shelf.lacking(needed))

    # — records —

    def put_record(self, kind: str, body: bytes) -> bytes:
        """Append a record: something small that must be found again from the packs and the key alone.

        Args:
            kind: such as "checkpoint"; at most 255 bytes.

        Returns:
            Its id.

        Raises:
            As `put`.
        """
        return self._shelf.add_record(lambda stamp: encode_record(kind, body, stamp))

    def records(self, kind: str, problems: list[str] | None = None) -> Iterator[bytes]:
        """Yield the bodies of all flushed records of a kind, in the order in which they were put.

        Args:
            problems: takes a sentence for each record that is damaged; without it, the first raises.

        Raises:
            IntegrityError: a record is damaged.
        """
        return (body for _, found, body in self._shelf.records(problems) if found == kind)

    # — durability —

    def flush(self) -> None:
        """Make everything that was put durable.

        Raises:
            RollbackError: store.no_space or store.unwritable; nothing since the last counts, and `discard` is needed.
        """
        self._shelf.flush()

    def seal_early(self) -> None:
        """Do a part of the next flush now, should there be much to do; raises as that does."""
        self._shelf.seal_early()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make what the block puts durable at its end, or drop all of it when anything fails.

        Raises:
            RollbackError: store.no_space or store.unwritable; nothing of it counts.
        """
        try:
            yield
            self.flush()
        except BaseException:  # an interruption too: half a checkpoint must not be sealed with the next one
            self.discard()
            raise

    def discard(self) -> None:
        """Drop what was put since the last flush. What filled whole packs stays until a prune."""
        self._looked_through.clear()
        self._shelf.discard()

    # — upkeep —

    def recover(self) -> list[str]:
        """Put the store in order after a crash; each changing command calls it first, under the lock.

        Unsealed packs are removed, packs that the index does not know are added to it, and what is
        whole in a damaged pack is brought to a new one.

        Returns:
            A sentence for each thing that was done; a second call returns none.

        Raises:
            RollbackError: store.no_space, store.unwritable or store.format.
        """
        from rfs.production.rollback.store.recover import recover

        return self._complete_record() + recover(self._shelf)

    def _complete_record(self) -> list[str]:
        place = Place(self.path)
        done = []
        for name in (place.repository, place.repository_copy):
            if _read_record(name, self.path) != self._record:
                with writing(name):
                    write_durably(name, encode_repository(self._record), replace=True)
                done.append(f"The store's record {name} was missing or damaged; it was written again.")
        return done

    def rebuild(self) -> None:
        """Make the index anew from the packs alone."""
        self._shelf.rebuild()

    def verify(self, tick: Callable[[int, int], None] | None = None, only: set[bytes] | None = None) -> Damage:
        """Read blobs and check every bit of them.

        A copy that fails is remembered: `has` is then false for a blob without another copy, so
        that the next checkpoint which meets the same content stores it again.

        Args:
            tick: called with (blobs, bytes) done since its last call; it may raise to stop.
            only: ids to check; by default everything in the store, and the packs' own indexes.

        Returns:
            What is damaged. Ids in `only` that are not in the store count as damaged.
        """
        from rfs.production.rollback.store.verify import verify

        return verify(self._shelf, tick, only)

    def prune(self, keep: Set[bytes], records: Callable[[str, bytes], bool], *, dry_run: bool) -> Pruned:
        """Remove what is not kept. A crash at any moment loses nothing that is kept.

        Args:
            keep: ids of blobs and parts, as `reachable` returns them.
            records: called with (kind, body) of each record; one that it does not want is gone afterwards,
                while blobs that are not kept may stay in packs that are not worth rewriting.
            dry_run: only count.

        Raises:
            RollbackError: store.no_space or store.unwritable; nothing that is kept was lost.
            RuntimeError: something was put and not flushed or discarded.
        """
        from rfs.production.rollback.store.prune import prune

        if self._shelf.growing:
            raise RuntimeError("prune with unflushed blobs: flush or discard them first")
        return prune(self._shelf, keep, records, dry_run=dry_run)

    def size(self) -> int:
        """Return the bytes of all packs.

        Raises:
            RollbackError: store.unreadable.
        """
        with reading(self.path):
            return sum(Place(self.path).names().values())


def _is_store(place: Place) -> bool:
    for name in (place.repository, place.repository_copy):
        # A folder that may not be searched must not pass for one without a store.
        with reading(name), suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(name)
            return True
    return False


def _refuse_unsafe_key(key: str) -> None:
    try:
        check_key_file(key)
    except UsageError as error:
        # What the catalog tells needs no key; who needs it is told then.
        if error.key != "store.key_unreadable":
            raise


def _read_record(name: str, path: str) -> Repository | None:
    try:
        data = read_whole(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RollbackError("store.unreadable", path=name, why=error.strerror) from error
    return decode_repository(data, path)


def _refuse_occupied(place: Place) -> None:
    """Refuse a folder that holds anything but what an interrupted `create` leaves."""
    if os.path.lexists(place.root) and not os.path.isdir(place.root):
        raise UsageError("store.occupied", path=place.root, what="it is a file")
    with reading(place.root), suppress(FileNotFoundError, NotADirectoryError):
        held = [name for name in os.listdir(place.root) if not name.endswith(".new")]
        strange = [name for name in held if os.path.join(place.root, name) not in (place.packs, place.tmp)]
        if strange:
            raise UsageError("store.occupied", path=place.root, what=strange[0])


def _refuse_writable(path: str) -> None:
    with reading(path):
        mode = os.stat(path).st_mode
    if mode & _OTHERS_MAY_WRITE:
        raise UsageError("store.writable", path=path)
