"""Taking a snapshot: which tables there are, held still, with their rows, sequences and schema."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import TYPE_CHECKING

from rfs.production.rollback.errors import ConflictError, NotFoundError
from rfs.production.rollback.onconnection.connection import LONG, Connection
from rfs.production.rollback.onconnection.dump import dump_schema
from rfs.production.rollback.onconnection.inventory import require_recreatable, take_inventory, within
from rfs.production.rollback.onconnection.snapshot import Name, Rows, Sequence, Snapshot

if TYPE_CHECKING:
    from blake3 import blake3 as Digest  # noqa: N812  # it is a class

ATTEMPTS = 5
_TABLES = """
SELECT n.nspname, c.relname, c.relkind::text AS relkind, e.extname
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
LEFT JOIN pg_catalog.pg_depend d ON d.objid = c.oid AND d.deptype = 'e'
     AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
"""
_SEQUENCES = """
SELECT n.nspname, c.relname, t.relname AS owner, m.nspname AS owner_schema
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
LEFT JOIN pg_catalog.pg_depend d ON d.objid = c.oid AND d.deptype IN ('a', 'i')
     AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
LEFT JOIN pg_catalog.pg_namespace m ON m.oid = t.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't'
AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e WHERE e.objid = c.oid AND e.deptype = 'e'
                AND e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass)
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
"""


async def resolve(connection: Connection, tables: Many[str]) -> list[Name]:
    """Return the tables of these names, by the caller's search path, and the partitions of those that have some.

    Raises:
        NotFoundError: there is no table of that name.
    """
    found: set[Name] = set()
    for table in tables:
        rows = await connection.fetch(
            "WITH RECURSIVE t AS (SELECT c.oid, c.relkind FROM pg_catalog.pg_class c"
            " WHERE c.oid = pg_catalog.to_regclass($1) AND c.relkind IN ('r', 'p')"
            " UNION SELECT c.oid, c.relkind FROM t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid"
            " JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p'))"
            " SELECT n.nspname, c.relname FROM t JOIN pg_catalog.pg_class c ON c.oid = t.oid"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace",
            table,
        )
        if not rows:
            raise NotFoundError("database.no_such_table", name=table)
        found |= {Name(row["nspname"], row["relname"]) for row in rows}
    return sorted(found)


async def list_tables(connection: Connection, home: Name | None, scope: Many[Name] | None) -> list[Name]:
    """Return the tables of the scope that are there; a statement of its own, which sees the present."""
    return [table for table, _, _ in await _list(connection, home, scope)]


async def hold_tables(connection: Connection, home: Name, scope: Many[Name] | None) -> None:
    """Keep everybody from writing to any table of the scope, until the transaction ends.

    Raises:
        ConflictError: tables come and go while they are being locked.
    """
    held: list[Name] = []
    for _ in range(ATTEMPTS):
        missing = [table for table in await list_tables(connection, home, scope) if table not in held]
        if not missing:
            return
        await connection.execute(lock_statement(missing, "EXCLUSIVE"))  # pg_dump may still read
        held += missing
    raise ConflictError("database.moved", why="tables were made or removed meanwhile")


def lock_statement(tables: Many[Name], mode: str) -> str:
    """Return the statement that locks tables; "" for none."""
    words = ", ".join(f"ONLY {table.quoted}" for table in tables)
    return f"LOCK TABLE {words} IN {mode} MODE" if tables else ""


async def capture(
    connection: Connection, program: str, home: Name, scope: Many[Name] | None, migrations: list[str] | None
) -> Snapshot:
    """Return what is there, as the transaction sees it.

    Args:
        program: pg_dump.
        home: `db_checkpoints`, which is no part of it.
        scope: the tables that it is restricted to; None for the whole database.
    """
    if scope is None:
        await require_recreatable(connection)
    tables = await _list(connection, home, scope)
    own = [table for table, _, extension in tables if not extension]
    inventory = await take_inventory(connection, home)
    schema = await dump_schema(connection, program, home, None if scope is None else own)
    rows = [
        await read_rows(connection, table, keep=True, extension=extension)
        for table, kind, extension in tables
        if kind == "r"
    ]
    return Snapshot(
        scope=None if scope is None else list(scope),
        schema=schema,
        rows=rows,
        sequences=await read_sequences(connection, scope),
        inventory=inventory if scope is None else within(inventory, scope),
        migrations=migrations,
    )


async def read_rows(connection: Connection, table: Name, *, keep: bool, extension: str = "") -> Rows:
    """Return a table's own rows, or with `keep` False their digest alone."""
    from blake3 import blake3
    from zstandard import ZstdCompressor

    columns = await connection.fetch(
        "SELECT attname, attgenerated::text AS generated FROM pg_catalog.pg_attribute"
        " WHERE attrelid = pg_catalog.to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        table.quoted,
    )
    names = [row["attname"] for row in columns if not row["generated"]]
    digest: Digest = blake3()
    packer = ZstdCompressor(level=3).compressobj()
    kept: list[bytes] = []

    async def take(data: bytes) -> None:
        digest.update(data)
        if keep:
            kept.append(packer.compress(data))

    status = await connection.copy_from_table(
        table.name, schema_name=table.schema, columns=names or None, output=take, timeout=LONG
    )
    if keep:
        kept.append(packer.flush())
    return Rows(table, names or None, int(status.split()[-1]), digest.hexdigest(), b"".join(kept), extension)


async def read_sequences(connection: Connection, scope: Many[Name] | None) -> list[Sequence]:
    """Return where the sequences stand: all of them, or those that belong to the tables of the scope."""
    found = []
    for row in await connection.fetch(_SEQUENCES):
        if scope is not None and (row["owner"] is None or Name(row["owner_schema"], row["owner"]) not in scope):
            continue
        name = Name(row["nspname"], row["relname"])
        at = await connection.fetchrow(f"SELECT last_value, is_called FROM {name.quoted}")  # it is quoted
        found.append(Sequence(name, at["last_value"], at["is_called"]))
    return found


async def _list(connection: Connection, home: Name | None, scope: Many[Name] | None) -> list[tuple[Name, str, str]]:
    """Return the tables that are there: name, kind, and the extension that made it or ""."""
    found = []
    for row in await connection.fetch(_TABLES):
        name = Name(row["nspname"], row["relname"])
        if name != home and (scope is None or name in scope):
            found.append((name, row["relkind"], row["extname"] or ""))
    return found
