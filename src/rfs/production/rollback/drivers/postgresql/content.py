"""What a dump becomes in the store, and its identity.

Rows are cut where their content says so, and always between two rows: a row more or less costs the piece
around it, an unchanged table nothing, and whatever two states have in common is seen by its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSink, BlobSource
from rfs.production.rollback.drivers.postgresql.script import PREAMBLE, End, Piece, Rows, Statements, Table
from rfs.production.rollback.errors import IntegrityError
from rfs.production.rollback.model import Capture, Fingerprint

# Small enough that a changed row costs little, large enough that the store's index stays small.
_LEAST, _USUAL, _MOST = 16 << 10, 64 << 10, 256 << 10
_WINDOW = 4 << 20
_SCRIPT_BYTES = 256 << 10
_ITEMS_IN_PART = 512
_FORMAT = 1


class Script(msgspec.Struct, frozen=True, tag="s"):
    """Statements of several objects in one blob: (name, bytes) of each."""

    blob: int
    objects: tuple[tuple[str, int], ...]


class Stored(msgspec.Struct, frozen=True, tag="t"):
    """A table's rows: the blobs, and how many rows each holds."""

    header: str
    blobs: tuple[int, ...]
    counts: tuple[int, ...]


Item = Script | Stored
_items = msgspec.msgpack.Decoder(list[Item])


class Piecewise:
    """Cuts the rows of one table into pieces by their content.

    A cut that the content asks for is put off to the end of its row. A piece depends on nothing but the bytes
    from its beginning, however they arrive: so the same rows are cut the same way in every run.
    """

    def __init__(self) -> None:
        # It costs 30 ms to import, and most commands cut nothing.
        from pyfastcdc import FastCDC

        self._cutter = FastCDC(avg_size=_USUAL, min_size=_LEAST, max_size=_MOST)
        self._rest = b""
        self._waiting: list[bytes] = []
        self._size = 0

    def add(self, rows: bytes) -> Iterator[bytes]:
        self._waiting.append(rows)
        self._size += len(rows)
        if self._size >= _WINDOW:
            yield from self._cut(over=False)

    def finish(self) -> Iterator[bytes]:
        yield from self._cut(over=True)

    def _cut(self, *, over: bool) -> Iterator[bytes]:
        data = b"".join((self._rest, *self._waiting))
        view, start = memoryview(data), 0
        while len(data) - start > (0 if over else _MOST):
            length = next(iter(self._cutter.cut_buf(view[start:]))).length
            end = data.find(b"\n", start + length - 1) + 1
            if not end:  # the row goes on in what is still to come
                break
            yield data[start:end]
            start = end
        self._rest, self._waiting, self._size = data[start:], [], 0


class Digest:
    """The identity of a state: what the database itself is, then every piece of its dump."""

    def __init__(self, database: Any) -> None:
        self._hash = blake3(msgspec.msgpack.encode((_FORMAT, database), order="deterministic"))
        self._table: Any = None
        # Tables and other objects, not rows: an outage is foretold by this, and does not grow with those.
        self.entries = self.size = 0

    def add(self, piece: Piece) -> None:
        match piece:
            case Statements(name, text) if name != PREAMBLE:
                self.entries += 1
                self._one(b"s", name.encode("utf-8", "surrogateescape"))
                self._one(b"x", text)
            case Table(header):
                self.entries += 1
                self._one(b"t", header.encode("utf-8", "surrogateescape"))
                self._table = blake3()
            case Rows(text):
                self._table.update(text)
                self.size += len(text)
            case End():
                self._one(b"r", self._table.digest())

    def _one(self, kind: bytes, data: bytes) -> None:
        self._hash.update(kind + len(data).to_bytes(8, "big"))
        self._hash.update(data)
        self.size += len(data) if kind == b"x" else 0

    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self._hash.hexdigest(), self.entries, self.size)


def fingerprint_of(database: Any, dump: Iterable[Piece]) -> Fingerprint:
    """Return the identity of a dump; `database` is what is known of the database beside it."""
    digest = Digest(database)
    for piece in dump:
        digest.add(piece)
    return digest.fingerprint()


