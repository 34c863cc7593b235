"""What differs between two private copies of a database, in the words of its user: rows and schema.

Rows are counted exactly, by SQLite, with both copies attached to one connection. A table
with a primary key is compared by it; without one, equal rows are counted against each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apsw
import msgspec

from rfs.production.rollback.drivers.sqlite.pages import Facts
from rfs.production.rollback.model import Change, ChangeKind, Loss, Ref

_OPS_PER_TICK = 100_000
_SQL_SHOWN = 200
_ROWS, _VALUES, _UNKNOWN = "rows:", "values:", "rows?"
_PRAGMAS = ("user_version", "application_id", "auto_vacuum", "encoding")
_SCHEMA = "SELECT type, name, sql FROM {side}.sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"

# What SQLite says of pages that make no sense.
DAMAGED = (apsw.CorruptError, apsw.NotADBError)

Side = tuple[str, Facts]


class Table(msgspec.Struct, frozen=True):
    """A table as one of the copies has it.

    Attributes:
        columns: without generated ones.
        key: its primary key's columns, in order; may be empty.
        shown: the name that its user knows it by.
        counted: whether its rows mean something to its user.
    """

    name: str
    columns: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    shown: str = ""
    counted: bool = True


def compare(component: str, before: Side, after: Side, tick: Callable[[], None]) -> list[Change]:
    """Return the differences between two copies, sorted by key.

    Args:
        before, after: path and facts of each; they are known to differ.
        tick: called every now and then; may raise.
    """
    changes = facts_changed(component, before[1], after[1])
    if before[1].state == after[1].state == "database":
        try:
            changes += _content_changed(component, before[0], after[0], tick)
        except DAMAGED:
            # What a rollback is wanted for may be the damage: it must not keep anybody from it.
            changes.append(_not_compared(component, ""))
    elif before[1].state == after[1].state:
        changes.append(_replaced(component, before[1], after[1]))
    if not changes:
        same = Ref("pages", label="the same rows, laid out differently")
        changes = [Change(component, ChangeKind.CHANGED, "pages", same, same)]
    return sorted(changes, key=lambda change: (change.key, change.kind))


def schema(path: str) -> dict[str, str]:
    """Return the statements that made the tables, indexes, views and triggers of a private copy, by name."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return {name: _shortened(sql or "") for _, name, sql in connection.execute(_SCHEMA.format(side="main"))}
    finally:
        connection.close()


def _shortened(sql: str) -> str:
    if len(sql) <= _SQL_SHOWN:
        return sql
    from hashlib import sha256  # loads OpenSSL, which looking does not need

    # What compares two schemas must see a column that was added at the end.
    return f"{sql[:_SQL_SHOWN]}… ({sha256(sql.encode()).hexdigest()[:8]})"


def facts_changed(component: str, before: Facts, after: Facts) -> list[Change]:
    """Return what differs between two states besides their content; none when only that differs."""
    if before.state != after.state:
        return [_replaced(component, before, after)]
    pairs = {
        "file:mode": (f"{before.mode:04o}", f"{after.mode:04o}"),
        "file:owner": (f"{before.uid}:{before.gid}", f"{after.uid}:{after.gid}"),
        "journal": ("write-ahead log" if before.wal else "rollback", "write-ahead log" if after.wal else "rollback"),
        "page size": (str(before.page_size), str(after.page_size)),
    }
    return [_valued(component, key, old, new) for key, (old, new) in pairs.items() if old != new]


def _replaced(component: str, before: Facts, after: Facts) -> Change:
    def side(facts: Facts) -> Ref | None:
        if facts.state == "absent":
            return None
        label = "a database" if facts.state == "database" else "no database"
        return Ref(facts.state, facts.length, label)

    kind = ChangeKind.CHANGED
    if before.state == "absent":
        kind = ChangeKind.ADDED
    elif after.state == "absent":
        kind = ChangeKind.REMOVED
    return Change(component, kind, "", side(before), side(after))


def _valued(component: str, key: str, old: str, new: str) -> Change:
    return Change(component, ChangeKind.CHANGED, key, Ref(old, label=old), Ref(new, label=new))


def losses(component: str, changes: Sequence[Change]) -> Iterator[Loss]:
    """Yield, from changes to the live state, what exists now and would not afterwards."""
    rows: dict[str, int | None] = {}
    for change in changes:
        found = change.after
        if found is None:
            continue
        if found.id.startswith(_VALUES):
            table, _, column = change.key.rpartition(".")
            if _count(found):
                yield Loss(component, f"values in column {column} of table {table}", _count(found))
        elif found.id == _UNKNOWN:
            rows[change.key] = None
        elif found.id.startswith(_ROWS):
            known = rows.get(change.key, 0)
            rows[change.key] = None if known is None else known + _count(found)
    for table, count in rows.items():
        yield Loss(component, f"rows in table {table}" if table else "rows", count)


