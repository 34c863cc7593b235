"""One table of a database, or some, as in another copy of it; what refers to what; and the refusal of a mixture.

Both copies are private. A table goes with its columns, rows, row numbers, indexes and triggers; views stay. Triggers
do not fire: what they would do to other tables was done when the rows were written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

import apsw

from rfs.production.rollback.drivers.sqlite.rows import quoted
from rfs.production.rollback.errors import ConflictError, NotFoundError

_OWN = "SELECT type, name, sql FROM {side}.sqlite_schema WHERE tbl_name = ? AND sql IS NOT NULL"
_KIND = "SELECT type, wr FROM pragma_table_list WHERE schema = ? AND name = ?"
_LISTED = 5


def put(copy: str, wanted: str, names: Sequence[str], component: str) -> None:
    """Let the tables `names` of the private copy be as in the copy `wanted`; what is in neither is refused.

    Raises:
        NotFoundError: select.none, a table is in neither.
        ConflictError: select.table, it cannot be put there alone; or rows would refer to some that are not there.
    """
    with closing(apsw.Connection(copy)) as db:
        db.pragma("journal_mode", "memory")
        db.pragma("foreign_keys", False)
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        try:
            db.execute("ATTACH ? AS wanted", (wanted,))
            before = _dangling(db)
            with db:
                for name in dict.fromkeys(names):
                    _put(db, name, component)
                _refuse_dangling(db, before, names, component)
        except apsw.SQLError as error:
            # A collation, function or module that only the application has.
            raise ConflictError("select.table", table=", ".join(names), component=component, why=error) from error


def _put(db: apsw.Connection, name: str, component: str) -> None:
    then, now = (_kind(db, side, name) for side in ("wanted", "main"))
    if then is None and now is None:
        raise NotFoundError("select.none", what=name, component=component)
    for found in (then, now):
        if name.startswith("sqlite_") or (found is not None and found[0] != "table"):
            why = f"it is a {found[0] if found else 'system'} table"
            raise ConflictError("select.table", table=name, component=component, why=why)
    old, new = (list(db.execute(_OWN.format(side=side), (name,))) for side in ("wanted", "main"))
    remade = sorted(old) != sorted(new)
    if remade and now is not None:
        db.execute(f"DROP TABLE main.{quoted(name)}")
    if then is None:
        return
    if remade:
        # The table first; a CREATE without a schema's name goes to the main one.
        for _, _, sql in sorted(old, key=lambda row: row[0] != "table"):
            db.execute(sql)
    else:
        db.execute(f"DELETE FROM main.{quoted(name)}")
    columns = _columns(db, name, without_rowid=bool(then[1]))
    listed = ", ".join(columns)
    db.execute(f"INSERT INTO main.{quoted(name)} ({listed}) SELECT {listed} FROM wanted.{quoted(name)}")
    _put_sequence(db, name)


def _kind(db: apsw.Connection, side: str, name: str) -> tuple[str, int] | None:
    row = db.execute(_KIND, (side, name)).fetchone()
    return None if row is None else (str(row[0]), int(row[1]))


def _columns(db: apsw.Connection, name: str, *, without_rowid: bool) -> list[str]:
    """Return what is copied of each row: also its number, where that is a column of no name."""
    rows = db.execute("SELECT name, pk, type FROM pragma_table_xinfo(?, 'wanted') WHERE hidden = 0", (name,)).fetchall()
    columns = [quoted(str(column)) for column, _, _ in rows]
    keys = [str(kind).upper() for _, pk, kind in rows if pk]
    if without_rowid or keys == ["INTEGER"]:
        return columns
    taken = {str(column).lower() for column, _, _ in rows}
    return [*[each for each in ("rowid", "oid", "_rowid_") if each not in taken][:1], *columns]


def _put_sequence(db: apsw.Connection, name: str) -> None:
    """Let AUTOINCREMENT go on from where it was."""
    there = {side for side in ("main", "wanted") if _kind(db, side, "sqlite_sequence") is not None}
    if "main" in there:
        db.execute("DELETE FROM main.sqlite_sequence WHERE name = ?", (name,))
    if there == {"main", "wanted"}:
        query = "INSERT INTO main.sqlite_sequence SELECT * FROM wanted.sqlite_sequence WHERE name = ?"
        db.execute(query, (name,))


def _dangling(db: apsw.Connection) -> Counter[tuple[object, ...]]:
    """Return the rows that refer to some that are not there."""
    return Counter(tuple(row) for row in db.execute("PRAGMA main.foreign_key_check"))


def _refuse_dangling(
    db: apsw.Connection, before: Counter[tuple[object, ...]], names: Sequence[str], component: str
) -> None:
    # Those that were there already are the application's own affair.
    fresh = _dangling(db) - before
    if not fresh:
        return
    pairs = sorted({(str(row[0]), str(row[2])) for row in fresh})
    what = "; ".join(f"{child} to {parent}" for child, parent in pairs[:_LISTED])
    together = sorted({*names, *(each for pair in pairs for each in pair)})
    raise ConflictError(
        "select.dangling", component=component, what=what, tables=" ".join(f"--table {each}" for each in together)
    )


def belonging(wanted: str, chosen: Sequence[str]) -> list[str]:
    """Return the tables of a private copy that the chosen ones refer to, or are referred to by, at any remove."""
    with closing(apsw.Connection(wanted, flags=apsw.SQLITE_OPEN_READONLY)) as db:
        references = _references(db)
    together = list(chosen)
    for name in together:  # which grows meanwhile
        together += [each for each in sorted(references.get(name, ())) if each not in together]
    return [each for each in together if each not in chosen]


def _references(db: apsw.Connection) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {}
    for child, parent in _foreign_keys(db):
        found.setdefault(child, set()).add(parent)
        found.setdefault(parent, set()).add(child)
    return found


def _foreign_keys(db: apsw.Connection) -> Iterator[tuple[str, str]]:
    names = {
        str(name).lower(): str(name)
        for (name,) in db.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    }
    for name in names.values():
        for (parent,) in db.execute('SELECT DISTINCT "table" FROM pragma_foreign_key_list(?)', (name,)):
            if str(parent).lower() in names:
                yield name, names[str(parent).lower()]
