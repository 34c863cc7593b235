"""A dump as a row of pieces: one for each object's statements, and one for each table's rows.

What pg_dump writes is taken apart where it says itself that an object begins, and never changed, but for
what differs from run to run (a random key, its own version) and is left out. Put together again the pieces
are that script. They are never given to psql, whose own commands a name in the database could smuggle in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

_HEADER = re.compile(rb"\A-- (?:Data for )?Name: (.*); Type: (.*?); Schema: (.*?); Owner: ", re.DOTALL)
_COPY = re.compile(rb"\ACOPY (.+) FROM stdin;\n\Z", re.DOTALL)
_VOLATILE = (b"\\restrict ", b"\\unrestrict ", b"-- Dumped from ", b"-- Dumped by ")
_LONGEST = 1 << 20
_END = b"\\.\n"
PREAMBLE = "preamble"
"""The name of the settings that a dump begins with. They are of pg_dump's version, not of the database."""


class Statements(msgspec.Struct, frozen=True):
    """What makes one object; `name` is its type and name. A long one comes in several pieces of one name."""

    name: str
    text: bytes


class Table(msgspec.Struct, frozen=True):
    """The rows of a table begin. `header` is what stands between COPY and FROM: its name and its columns."""

    header: str


class Rows(msgspec.Struct, frozen=True):
    """Some rows of the table that began last: whole lines as COPY writes them."""

    text: bytes


class End(msgspec.Struct, frozen=True):
    """The rows of the table that began last are over."""


Piece = Statements | Table | Rows | End


def pieces(data: Iterable[bytes]) -> Iterator[Piece]:
    """Take a dump apart.

    Args:
        data: what pg_dump writes, cut anywhere.
    """
    return _Parser().run(data)


class _Parser:
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._size = 0
        self._name = PREAMBLE
        self._in_rows = self._rows_may_come = self._splits = False

    def run(self, data: Iterable[bytes]) -> Iterator[Piece]:
        for more in data:
            self._buffer += more
            yield from self._consume()
        if self._buffer:
            self._lines.append(bytes(self._buffer))
        yield from self._flush()

    def _consume(self) -> Iterator[Piece]:
        while True:
            before = len(self._buffer), self._in_rows
            yield from self._rows() if self._in_rows else self._statements()
            if (len(self._buffer), self._in_rows) == before:
                return

    def _rows(self) -> Iterator[Piece]:
        """Pass whole rows on; the line that ends them is no row, as COPY escapes every backslash of the data."""
        end = 0 if self._buffer.startswith(_END) else self._buffer.find(b"\n" + _END) + 1
        if end or self._buffer.startswith(_END):
            if end:
                yield Rows(bytes(self._buffer[:end]))
            yield End()
            del self._buffer[: end + len(_END)]
            self._in_rows = False
            return
        last = self._buffer.rfind(b"\n") + 1
        if last:
            # The line after it may still become the end.
            yield Rows(bytes(self._buffer[:last]))
            del self._buffer[:last]

    def _statements(self) -> Iterator[Piece]:
        start = 0
        while not self._in_rows and (end := self._buffer.find(b"\n", start) + 1):
            line = bytes(self._buffer[start:end])
            start = end
            header = _HEADER.match(line)
            if header is not None:
                yield from self._flush()
                kind, schema, name = (each.decode(errors="replace") for each in header.group(2, 3, 1))
                self._name = f"{kind} {name}" if schema == "-" else f"{kind} {schema}.{name}"
                self._rows_may_come, self._splits = kind == "TABLE DATA", kind == "BLOBS"
            elif self._rows_may_come and (copy := _COPY.match(line)):
                yield from self._flush()
                yield Table(copy[1].decode(errors="surrogateescape"))
                self._in_rows, self._rows_may_come = True, False
                self._name = "after rows"
            elif not line.startswith(_VOLATILE):
                self._lines.append(line)
                self._size += len(line)
                if self._splits and self._size > _LONGEST:
                    yield from self._flush()
        del self._buffer[:start]

    def _flush(self) -> Iterator[Piece]:
        text = b"".join(line for line in self._lines if line != b"--\n").strip(b"\n")
        self._lines, self._size = [], 0
        if text:
            yield Statements(self._name, text + b"\n")
