"""An independent look at files and rows: what the demo believes instead of what rfs says."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

Rows = dict[str, list[tuple[Any, ...]]]


class Entry(NamedTuple):
    """All that can be seen of one file, folder or link.

    Attributes:
        kind: "file", "folder", "link" or "other".
        mode: permission bits.
        mtime: nanoseconds.
        content: SHA-256 of a file, the text of a link, "" of anything else.
        xattrs: names and values, sorted.
        twins: the other names of the same file, sorted.
    """

    kind: str
    mode: int
    owner: int
    group: int
    mtime: int
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    twins: tuple[str, ...]


def files(root: Path, ignore: Callable[[str], bool]) -> dict[str, Entry]:
    """Return everything in `root` by its path relative to it; the root itself is ".".

    Args:
        ignore: told a relative path; true leaves it out, and of a folder all that is in it.
    """
    paths = [".", *_below(root, "", ignore)]
    names: dict[tuple[int, int], list[str]] = {}
    for path in paths:
        found = (root / path).lstat()
        if stat.S_ISREG(found.st_mode):
            names.setdefault((found.st_dev, found.st_ino), []).append(path)
    return {path: _entry(root / path, path, names) for path in paths}


def _below(root: Path, folder: str, ignore: Callable[[str], bool]) -> Iterator[str]:
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            path = f"{folder}{entry.name}"
            if ignore(path):
                continue
            yield path
            if entry.is_dir(follow_symlinks=False):
                yield from _below(root, f"{path}/", ignore)


def _entry(path: Path, name: str, names: dict[tuple[int, int], list[str]]) -> Entry:
    found = path.lstat()
    kind, content, twins = "other", "", []
    if stat.S_ISREG(found.st_mode):
        kind, content = "file", sha256(path.read_bytes()).hexdigest()
        twins = [twin for twin in names[found.st_dev, found.st_ino] if twin != name]
    elif stat.S_ISDIR(found.st_mode):
        kind = "folder"
    elif stat.S_ISLNK(found.st_mode):
        kind, content = "link", str(path.readlink())
    mode = stat.S_IMODE(found.st_mode)
    return Entry(kind, mode, found.st_uid, found.st_gid, found.st_mtime_ns, content, _xattrs(path), tuple(twins))


def _xattrs(path: Path) -> tuple[tuple[str, bytes], ...]:
    if not hasattr(os, "listxattr"):  # only Linux has these calls
        return ()
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def rows(database: Path) -> Rows:
    """Return every row of every table in the order of its key, and the schema as the table "sqlite_schema"."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        connection.execute("BEGIN")
        schema = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
        ).fetchall()
        found: Rows = {"sqlite_schema": schema}
        found["user_version"] = connection.execute("PRAGMA user_version").fetchall()
        for kind, name, _, _ in schema:
            if kind == "table":
                columns = connection.execute("SELECT count(*) FROM pragma_table_info(?)", (name,)).fetchone()[0]
                order = ", ".join(str(number) for number in range(1, columns + 1))
                quoted = name.replace('"', '""')
                found[name] = connection.execute(f'SELECT * FROM "{quoted}" ORDER BY {order}').fetchall()  # noqa: S608 - quoted above
        return found


_CATALOGS = {
    "columns": """SELECT table_schema, table_name, column_name, data_type, is_nullable, column_default, is_identity
        FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2, ordinal_position""",
    "constraints": """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2",
    "sequences": "SELECT sequencename, start_value, increment_by, last_value FROM pg_sequences ORDER BY 1",
    "owners": """SELECT relname, pg_get_userbyid(relowner), relacl::text
        FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1""",
}


def rows_on_server(url: str) -> Rows:
    """Return every row of every table of a PostgreSQL database in the order of its columns, and the schema beside."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        found: Rows = {f"schema: {name}": connection.execute(query).fetchall() for name, query in _CATALOGS.items()}
        widths = Counter(column[1] for column in found["schema: columns"])
        for table, columns in widths.items():
            order = sql.SQL(", ").join(map(sql.Literal, range(1, columns + 1)))
            query = sql.SQL("SELECT * FROM {} ORDER BY {}").format(sql.Identifier(table), order)
            found[table] = connection.execute(query).fetchall()
        return found


def file_differences(wanted: dict[str, Entry], found: dict[str, Entry]) -> list[str]:
    """Return one line for each path that is not as it was; none when all are."""
    lines = [f"{path}: is missing" for path in sorted(wanted.keys() - found.keys())]
    lines += [f"{path}: should not be there" for path in sorted(found.keys() - wanted.keys())]
    for path in sorted(wanted.keys() & found.keys()):
        then, now = wanted[path], found[path]
        if then != now:
            what = [
                f"{field} {was!r} → {have!r}"
                for field, was, have in zip(Entry._fields, then, now, strict=True)
                if was != have
            ]
            lines.append(f"{path}: {', '.join(what)}")
    return lines


def row_differences(wanted: Rows, found: Rows) -> list[str]:
    """Return one line for each table that is not as it was; none when all are."""
    lines = []
    for table in sorted(wanted.keys() | found.keys()):
        then, now = wanted.get(table), found.get(table)
        if then is None or now is None:
            lines.append(f"{table}: {'should not be there' if then is None else 'is missing'}")
        elif then != now:
            other = [pair for pair in zip(then, now, strict=False) if pair[0] != pair[1]]
            first = f", first {other[0][0]} → {other[0][1]}" if other else ""
            lines.append(f"{table}: {len(then)} rows → {len(now)}, {len(other)} of them other{first}")
    return lines
