"""How two states of a database differ, told by object and by row.

Pieces of rows that both have are seen by their ids and cost nothing. Of the rest every row is looked at, as
a hash: by its primary key where both have the same, else as one of a bag of rows.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.drivers.postgresql.connect import administering, place_of
from rfs.production.rollback.drivers.postgresql.content import Contents, Digest, Piecewise, Script
from rfs.production.rollback.drivers.postgresql.facts import Database, plain
from rfs.production.rollback.drivers.postgresql.marks import allow, databases
from rfs.production.rollback.drivers.postgresql.notes import recall
from rfs.production.rollback.drivers.postgresql.script import PREAMBLE, End, Piece, Rows, Statements, Table
from rfs.production.rollback.drivers.postgresql.staging import dumped
from rfs.production.rollback.errors import ConflictError
from rfs.production.rollback.model import Capture, Change, ChangeKind, Component, Loss, Ref

# A row is 16 bytes of memory here and takes about 2 µs; what only the server has is kept, compressed, while it is
# compared. Beyond that the number of rows is all that is told of a table.
MOST_ROWS = 8_000_000
MOST_BYTES = 256 << 20
_BUCKETS = 32
_LISTED = 1_000_000
_ROWS = "rows:"
_VALUES = "values:"
_UNKNOWN = "unknown"
_IDENTIFIER = re.compile(r'"((?:[^"]|"")*)"|([^\s",.()]+)')


class Shape(msgspec.Struct, frozen=True):
    """A table as COPY names it: schema, name and columns."""

    table: tuple[str, str]
    columns: tuple[str, ...]

    @property
    def shown(self) -> str:
        schema, name = self.table
        return name if schema == "public" else f"{schema}.{name}"


def shape_of(header: str) -> Shape:
    """Read what stands between COPY and FROM."""
    words = [plain if plain else quoted.replace('""', '"') for quoted, plain in _IDENTIFIER.findall(header)]
    return Shape((words[0], words[1]), tuple(words[2:]))


class Piled(msgspec.Struct):
    """The rows of one table: pieces by id, each with its number of rows and the way to its text.

    Attributes:
        whole: whether the text of all that the other side has not can be had.
        kept: bytes of memory that this text takes.
    """

    shape: Shape
    blobs: list[tuple[bytes, int, Callable[[], bytes]]]
    whole: bool = True
    kept: int = 0

    @property
    def count(self) -> int:
        return sum(count for _, count, _ in self.blobs)


class State(msgspec.Struct):
    """One side of a comparison.

    Attributes:
        objects: the hash of each object's statements, and their bytes.
        tables: by schema and name.
    """

    database: Database
    identity: str
    keys: dict[tuple[str, str], tuple[str, ...]]
    objects: dict[str, tuple[bytes, int]]
    tables: dict[tuple[str, str], Piled]


def changes(c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
    """Yield how two states differ, sorted by key; see Driver.changes."""
    if b is not None and a.fingerprint == b.fingerprint:
        return
    with states(c, source, a, b) as (before, after):
        if before.identity == after.identity:
            return
        found = [*_facts(c.name, before, after), *_objects(c.name, before, after)]
        for table in sorted(before.tables.keys() | after.tables.keys()):
            source.tick()
            found += _table(c.name, before, after, table)
        if not found:
            same = Ref("order", label="the same rows, in another order")
            found = [Change(c.name, ChangeKind.CHANGED, "rows", same, same)]
    yield from sorted(found, key=lambda change: (change.key, change.kind))


def is_plain(change: Change) -> bool:
    """Tell whether a change is one however the server spells definitions and wherever it puts rows."""
    ids = [side.id for side in (change.before, change.after) if side is not None]
    return any(each == "fact" or each.startswith((_ROWS, _VALUES)) for each in ids)


def losses(component: str, found: Sequence[Change]) -> Iterator[Loss]:
    """Yield, from changes to the live state, what exists now and would not afterwards."""
    for change in found:
        after = change.after
        if after is None or not change.key:
            continue
        if after.id == _UNKNOWN:
            yield Loss(component, f"rows in table {change.key}", None)
        elif after.id.startswith(_VALUES) and _number(after):
            table, _, column = change.key.rpartition(".")
            yield Loss(component, f"values in column {column} of table {table}", _number(after))
        elif after.id.startswith(_ROWS) and change.kind is ChangeKind.ADDED:
            yield Loss(component, f"rows in table {change.key}", _number(after))
        elif after.id.startswith(_ROWS):
            yield Loss(component, f"changed rows in table {change.key}", _number(after))


def beyond(component: str, found: Iterable[Change], told: Sequence[Loss]) -> Iterator[Change]:
    """Yield, of changes to what is lost, by how much each is more than was told."""
    known = {loss.what: loss.count for loss in told}
    for change in found:
        for loss in losses(component, [change]):
            before = known.get(loss.what, 0)
            if loss.count is not None and before is not None and loss.count > before:
                prefix = _VALUES if change.after is not None and change.after.id.startswith(_VALUES) else _ROWS
                more = _counted(prefix, loss.count - before)
                yield msgspec.structs.replace(change, before=more if change.before is not None else None, after=more)


def outline(dump: Iterable[Piece]) -> dict[str, Any]:
    """Return the names of the objects of a dump, and of each table how many rows it has."""
    objects: list[str] = []
    rows: dict[str, int] = {}
    table = ""
    for piece in dump:
        match piece:
            case Statements(name, _) if name != PREAMBLE and name not in objects[-1:]:
                objects.append(name)
            case Table(header):
                table = shape_of(header).shown
                rows[table] = 0
            case Rows(text):
                rows[table] += text.count(b"\n")
    return {"objects": objects, "rows": rows}


@contextmanager
def states(c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[tuple[State, State]]:
    """Yield two states to compare; of what is live, only those rows are kept that the first has not."""
    with _state(c, source, a) as before, _state(c, source, b, _texts(before)) as after:
        yield before, after


def _texts(state: State) -> dict[bytes, Callable[[], bytes]]:
    """Return where the text of each piece can be had. Another table may have the same one, or the same table twice."""
    return {blob: text for table in state.tables.values() if table.whole for blob, _, text in table.blobs}


@contextmanager
def _state(
    c: Component,
    source: BlobSource,
    capture: Capture | None,
    known: Mapping[bytes, Callable[[], bytes]] = MappingProxyType({}),
) -> Iterator[State]:
    """Yield a state to compare: from the store, or read from the server now.

    Args:
        known: the pieces that the other side has by their ids: their text is not kept twice.
    """
    if capture is not None and capture.meta["state"] == "dump":
        yield _stored(source, capture)
        return
    with opened(c, capture) as name:
        yield _live(c, source, name, known)


def _stored(source: BlobSource, capture: Capture) -> State:
    contents = Contents(capture, source)
    hashes: dict[str, Any] = {}
    sizes: Counter[str] = Counter()
    tables: dict[tuple[str, str], Piled] = {}
    for item, refs in contents.items():
        if isinstance(item, Script):
            for piece in contents.statements(item, refs):
                _hash(hashes, sizes, piece)
            continue
        shape = shape_of(item.header)
        tables[shape.table] = Piled(shape, list(contents.rows(item, refs)))
    keys = {(schema, table): tuple(columns) for schema, table, columns in capture.meta["keys"]}
    database = msgspec.convert(capture.meta["database"], Database)
    return State(database, capture.fingerprint.digest, keys, _finished(hashes, sizes), tables)


def _hash(hashes: dict[str, Any], sizes: Counter[str], piece: Statements) -> None:
    if piece.name != PREAMBLE:
        hashes.setdefault(piece.name, blake3()).update(piece.text)
        sizes[piece.name] += len(piece.text)


def _finished(hashes: dict[str, Any], sizes: Counter[str]) -> dict[str, tuple[bytes, int]]:
    return {name: (each.digest(), sizes[name]) for name, each in hashes.items()}


def _live(c: Component, source: BlobSource, name: str, known: Mapping[bytes, Callable[[], bytes]]) -> State:
    hashes: dict[str, Any] = {}
    sizes: Counter[str] = Counter()
    tables: dict[tuple[str, str], Piled] = {}
    kept = _Kept()
    with dumped(c, name, source) as (moment, dump):
        digest = Digest(plain(moment.database))
        table, cutter = Piled(Shape(("", ""), ()), []), Piecewise()
        for piece in dump:
            digest.add(piece)
            match piece:
                case Statements():
                    _hash(hashes, sizes, piece)
                case Table(header):
                    shape = shape_of(header)
                    table, cutter = tables.setdefault(shape.table, Piled(shape, [])), Piecewise()
                case Rows() | End():
                    found = cutter.add(piece.text) if isinstance(piece, Rows) else cutter.finish()
                    for data in found:
                        blob = source.identify(data)
                        text = known.get(blob)
                        if text is None:
                            text = kept.keep(data, table) if table.whole else _missing
                        table.blobs.append((blob, data.count(b"\n"), text))
                        if kept.full:
                            kept.forget(table)
    raw = digest.fingerprint().digest
    identity = recall(c).spelled.get(raw, raw)
    return State(moment.database, identity, moment.keys, _finished(hashes, sizes), tables)


class _Kept:
    """The rows that only the server has, for as long as they are compared: compressed, as they may be many."""

    def __init__(self) -> None:
        from zstandard import ZstdCompressor, ZstdDecompressor

        self._size = 0
        self._pack, self._unpack = ZstdCompressor(level=1), ZstdDecompressor()

    def keep(self, data: bytes, table: Piled) -> Callable[[], bytes]:
        packed = self._pack.compress(data)
        self._size += len(packed)
        table.kept += len(packed)
        return lambda: self._unpack.decompress(packed)

    @property
    def full(self) -> bool:
        return self._size > MOST_BYTES

    def forget(self, table: Piled) -> None:
        """Give up the table that was too much."""
        table.whole = False
        table.blobs = [(blob, count, _missing) for blob, count, _ in table.blobs]
        self._size -= table.kept
        table.kept = 0


def _missing() -> bytes:
    raise LookupError("rows that were not kept")  # a table that is not whole is never looked into


@contextmanager
def pieces_of(c: Component, source: BlobSource, capture: Capture) -> Iterator[tuple[dict[str, Any], Iterator[Piece]]]:
    """Yield what a capture records of its database (its facts, keys and version), and its dump."""
    if capture.meta["state"] == "dump":
        yield {key: capture.meta[key] for key in ("database", "keys", "version")}, Contents(capture, source).pieces()
        return
    with opened(c, capture) as name, dumped(c, name, source) as (moment, dump):
        keys = [[schema, table, list(columns)] for (schema, table), columns in moment.keys.items()]
        yield {"database": plain(moment.database), "keys": keys, "version": moment.version}, dump


@contextmanager
def opened(c: Component, capture: Capture | None) -> Iterator[str]:
    """Yield the name of the live database, or of that which a reference means, open for as long as it is read."""
    if capture is None:
        yield place_of(c).database
        return
    with administering(c) as connection:
        found = next((each for each in databases(connection) if each.oid == capture.meta["oid"]), None)
        if found is None:
            live = place_of(c).database
            raise ConflictError("postgresql.displaced_gone", component=c.name, database=live, oid=capture.meta["oid"])
        if found.open:
            yield found.name
            return
        allow(connection, found.name, allowed=True)
        try:
            yield found.name
        finally:
            allow(connection, found.name, allowed=False)


def _facts(component: str, before: State, after: State) -> Iterator[Change]:
    for field in Database.__struct_fields__:
        if getattr(before.database, field) != getattr(after.database, field):
            # Settings may hold secrets: that they differ is all that is told.
            yield Change(component, ChangeKind.CHANGED, f"database {field}", Ref("fact"), Ref("fact"))


def _objects(component: str, before: State, after: State) -> Iterator[Change]:
    for name in before.objects.keys() | after.objects.keys():
        old, new = before.objects.get(name), after.objects.get(name)
        if old == new:
            continue
        sides = [Ref("definition", each[1]) if each is not None else None for each in (old, new)]
        kind = ChangeKind.CHANGED if old and new else ChangeKind.REMOVED if old else ChangeKind.ADDED
        yield Change(component, kind, f"schema {name}", *sides)


def _table(component: str, before: State, after: State, table: tuple[str, str]) -> Iterator[Change]:
    old, new = before.tables.get(table), after.tables.get(table)
    shown = Shape(table, ()).shown
    if old is None or new is None:
        added, removed, changed = new.count if new else 0, old.count if old else 0, 0
    else:
        keys = (before.keys.get(table), after.keys.get(table))
        key = keys[0] if keys[0] == keys[1] else None
        difference = Difference(old, new, key)
        if not difference.possible:
            unknown = Ref(_UNKNOWN, label=f"{old.count:,} rows before, {new.count:,} after, not compared")
            yield Change(component, ChangeKind.CHANGED, shown, unknown, unknown)
            return
        difference.run()
        added, removed, changed = difference.counts()
        yield from _columns(component, old.shape, new.shape, difference)
    if added:
        yield Change(component, ChangeKind.ADDED, shown, None, _counted(_ROWS, added))
    if changed:
        yield Change(component, ChangeKind.CHANGED, shown, _counted(_ROWS, changed), _counted(_ROWS, changed))
    if removed:
        yield Change(component, ChangeKind.REMOVED, shown, _counted(_ROWS, removed), None)


def _columns(component: str, old: Shape, new: Shape, difference: Difference) -> Iterator[Change]:
    for column in old.columns:
        if column not in new.columns:
            filled = _counted(_VALUES, difference.filled[0][column])
            yield Change(component, ChangeKind.REMOVED, f"{old.shown}.{column}", filled, None)
    for column in new.columns:
        if column not in old.columns:
            filled = _counted(_VALUES, difference.filled[1][column])
            yield Change(component, ChangeKind.ADDED, f"{new.shown}.{column}", None, filled)


class Difference:
    """The rows of a table that only one of two states has, as hashes."""

    def __init__(self, old: Piled, new: Piled, key: tuple[str, ...] | None) -> None:
        common = [column for column in new.shape.columns if column in old.shape.columns]
        self._sides = (self._only(old, new), self._only(new, old))
        self._shapes = (old.shape, new.shape)
        self._common = common
        self._key = key if key and set(key) <= set(common) else None
        self.rows = sum(count for side in self._sides for _, count, _ in side)
        self.filled: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._buckets = tuple([array("q") for _ in range(_BUCKETS)] for _ in self._sides)
        self.possible = new.whole and old.whole and self.rows <= MOST_ROWS

    @staticmethod
    def _only(one: Piled, other: Piled) -> list[tuple[bytes, int, Callable[[], bytes]]]:
        if one.shape != other.shape:
            return one.blobs
        shared = Counter(blob for blob, _, _ in other.blobs)
        only = []
        for each in one.blobs:
            if shared[each[0]]:
                shared[each[0]] -= 1
            else:
                only.append(each)
        return only

    def run(self) -> None:
        only = self._differing() if self._shapes[0] == self._shapes[1] else None
        for side, buckets in enumerate(self._buckets):
            for key, content, _ in self.each(side, only):
                buckets[key % _BUCKETS].extend((key, content))

    def _differing(self) -> set[int] | None:
        """Return the hashes of the rows that one side has more often; None when they are too many to be listed.

        Whole rows are hashed twenty times as fast as they are taken apart.
        """
        hashes = [array("q"), array("q")]
        for side, found in zip(self._sides, hashes, strict=True):
            for _, _, text in side:
                found.extend(map(hash, text().removesuffix(b"\n").split(b"\n")))
        differing: set[int] = set()
        parts = 1 + self.rows // _LISTED
        for part in range(parts):
            before, after = (Counter(each for each in found if each % parts == part) for found in hashes)
            differing |= (before - after).keys() | (after - before).keys()
            if len(differing) > _LISTED:
                return None
        return differing

    def each(self, side: int, only: set[int] | None = None) -> Iterator[tuple[int, int, bytes]]:
        """Yield the rows of a side (0 is the old one): the hash of what it is known by, of its content, and itself."""
        shape, filled = self._shapes[side], self.filled[side]
        columns = [shape.columns.index(column) for column in self._common]
        keys = [shape.columns.index(column) for column in self._key or ()]
        own = [(column, n) for n, column in enumerate(shape.columns) if column not in self._common]
        whole = columns == list(range(len(shape.columns)))
        for _, _, text in self._sides[side]:
            # Not splitlines: a row may hold a carriage return or a form feed that only text knows as an end.
            for row in text().removesuffix(b"\n").split(b"\n"):
                if only is not None and hash(row) not in only:
                    continue
                values = row.split(b"\t")
                filled.update(column for column, n in own if values[n] != b"\\N")
                content = row if whole else b"\t".join(values[n] for n in columns)
                key = b"\t".join(values[n] for n in keys) if self._key else content
                yield hash(key), hash(content), row

    def counts(self) -> tuple[int, int, int]:
        """Return how many rows were added, removed and changed."""
        added = removed = changed = 0
        for old, new in zip(*self._buckets, strict=True):
            # Equal rows are in equal buckets, so that only one at a time has to be a table in memory.
            bags = [Counter(zip(rows[::2], rows[1::2], strict=True)) for rows in (old, new)]
            before, after = bags[0] - bags[1], bags[1] - bags[0]
            both = len({key for key, _ in before} & {key for key, _ in after}) if self._key else 0
            changed += both
            added += after.total() - both
            removed += before.total() - both
        return added, removed, changed


def _counted(prefix: str, count: int) -> Ref:
    noun = prefix[:-2] if count == 1 else prefix[:-1]
    return Ref(f"{prefix}{count}", label=f"{count:,} {noun}")


def _number(ref: Ref) -> int:
    return int(ref.id.partition(":")[2])