def store(database: Any, dump: Iterable[Piece], sink: BlobSink) -> tuple[Fingerprint, tuple[bytes, ...]]:
    """Put a dump into the store; return its identity and the ids of its manifest's parts."""
    digest = Digest(database)
    writer = _Writer(sink)
    for piece in dump:
        digest.add(piece)
        writer.add(piece)
    return digest.fingerprint(), writer.finish()


class _Writer:
    def __init__(self, sink: BlobSink) -> None:
        self._sink = sink
        self._refs: dict[bytes, int] = {}
        self._items: list[Item] = []
        self._parts: list[bytes] = []
        self._objects: list[Statements] = []
        self._header = ""
        self._cutter = Piecewise()
        self._blobs: list[int] = []
        self._counts: list[int] = []

    def add(self, piece: Piece) -> None:
        match piece:
            case Statements():
                self._objects.append(piece)
                if sum(len(each.text) for each in self._objects) >= _SCRIPT_BYTES:
                    self._end_script()
            case Table(header):
                self._end_script()
                self._header, self._cutter = header, Piecewise()
                self._blobs, self._counts = [], []
            case Rows(text):
                self._put_rows(self._cutter.add(text))
            case End():
                self._put_rows(self._cutter.finish())
                self._item(Stored(self._header, tuple(self._blobs), tuple(self._counts)))

    def _put_rows(self, found: Iterable[bytes]) -> None:
        for data in found:
            self._blobs.append(self._put(data))
            self._counts.append(data.count(b"\n"))
            self._sink.tick(0, len(data))

    def _put(self, data: bytes) -> int:
        return self._refs.setdefault(self._sink.put(data), len(self._refs))

    def _end_script(self) -> None:
        if self._objects:
            blob = self._put(b"".join(each.text for each in self._objects))
            self._item(Script(blob, tuple((each.name, len(each.text)) for each in self._objects)))
            self._objects = []

    def _item(self, item: Item) -> None:
        self._items.append(item)
        if len(self._items) >= _ITEMS_IN_PART:
            self._end_part()

    def _end_part(self) -> None:
        body = msgspec.msgpack.encode(self._items)
        self._parts.append(self._sink.put_part(list(self._refs), body))
        self._items, self._refs = [], {}

    def finish(self) -> tuple[bytes, ...]:
        self._end_script()
        if self._items:
            self._end_part()
        return tuple(self._parts)


class Contents:
    """What was captured of a database, read from the store."""

    def __init__(self, capture: Capture, source: BlobSource) -> None:
        self._capture = capture
        self._source = source

    def items(self) -> Iterator[tuple[Item, list[bytes]]]:
        """Yield each item of the manifest with the ids that its numbers mean."""
        for part in self._capture.parts:
            refs, body = self._source.get_part(part)
            try:
                items = _items.decode(body)
            except msgspec.DecodeError:
                raise self._unusable() from None
            for item in items:
                blobs = [item.blob] if isinstance(item, Script) else item.blobs
                if any(number >= len(refs) for number in blobs):
                    raise self._unusable()
                yield item, refs

    def pieces(self) -> Iterator[Piece]:
        """Yield the dump again, piece by piece."""
        for item, refs in self.items():
            if isinstance(item, Script):
                yield from self.statements(item, refs)
                continue
            yield Table(item.header)
            for number in item.blobs:
                data = self._source.get(refs[number])
                self._source.tick(0, len(data))
                yield Rows(data)
            yield End()

    def statements(self, item: Script, refs: list[bytes]) -> Iterator[Statements]:
        text = self._source.get(refs[item.blob])
        start = 0
        for name, length in item.objects:
            yield Statements(name, text[start : start + length])
            start += length

    def require(self) -> None:
        """Read every blob back: nothing may be built of what is not whole.

        Raises:
            IntegrityError: one is missing or damaged, or together they are not what was captured.
        """
        if fingerprint_of(self._capture.meta["database"], self.pieces()) != self._capture.fingerprint:
            raise self._unusable()

    def _unusable(self) -> IntegrityError:
        return IntegrityError(
            "store.damaged",
            what=f"the manifest of {self._capture.component}",
            hint="`rfs verify --store` lists what is damaged and which checkpoints are whole.",
        )
