"""Some tables of a database as in another state of it: two dumps made into one.

A table goes with its columns, rows, constraints, indexes, triggers, rules, policies, privileges and comments, and with
the sequences of its columns. What the mixture is worth is told by building it, before anything is stopped for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.drivers.postgresql.compare import shape_of
from rfs.production.rollback.drivers.postgresql.content import Contents, Script, Stored
from rfs.production.rollback.drivers.postgresql.script import End, Piece, Rows, Statements, Table
from rfs.production.rollback.errors import ConflictError, NotFoundError, RollbackError
from rfs.production.rollback.model import Capture, Component

Name = tuple[str, str]
"""Of a table or a sequence: schema and name."""

_ID = rb'(?:"(?:[^"]|"")*"|[^\s",.()]+)'
_QUALIFIED = rb"(" + _ID + rb")\.(" + _ID + rb")"
# By kind, in the words of pg_dump: what its statement says of the table that it belongs to.
_OWNER = {
    kind: re.compile(pattern.replace(b"%", _QUALIFIED), re.DOTALL)
    for kinds, pattern in {
        ("TABLE",): rb"\ACREATE (?:UNLOGGED )?TABLE %",
        # A sequence of an identity column; one that is only owned by a column says so in a statement of its own.
        ("SEQUENCE",): rb"\AALTER TABLE (?:ONLY )?%",
        ("CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "DEFAULT", "ROW SECURITY"): rb"\AALTER TABLE (?:ONLY )?%",
        ("SEQUENCE OWNED BY",): rb"\AALTER SEQUENCE .+ OWNED BY %\.",
        ("INDEX",): rb"\ACREATE (?:UNIQUE )?INDEX .+? ON (?:ONLY )?% USING ",
        ("TRIGGER",): rb"\ACREATE (?:CONSTRAINT )?TRIGGER .+? ON % ",
        ("RULE",): rb"\ACREATE RULE .+? TO %",
        ("POLICY",): rb"\ACREATE POLICY .+? ON %",
        ("STATISTICS",): rb"\ACREATE STATISTICS .+? FROM %;",
        ("PUBLICATION TABLE",): rb"\AALTER PUBLICATION .+? ADD TABLE ONLY %",
    }.items()
    for kind in kinds
}
_SEQUENCE = re.compile(rb"\A(?:CREATE|ALTER) (?:UNLOGGED )?SEQUENCE " + _QUALIFIED)
_OF_IDENTITY = re.compile(rb"SEQUENCE NAME " + _QUALIFIED)
_SET = re.compile(rb"\ASELECT pg_catalog\.setval\('((?:[^']|'')+)'")
_INDEX = re.compile(rb"\ACREATE (?:UNIQUE )?INDEX (" + _ID + rb") ON (?:ONLY )?(" + _ID + rb")\.")
_SAID = re.compile(rb"\ACOMMENT ON (?:TABLE|COLUMN|SEQUENCE) " + _QUALIFIED)
_SAID_ON = re.compile(rb"\ACOMMENT ON (?:CONSTRAINT|TRIGGER|RULE|POLICY) .+? ON " + _QUALIFIED)
_SAID_OF_INDEX = re.compile(rb"\ACOMMENT ON INDEX " + _QUALIFIED)
_GIVEN = re.compile(rb"\A(?:GRANT|REVOKE) .+? ON (?:TABLE|SEQUENCE) " + _QUALIFIED, re.DOTALL)
_REFERENCE = re.compile(rb" FOREIGN KEY \(.*?\) REFERENCES " + _QUALIFIED, re.DOTALL)
_PARTITIONED = re.compile(rb"\)\s*(?:PARTITION BY|INHERITS) ", re.DOTALL)
_ATTACH = re.compile(rb"\AALTER TABLE (?:ONLY )?" + _QUALIFIED + rb" ATTACH PARTITION " + _QUALIFIED)
# In the order of pg_dump; what else there is keeps its place.
_DATA, _VALUES, _LAST = 1, 2, 99
_RANKS = {
    "TABLE DATA": _DATA,
    "SEQUENCE SET": _VALUES,
    "CONSTRAINT": 3,
    "INDEX": 4,
    "STATISTICS": 6,
    "RULE": 7,
    "TRIGGER": 8,
    "FK CONSTRAINT": 9,
    "ROW SECURITY": 11,
    "POLICY": 11,
    "PUBLICATION TABLE": 12,
}
_AFTER_DATA = frozenset(
    {*_RANKS, "INDEX ATTACH", "EVENT TRIGGER", "PUBLICATION", "SUBSCRIPTION", "MATERIALIZED VIEW DATA"}
)
_LARGE = ("BLOB", "BLOBS", "LARGE OBJECTS", "BLOB METADATA")
_KINDS = sorted(
    {*_OWNER, *_AFTER_DATA, "SEQUENCE SET", "COMMENT", "ACL", "TABLE ATTACH", *_LARGE}, key=len, reverse=True
)
_LISTED = 5
# foreign_key_violation
_DANGLES = "23503"


class Reference(NamedTuple):
    """A foreign key: its name, and the tables at its ends."""

    name: str
    child: Name
    parent: Name


def named(key: str) -> Name:
    """Return the table that somebody means: NAME, of the schema public, or SCHEMA.NAME."""
    schema, dot, name = key.partition(".")
    return (schema, name) if dot else ("public", key)


def shown(table: Name) -> str:
    """Return a table as it is called."""
    return table[1] if table[0] == "public" else ".".join(table)


_KEY = re.compile(r"schema [A-Z ]*?(?:(?P<schema>[^ .]+)\.)?(?:(?:TABLE|COLUMN) )?(?P<name>[^ .]+)")


def is_of(key: str, chosen: frozenset[Name]) -> bool:
    """Tell whether the key of a change is of one of some tables; see compare.changes."""
    names = {shown(table) for table in chosen}
    if key.startswith("schema "):
        match = _KEY.match(key)
        return match is not None and (match["schema"] or "public", match["name"]) in chosen
    return key in names or key.rpartition(".")[0] in names


class _Own:
    """Which of the statements of one dump belong to some tables.

    Args:
        chosen: the tables.
        head: the statements of that dump that come before all rows.
    """

    def __init__(self, chosen: frozenset[Name], head: Iterable[Statements]) -> None:
        self._tables = chosen
        self._sequences: set[Name] = set()
        self._indexes: set[Name] = set()
        for each in head:
            kind = kind_of(each.name)
            if kind == "SEQUENCE OWNED BY" and _owner(kind, each.text) in chosen:
                self._add(self._sequences, _SEQUENCE.match(each.text))
            elif kind == "SEQUENCE" and _owner(kind, each.text) in chosen:
                self._add(self._sequences, _OF_IDENTITY.search(each.text))

    @staticmethod
    def _add(names: set[Name], match: re.Match[bytes] | None) -> None:
        if match is not None:
            names.add(_plain(*match.groups()[:2]))

    def has(self, piece: Statements) -> bool:
        """Tell whether it belongs to one of the tables."""
        kind, text = kind_of(piece.name), piece.text
        if _owner(kind, text) in self._tables:
            if kind == "INDEX" and (match := _INDEX.match(text)) is not None:
                self._indexes.add(_plain(match[2], match[1]))
            return True
        about: set[Name | None] = set()
        if kind == "SEQUENCE":
            about = {_first(_SEQUENCE, text)}
        elif kind == "SEQUENCE SET" and (match := _SET.match(text)) is not None:
            about = {_first(_NAME, match[1].replace(b"''", b"'"))}
        elif kind == "COMMENT":
            about = {_first(_SAID, text), _first(_SAID_ON, text), _first(_SAID_OF_INDEX, text)}
        elif kind == "ACL":
            about = {_first(_GIVEN, text)}
        return bool(about & (self._tables | self._sequences | self._indexes))


_NAME = re.compile(rb"\A" + _QUALIFIED)


def kind_of(name: str) -> str:
    """Return of what kind the object of a piece is, as far as that matters here."""
    return next((kind for kind in _KINDS if name.startswith(f"{kind} ")), "")


def _owner(kind: str, text: bytes) -> Name | None:
    pattern = _OWNER.get(kind)
    return None if pattern is None else _first(pattern, text)


def _first(pattern: re.Pattern[bytes], text: bytes) -> Name | None:
    match = pattern.search(text)
    return None if match is None else _plain(match[1], match[2])


def _plain(*words: bytes) -> Name:
    schema, name = (
        (word[1:-1].replace(b'""', b'"') if word.startswith(b'"') else word).decode("utf-8", "surrogateescape")
        for word in words
    )
    return schema, name


class Wanted:
    """Some tables as they are in one dump, read from the store.

    Args:
        contents: of the whole database, or of a part of it.
        chosen: the tables.

    Attributes:
        statements: what makes them, in order.
        rows: what holds their rows.
    """

    def __init__(self, contents: Contents, chosen: frozenset[Name]) -> None:
        self.contents = contents
        self.statements: list[Statements] = []
        self.rows: dict[Name, tuple[Stored, list[bytes]]] = {}
        scripts: list[Statements] = []
        for item, refs in contents.items():
            if isinstance(item, Script):
                scripts += contents.statements(item, refs)
            elif (table := shape_of(item.header).table) in chosen:
                self.rows[table] = (item, refs)
        own = _Own(chosen, scripts)
        self.statements = [each for each in scripts if own.has(each)]
        self.tables = frozenset(filter(None, (_owner("TABLE", each.text) for each in self.statements)))
        self.others = others(scripts)

    def pieces(self, table: Name) -> Iterator[Piece]:
        """Yield the rows of one table."""
        item, refs = self.rows[table]
        yield Table(item.header)
        for _, _, text in self.contents.rows(item, refs):
            yield Rows(text())
        yield End()


def others(head: Iterable[Statements]) -> dict[Name, str]:
    """Return what is no table that could be brought back alone, each with what it is instead."""
    found: dict[Name, str] = {}
    for each in head:
        for kind, what in (
            ("VIEW", "a view"),
            ("MATERIALIZED VIEW", "a materialized view"),
            ("FOREIGN TABLE", "foreign"),
        ):
            if each.name.startswith(f"{kind} ") and (name := _first(_CREATED, each.text)) is not None:
                found[name] = f"it is {what}"
        if kind_of(each.name) == "TABLE" and _PARTITIONED.search(each.text) is not None:
            name = _owner("TABLE", each.text)
            if name is not None:
                found[name] = "it is partitioned, or inherits from another one"
        if (attached := _ATTACH.match(each.text)) is not None:
            found[_plain(attached[3], attached[4])] = "it is a partition of another one"
    return found


_CREATED = re.compile(rb"\ACREATE (?:MATERIALIZED |FOREIGN )?(?:VIEW|TABLE) " + _QUALIFIED)


def only(dump: Iterable[Piece], chosen: frozenset[Name]) -> Iterator[Piece]:
    """Yield all statements of a dump, and of rows only those of some tables."""
    inside = False
    for piece in dump:
        if isinstance(piece, Table):
            inside = shape_of(piece.header).table in chosen
        if inside or isinstance(piece, Statements):
            yield piece


def mixed(dump: Iterable[Piece], wanted: Wanted, chosen: frozenset[Name], component: str) -> Iterator[Piece]:
    """Yield a dump with some tables as they are `wanted`; what both have keeps its place.

    Raises:
        NotFoundError: select.none, a table is in neither.
        ConflictError: select.table, one is a view, or in parts.
    """
    feed = iter(dump)
    head: list[Statements] = []
    rest: Piece | None = None
    for piece in feed:
        if not isinstance(piece, Statements) or kind_of(piece.name) in {*_AFTER_DATA, *_LARGE}:
            rest = piece
            break
        head.append(piece)
    own = _Own(chosen, head)
    there = frozenset(filter(None, (_owner("TABLE", each.text) for each in head)))
    strange = {**others(head), **wanted.others}
    for table in sorted(chosen):
        if table in strange:
            raise ConflictError("select.table", table=shown(table), component=component, why=strange[table])
        if table not in there | wanted.tables:
            raise NotFoundError("select.none", what=shown(table), component=component)
    following = chain([] if rest is None else [rest], feed)
    yield from _Mixing(wanted, own, there).run(head, following, chosen)


class _Mixing:
    """Puts one dump into another. Args: there: the tables that the other has."""

    def __init__(self, wanted: Wanted, own: _Own, there: frozenset[Name]) -> None:
        self._wanted = wanted
        self._own = own
        self._there = there
        self._waiting: dict[str, list[Statements]] = {}
        for each in wanted.statements:
            self._waiting.setdefault(each.name, []).append(each)

    def run(self, head: list[Statements], following: Iterator[Piece], chosen: frozenset[Name]) -> Iterator[Piece]:
        for each in head:
            yield from self._instead(each)
        yield from self._up_to(_DATA)
        skipped = False
        missing = sorted(table for table in self._wanted.rows if table not in self._there)
        for piece in following:
            if isinstance(piece, Statements):
                rank = _rank(piece)
                if rank > _DATA and missing:
                    yield from chain.from_iterable(map(self._wanted.pieces, missing))
                    missing = []
                if kind_of(piece.name) != "COMMENT":  # it stands beside what it is about, which may come early
                    yield from self._up_to(rank)
                yield from self._instead(piece)
                continue
            if isinstance(piece, Table):
                table = shape_of(piece.header).table
                skipped = table in chosen
                if table in self._wanted.rows:
                    yield from self._wanted.pieces(table)
            if not skipped:
                yield piece
        yield from chain.from_iterable(map(self._wanted.pieces, missing))
        yield from self._up_to(_LAST + 1)

    def _instead(self, piece: Statements) -> Iterator[Statements]:
        """Yield what stands where a statement stood."""
        if not self._own.has(piece):
            yield piece
        else:
            yield from self._waiting.pop(piece.name, [])

    def _up_to(self, rank: int) -> Iterator[Statements]:
        """Yield what only the wanted tables have, as far as it comes before what is of some rank."""
        for name, found in list(self._waiting.items()):
            if _rank(found[0]) < rank:
                del self._waiting[name]
                yield from found


def _rank(piece: Statements) -> int:
    kind = kind_of(piece.name)
    if kind == "ACL":
        return _LAST
    # A comment follows what it is about.
    if kind == "COMMENT":
        return 13 if _SAID.match(piece.text) is None else 0
    return _RANKS.get(kind, 0)


# — what belongs together —


def references(contents: Contents) -> list[Reference]:
    """Return the foreign keys of a dump in the store."""
    found = []
    for item, refs in contents.items():
        if not isinstance(item, Script) or not any(name.startswith("FK CONSTRAINT ") for name, _ in item.objects):
            continue
        for each in contents.statements(item, refs):
            child, parent = _owner(kind_of(each.name), each.text), _first(_REFERENCE, each.text)
            if kind_of(each.name) == "FK CONSTRAINT" and child is not None and parent is not None:
                found.append(Reference(each.name.rpartition(" ")[2], child, parent))
    return found


def belonging(contents: Contents, chosen: Sequence[Name]) -> list[Name]:
    """Return the tables that the chosen ones refer to, or are referred to by, at any remove."""
    related: dict[Name, set[Name]] = {}
    for _, child, parent in references(contents):
        related.setdefault(child, set()).add(parent)
        related.setdefault(parent, set()).add(child)
    together = list(chosen)
    for name in together:  # which grows meanwhile
        together += [each for each in sorted(related.get(name, ())) if each not in together]
    return [each for each in together if each not in chosen]


@contextmanager
def explaining(c: Component, source: BlobSource, want: Capture) -> Iterator[None]:
    """Explain why a mixture cannot be: rows would refer to rows that are not there.

    Raises:
        ConflictError: select.dangling.
    """
    try:
        yield
    except RollbackError as error:
        diagnosis: Any = getattr(error.__cause__, "diag", None)
        if "chosen" not in want.meta or getattr(error.__cause__, "sqlstate", "") != _DANGLES:
            raise
        child: Name = (str(diagnosis.schema_name), str(diagnosis.table_name))
        pairs = [
            (each.child, each.parent)
            for each in references(Contents(want, source))
            if each.child == child and each.name == diagnosis.constraint_name
        ]
        what = "; ".join(f"{shown(a)} to {shown(b)}" for a, b in pairs[:_LISTED]) or shown(child)
        together = sorted({*want.meta["chosen"], *(shown(each) for pair in pairs for each in pair)})
        tables = " ".join(f"--table {each}" for each in together)
        raise ConflictError("select.dangling", component=c.name, what=what, tables=tables) from error
