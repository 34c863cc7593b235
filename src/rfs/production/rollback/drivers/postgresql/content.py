"""What a dump becomes in the store, and its identity.

Rows are cut where their content says so, and always between two rows: a row more or less costs the piece
around it, an unchanged table nothing, and whatever two states have in common is seen by its id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSink, BlobSource
from rfs.production.rollback.drivers.postgresql.patches import Before, Held, patched
from rfs.production.rollback.drivers.postgresql.script import PREAMBLE, End, Piece, Rows, Statements, Table
from rfs.production.rollback.errors import IntegrityError
from rfs.production.rollback.model import Capture, Fingerprint

# Small enough that a changed row costs little, large enough that the store's index stays small.
_LEAST, _USUAL, _MOST = 16 << 10, 64 << 10, 256 << 10
_WINDOW = 4 << 20
_SCRIPT_BYTES = 256 << 10
_ITEMS_IN_PART = 512
_IDENTITY = 1
FORMAT = 2
"""Of the manifest: since 2 there may be patches; what has none is still written as 1."""


class Script(msgspec.Struct, frozen=True, tag="s"):
    """Statements of several objects in one blob: (name, bytes) of each."""

    blob: int
    objects: tuple[tuple[str, int], ...]


class Stored(msgspec.Struct, frozen=True, tag="t", omit_defaults=True):
    """A table's rows, piece by piece.

    Attributes:
        blobs: what holds each piece.
        counts: how many rows each has.
        patches: of those that are held as a patch, by position: the blobs that it is of, and the id that the piece
            would have as a blob, so that it is seen which pieces two states have in common.
    """

    header: str
    blobs: tuple[int, ...]
    counts: tuple[int, ...]
    patches: dict[int, tuple[tuple[int, ...], bytes]] = {}


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
        self._hash = blake3(msgspec.msgpack.encode((_IDENTITY, database), order="deterministic"))
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


def before(previous: Capture | None, sink: BlobSink) -> Before | None:
    """Return what a capture before has, for pieces that differ from it in few rows; None when there is none."""
    if previous is None or previous.meta["state"] != "dump" or previous.meta["format"] > FORMAT:
        return None
    if not hasattr(sink, "get"):
        return None
    source = cast("BlobSource", sink)
    tables: dict[str, list[tuple[bytes, Held]]] = {}
    try:
        for item, refs in Contents(previous, source).items():
            if isinstance(item, Stored):
                tables[item.header] = [(text, held) for text, _, held in _pieces_of(item, refs)]
    except IntegrityError:
        return None  # a checkpoint that is damaged is no reason not to take the next one
    return Before(source, tables)


def store(
    database: Any, dump: Iterable[Piece], sink: BlobSink, like: Before | None
) -> tuple[Fingerprint, tuple[bytes, ...], bool]:
    """Put a dump into the store.

    Args:
        like: what a checkpoint before has.

    Returns:
        Its identity, the ids of its manifest's parts, and whether some pieces are held as patches.
    """
    digest = Digest(database)
    writer = _Writer(sink, like)
    for piece in dump:
        digest.add(piece)
        writer.add(piece)
    return digest.fingerprint(), writer.finish(), writer.patched


class _Writer:
    def __init__(self, sink: BlobSink, like: Before | None) -> None:
        self._sink = sink
        self._like = like
        self.patched = False
        self._refs: dict[bytes, int] = {}
        self._items: list[Item] = []
        self._parts: list[bytes] = []
        self._objects: list[Statements] = []
        self._header = ""
        self._cutter = Piecewise()
        self._blobs: list[int] = []
        self._counts: list[int] = []
        self._patches: dict[int, tuple[tuple[int, ...], bytes]] = {}

    def add(self, piece: Piece) -> None:
        match piece:
            case Statements():
                self._objects.append(piece)
                if sum(len(each.text) for each in self._objects) >= _SCRIPT_BYTES:
                    self._end_script()
            case Table(header):
                self._end_script()
                self._header, self._cutter = header, Piecewise()
                self._blobs, self._counts, self._patches = [], [], {}
                if self._like is not None:
                    self._like.begin(header)
            case Rows(text):
                self._put_rows(self._cutter.add(text))
            case End():
                self._put_rows(self._cutter.finish())
                self._item(Stored(self._header, tuple(self._blobs), tuple(self._counts), self._patches))

    def _put_rows(self, found: Iterable[bytes]) -> None:
        for data in found:
            self._blobs.append(self._put(data) if self._like is None else self._put_like(data, self._like))
            self._counts.append(data.count(b"\n"))
            self._sink.tick(0, len(data))

    def _put(self, data: bytes) -> int:
        return self._ref(self._sink.put(data))

    def _ref(self, blob: bytes) -> int:
        return self._refs.setdefault(blob, len(self._refs))

    def _put_like(self, data: bytes, like: Before) -> int:
        """Put rows, or what is different in them; return the number of the blob that holds that."""
        text = self._sink.identify(data)
        held = like.known(text)
        if held is None:
            if self._sink.has(text) or (found := like.similar(data)) is None:
                return self._put(data)
            held = Held(self._sink.put(found[0]), found[1])
        if held.bases:
            self._patches[len(self._blobs)] = (tuple(map(self._ref, held.bases)), text)
            self.patched = True
        return self._ref(held.blob)

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


def _pieces_of(item: Stored, refs: list[bytes]) -> Iterator[tuple[bytes, int, Held]]:
    """Yield the id of each piece of a table, how many rows it has, and how it is held."""
    for position, (number, count) in enumerate(zip(item.blobs, item.counts, strict=True)):
        if position in item.patches:
            bases, text = item.patches[position]
            yield text, count, Held(refs[number], tuple(refs[base] for base in bases))
        else:
            yield refs[number], count, Held(refs[number])


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
                blobs = (
                    [item.blob]
                    if isinstance(item, Script)
                    else [*item.blobs, *(n for bases, _ in item.patches.values() for n in bases)]
                )
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
            for _, _, text in self.rows(item, refs):
                data = text()
                self._source.tick(0, len(data))
                yield Rows(data)
            yield End()

    def rows(self, item: Stored, refs: list[bytes]) -> Iterator[tuple[bytes, int, Callable[[], bytes]]]:
        """Yield each piece of a table's rows: its id, how many rows it has, and the way to its text."""
        for text, count, held in _pieces_of(item, refs):
            yield text, count, self._getter(held)

    def _getter(self, held: Held) -> Callable[[], bytes]:
        def get() -> bytes:
            data = self._source.get(held.blob)
            if not held.bases:
                return data
            try:
                return patched(b"".join(map(self._source.get, held.bases)), data)
            except ValueError:
                raise self._unusable() from None

        return get

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