def _count(ref: Ref) -> int:
    return int(ref.id.partition(":")[2])


def _counted(prefix: str, count: int) -> Ref:
    noun = prefix[:-2] if count == 1 else prefix[:-1]
    return Ref(f"{prefix}{count}", label=f"{count:,} {noun}")


def _content_changed(component: str, before: str, after: str, tick: Callable[[], None]) -> list[Change]:
    connection = apsw.Connection(before, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        changes = _pragmas_changed(component, connection, after)
        if any(change.key == "encoding" for change in changes):
            # SQLite refuses to attach what is encoded differently; every text in it is another.
            return [*changes, *(_not_compared(component, name) for name in sorted(_tables(connection, "main")))]
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        # Attached with the flags of this connection: read-only.
        connection.execute("ATTACH ? AS later", (after,))

        def progress() -> bool:
            tick()
            return False

        connection.set_progress_handler(progress, _OPS_PER_TICK)
        changes += _schema_changed(component, connection)
        changes += _rows_changed(component, connection)
        return changes
    finally:
        connection.close()


def _pragmas_changed(component: str, connection: apsw.Connection, after: str) -> list[Change]:
    other = apsw.Connection(after, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        values = [(name, str(connection.pragma(name)), str(other.pragma(name))) for name in _PRAGMAS]
    finally:
        other.close()
    return [_valued(component, name, old, new) for name, old, new in values if old != new]


def _schema_changed(component: str, connection: apsw.Connection) -> Iterator[Change]:
    old, new = (
        {f"schema:{kind}.{name}": sql or "" for kind, name, sql in connection.execute(_SCHEMA.format(side=side))}
        for side in ("main", "later")
    )
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        before, after = (_sql_ref(side[key]) if key in side else None for side in (old, new))
        kind = ChangeKind.ADDED if before is None else ChangeKind.REMOVED if after is None else ChangeKind.CHANGED
        yield Change(component, kind, key, before, after)


def _sql_ref(sql: str) -> Ref:
    shown = " ".join(sql.split())
    return Ref(sql, len(sql), shown if len(shown) <= _SQL_SHOWN else shown[: _SQL_SHOWN - 1] + "…")


def _rows_changed(component: str, connection: apsw.Connection) -> Iterator[Change]:
    old, new = _tables(connection, "main"), _tables(connection, "later")
    for name in sorted(old.keys() | new.keys()):
        try:
            yield from _table_changed(component, connection, old.get(name), new.get(name))
        except (apsw.SQLError, *DAMAGED):
            # A collation, function or module that only the application has; or pages that make no sense.
            yield _not_compared(component, name)


def _not_compared(component: str, name: str) -> Change:
    unknown = Ref(_UNKNOWN, label="rows that cannot be compared")
    return Change(component, ChangeKind.CHANGED, name, unknown, unknown)


def _tables(connection: apsw.Connection, side: str) -> dict[str, Table]:
    query = "SELECT name, type FROM pragma_table_list WHERE schema = ? AND type IN ('table', 'shadow')"
    listed: list[tuple[Any, ...]] = connection.execute(query, (side,)).fetchall()
    return {name: _table(connection, side, name, kind) for name, kind in listed if not name.startswith("sqlite_")}


def _table(connection: apsw.Connection, side: str, name: str, kind: str) -> Table:
    query = "SELECT name, pk FROM pragma_table_xinfo(?, ?) WHERE hidden = 0"
    columns: list[tuple[Any, ...]] = connection.execute(query, (name, side)).fetchall()
    key = tuple(column for position, column in sorted((position, column) for column, position in columns if position))
    shown, counted = name, True
    if kind == "shadow":
        # Where a full-text or spatial index keeps its rows; its other tables are its own affair.
        shown, _, part = name.rpartition("_")
        counted = part in ("content", "rowid")
    return Table(name, tuple(column for column, _ in columns), key, shown, counted)


def _table_changed(
    component: str, connection: apsw.Connection, old: Table | None, new: Table | None
) -> Iterator[Change]:
    table = new or old
    if table is None or not table.counted:
        return
    added = removed = changed = 0
    if old is not None and new is not None:
        if _on_the_same_pages(connection, new.name):
            return
        common = [column for column in old.columns if column in new.columns]
        added, removed, changed = _difference(connection, old, new, common)
        yield from _columns_changed(component, connection, old, new)
    elif new is not None:
        added = _number(connection, f"SELECT count(*) FROM later.{quoted(new.name)}")
    else:
        removed = _number(connection, f"SELECT count(*) FROM main.{quoted(table.name)}")
    if added:
        yield Change(component, ChangeKind.ADDED, table.shown, None, _counted(_ROWS, added))
    if changed:
        yield Change(component, ChangeKind.CHANGED, table.shown, _counted(_ROWS, changed), _counted(_ROWS, changed))
    if removed:
        yield Change(component, ChangeKind.REMOVED, table.shown, _counted(_ROWS, removed), None)


def _on_the_same_pages(connection: apsw.Connection, name: str) -> bool:
    """Tell whether a table is defined the same and lies on equal pages in both copies: then all its rows are equal."""
    defined = "SELECT rootpage, sql FROM {}.sqlite_schema WHERE type = 'table' AND name = ?"
    old, new = (connection.execute(defined.format(side), (name,)).fetchall() for side in ("main", "later"))
    size, other = (_number(connection, f"PRAGMA {side}.page_size") for side in ("main", "later"))
    if old != new or size != other:
        return False
    pages = connection.execute("SELECT pageno, pagetype FROM dbstat('main') WHERE name = ?", (name,))
    seen = False
    # Both are copies that nobody else has: that closing a descriptor drops SQLite's locks does not matter.
    with (
        open(connection.db_filename("main"), "rb", buffering=0) as one,
        open(connection.db_filename("later"), "rb", buffering=0) as another,
    ):
        files = (one.fileno(), another.fileno())
        for page, kind in pages:
            seen = True
            before, after = (os.pread(file, size, (page - 1) * size) for file in files)
            # What lies below a page that makes no sense is not among them.
            if before != after or kind == "corrupted":
                pages.close()
                return False
    return seen


def _columns_changed(component: str, connection: apsw.Connection, old: Table, new: Table) -> Iterator[Change]:
    for table, other, side in ((old, new, "main"), (new, old, "later")):
        for column in (name for name in table.columns if name not in other.columns):
            filled = f"SELECT count({quoted(column)}) FROM {side}.{quoted(table.name)}"
            values, key = _counted(_VALUES, _number(connection, filled)), f"{table.shown}.{column}"
            if table is old:
                yield Change(component, ChangeKind.REMOVED, key, values, None)
            else:
                yield Change(component, ChangeKind.ADDED, key, None, values)


def _difference(connection: apsw.Connection, old: Table, new: Table, common: Sequence[str]) -> tuple[int, int, int]:
    """Return how many rows were added, removed and changed, by the columns that both have."""
    if not common:
        before, after = (_number(connection, f"SELECT count(*) FROM {s}.{quoted(old.name)}") for s in ("main", "later"))
        return max(after - before, 0), max(before - after, 0), 0
    if old.key and old.key == new.key and not _has_null_key(connection, old):
        return _difference_by_key(connection, old, common)
    return *_difference_by_rows(connection, old, common), 0


def _has_null_key(connection: apsw.Connection, table: Table) -> bool:
    # SQLite allows NULL, more than once, in a primary key that is not its row number.
    nulls = " OR ".join(f"{quoted(column)} IS NULL" for column in table.key)
    found = [f"EXISTS (SELECT 1 FROM {side}.{quoted(table.name)} WHERE {nulls})" for side in ("main", "later")]
    return bool(_number(connection, f"SELECT {' OR '.join(found)}"))


def _difference_by_key(connection: apsw.Connection, table: Table, common: Sequence[str]) -> tuple[int, int, int]:
    name = quoted(table.name)
    same_key = " AND ".join(f"m.{quoted(column)} = l.{quoted(column)}" for column in table.key)
    unequal = " OR ".join(
        # IS NOT alone would find 1 equal to 1.0, and "a" to "A" under NOCASE.
        f"m.{q} COLLATE BINARY IS NOT l.{q} OR typeof(m.{q}) <> typeof(l.{q})"
        for q in map(quoted, common)
    )
    both = f"main.{name} AS m JOIN later.{name} AS l ON {same_key}"
    matched, changed = _pair(connection, f"SELECT count(*), coalesce(sum({unequal}), 0) FROM {both}")
    before, after = _pair(connection, f"SELECT (SELECT count(*) FROM main.{name}), (SELECT count(*) FROM later.{name})")
    return after - matched, before - matched, changed


def _difference_by_rows(connection: apsw.Connection, table: Table, common: Sequence[str]) -> tuple[int, int]:
    columns = ", ".join(map(quoted, common))
    typed = ", ".join(f"typeof({q}), {q} COLLATE BINARY" for q in map(quoted, common))
    sides = [f"SELECT {sign} AS rfs_sign, {columns} FROM {side}.{quoted(table.name)}" for sign, side in _SIGNED]
    surplus = f"SELECT sum(rfs_sign) AS n FROM ({' UNION ALL '.join(sides)}) GROUP BY {typed} HAVING n <> 0"
    return _pair(connection, f"SELECT coalesce(sum(max(n, 0)), 0), coalesce(sum(max(-n, 0)), 0) FROM ({surplus})")


_SIGNED = ((-1, "main"), (1, "later"))


def _number(connection: apsw.Connection, query: str) -> int:
    value: Any = connection.execute(query).get
    return int(value)


def _pair(connection: apsw.Connection, query: str) -> tuple[int, int]:
    row: Any = connection.execute(query).fetchone()
    return int(row[0]), int(row[1])


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
