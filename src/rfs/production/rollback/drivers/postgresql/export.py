"""The rows that only a displaced database has, as values that can be read or put elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.drivers.postgresql.compare import MOST_ROWS, Difference, Piled, states
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Capture, Component

_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_MEANT = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


class Surplus(msgspec.Struct, frozen=True):
    """Rows of one table that only the second of two states has.

    Attributes:
        table: as people write it, without the schema `public`.
        rows: each value as the server writes it as text; None for NULL.
    """

    schema: str
    name: str
    table: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]


def surplus(c: Component, source: BlobSource, before: Capture, after: Capture, tables: Sequence[str]) -> list[Surplus]:
    """Return the rows that `after` has and `before` has not: by primary key, or as a bag of rows without one.

    Args:
        tables: only these, named as `Surplus.table` is; all when empty.

    Raises:
        RollbackError: there are too many of them to be compared.
    """
    found: list[Surplus] = []
    with states(c, source, before, after) as (old_state, new_state):
        for name, new in sorted(new_state.tables.items()):
            if tables and new.shape.shown not in tables:
                continue
            old = old_state.tables.get(name, Piled(new.shape, []))
            keys = (old_state.keys.get(name), new_state.keys.get(name))
            difference = Difference(old, new, keys[0] if keys[0] == keys[1] else None)
            if not difference.possible:
                raise RollbackError("postgresql.many_rows", table=new.shape.shown, most=f"{MOST_ROWS:,}")
            source.tick()
            rows = tuple(_only_after(difference))
            if rows:
                found.append(Surplus(*name, new.shape.shown, new.shape.columns, rows))
    return found


def _only_after(difference: Difference) -> Iterator[tuple[str | None, ...]]:
    there = Counter(key for key, _, _ in difference.each(0))
    for key, _, row in difference.each(1):
        if there[key] > 0:
            there[key] -= 1
        else:
            yield tuple(map(value_of, row.split(b"\t")))


def value_of(field: bytes) -> str | None:
    """Return what a field of COPY's text format means."""
    if field == b"\\N":
        return None
    return _ESCAPED.sub(lambda found: _MEANT.get(found[1], found[1]), field).decode(errors="replace")
