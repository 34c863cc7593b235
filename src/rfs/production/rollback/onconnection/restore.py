"""Bringing a database on a connection to a snapshot, within the caller's open transaction, and reading it back."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence

import msgspec

from rfs.production.rollback import pg_fresh
from rfs.production.rollback.errors import IntegrityError, IrreversibleError
from rfs.production.rollback.onconnection.capture import list_tables, read_rows, read_sequences
from rfs.production.rollback.onconnection.connection import LONG, Connection, said
from rfs.production.rollback.onconnection.inventory import differences, take_inventory, within
from rfs.production.rollback.onconnection.snapshot import Name, Rows, Snapshot, quote
from rfs.production.rollback.onconnection.snapshot import Sequence as Stand

_SHOWN = 3
_KEYS = """
WITH RECURSIVE k AS (
    SELECT k.oid, k.conparentid FROM pg_catalog.pg_constraint k WHERE k.contype = 'f'
    AND (k.confrelid = ANY ($1::oid[]) AND ($2 OR NOT k.conrelid = ANY ($1::oid[]))
         OR $2 AND k.conrelid = ANY ($1::oid[]))
    UNION SELECT p.oid, p.conparentid FROM k JOIN pg_catalog.pg_constraint p ON p.oid = k.conparentid
)
SELECT f.conname, n.nspname, c.relname, pg_catalog.pg_get_constraintdef(f.oid) AS definition,
       pg_catalog.obj_description(f.oid, 'pg_constraint') AS comment
FROM k JOIN pg_catalog.pg_constraint f ON f.oid = k.oid AND f.conparentid = 0
JOIN pg_catalog.pg_class c ON c.oid = f.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY f.oid
"""


async def restore(connection: Connection, home: Name, then: Snapshot, now: Snapshot) -> None:
    """Bring the database from `now`, which was captured in this transaction, to `then`, and compare what there is.

    Raises:
        IntegrityError: what came of it is not what the checkpoint holds.
        IrreversibleError: something outside of the checkpoint's tables stands in the way.
    """
    outside = []
    if then.scope is not None:
        outside = within(await take_inventory(connection, home), then.scope, inside=False)
    if then.schema == now.schema:
        touched = await _refill(connection, then, now)
    else:
        touched = [rows.table for rows in then.rows]
        await _recreate(connection, home, then, now)
    await _read_back(connection, home, then, touched)
    if then.scope is not None:
        after = within(await take_inventory(connection, home), then.scope, inside=False)
        _require_equal(differences(outside, after))
    if touched:
        await connection.execute("ANALYZE " + ", ".join(table.quoted for table in touched), timeout=LONG)


async def _refill(connection: Connection, then: Snapshot, now: Snapshot) -> list[Name]:
    """Put the rows back into tables that are as they were; return those whose rows had changed."""
    digests = {rows.table: rows.digest for rows in now.rows}
    changed = [rows for rows in then.rows if not rows.extension and rows.digest != digests[rows.table]]
    tables = [rows.table for rows in changed]
    if changed:
        keys = await _drop_keys(connection, tables, own=True)
        triggers = await _silence_triggers(connection, tables)
        await connection.execute("TRUNCATE " + ", ".join(f"ONLY {table.quoted}" for table in tables))
        for rows in changed:
            await _write_rows(connection, rows)
        for statement in triggers + keys:
            await connection.execute(statement, timeout=LONG)
    stands = {each.sequence: each for each in now.sequences}
    for sequence in then.sequences:
        if stands[sequence.sequence] != sequence:
            # Only this way a failure takes the sequence back with everything else: setval alone would stay.
            await connection.execute(f"ALTER SEQUENCE {sequence.sequence.quoted} RESTART")
            await _set_sequence(connection, sequence)
    if changed and then.scope is None:
        await _refresh_views(connection)
    return tables


async def _recreate(connection: Connection, home: Name, then: Snapshot, now: Snapshot) -> None:
    """Remove what is there and make what was."""
    keys: list[str] = []
    if then.scope is None:
        drops, before, schemas = await _keep_what_stays(connection, home, then, now)
        await _reset_privileges(connection, schemas)
    else:
        tables = await list_tables(connection, home, then.scope)
        keys = await _drop_keys(connection, tables, own=False)
        await _drop_keys(connection, tables, own=True)
        before = then.schema.before
        # All at once: that they depend on each other is no obstacle; that others do is one.
        drops = f"DROP TABLE {', '.join(table.quoted for table in tables)}" if tables else ""
    await _run_script(connection, drops)
    await _run_script(connection, before)
    for rows in then.rows:
        if not rows.extension:
            await _write_rows(connection, rows)
    for sequence in then.sequences:
        await _set_sequence(connection, sequence)
    await _run_script(connection, then.schema.after)
    for statement in keys:
        await connection.execute(statement, timeout=LONG)


async def _run_script(connection: Connection, script: str) -> None:
    import asyncpg  # type: ignore[import-untyped]  # asyncpg tells no types; whoever has a connection has it

    if not script.strip():
        return
    try:
        await connection.execute(script, timeout=LONG)
    except asyncpg.DependentObjectsStillExistError as error:
        raise IrreversibleError("database.dependents", why=said(error)) from error


async def _keep_what_stays(
    connection: Connection, home: Name, then: Snapshot, now: Snapshot
) -> tuple[str, str, set[str]]:
    """Return what to drop and what to make, without the extensions that are the same; and the schemas that stay.

    An extension can be dropped and made anew only by who may, and only in its newest version.
    """
    drops, before = now.schema.drops, then.schema.before
    schemas = {home.schema}
    was = {entry.key: entry.value for entry in then.inventory if entry.key.startswith("extension ")}
    for entry in now.inventory:
        if was.get(entry.key) == entry.value and entry.key.startswith("extension "):
            name = entry.key.removeprefix("extension ")
            schemas.add(msgspec.json.decode(entry.value)[1])
            for written in {name, quote(name)}:
                drops = drops.replace(f"DROP EXTENSION IF EXISTS {written} CASCADE;\n", "")
                comment = rf"^--\n-- Name: EXTENSION {re.escape(written)}; Type: COMMENT;.*?(?=^--\n-- Name: |\Z)"
                before = re.sub(comment, "", before, flags=re.DOTALL | re.MULTILINE)
    for schema in schemas:
        written = await connection.fetchval("SELECT pg_catalog.quote_ident($1)", schema)
        drops = drops.replace(f"DROP SCHEMA IF EXISTS {written} CASCADE;\n", "")
        made = f"\nCREATE SCHEMA {written};\n"
        before = before.replace(made, made.replace("SCHEMA", "SCHEMA IF NOT EXISTS"), 1)
    return drops, before, schemas


async def _reset_privileges(connection: Connection, schemas: set[str]) -> None:
    """Take back what pg_dump takes for granted to be as in a new database: it only says what differs from that."""
    stay = sorted({"public", *schemas} - {"pg_catalog"})
    for query, values in ((pg_fresh.schemas("$1"), [stay]), (pg_fresh.DEFAULTS, [])):
        for _, statement in await connection.fetch(query, *values):
            await connection.execute(statement)


async def _drop_keys(connection: Connection, tables: Sequence[Name], *, own: bool) -> list[str]:
    """Drop the foreign keys that lead to some tables, and with `own` those that they have; return how to make them."""
    oids = [
        await connection.fetchval("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid", each.quoted) for each in tables
    ]
    statements = []
    for row in await connection.fetch(_KEYS, oids, own):
        table, name = Name(row["nspname"], row["relname"]).quoted, quote(row["conname"])
        await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        statements.append(f"ALTER TABLE {table} ADD CONSTRAINT {name} {row['definition']}")
        if row["comment"] is not None:
            words = await connection.fetchval("SELECT pg_catalog.quote_literal($1::text)", row["comment"])
            statements.append(f"COMMENT ON CONSTRAINT {name} ON {table} IS {words}")
    return statements


async def _silence_triggers(connection: Connection, tables: Sequence[Name]) -> list[str]:
    """Disable the triggers of some tables; return how to bring them back as they were."""
    words = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
    rows = await connection.fetch(
        "SELECT n.nspname, c.relname, t.tgname, t.tgenabled::text AS state FROM pg_catalog.pg_trigger t"
        " JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY t.oid"
    )
    statements = []
    for row in rows:
        table = Name(row["nspname"], row["relname"])
        if table in tables:
            await connection.execute(f"ALTER TABLE {table.quoted} DISABLE TRIGGER {quote(row['tgname'])}")
            statements.append(f"ALTER TABLE {table.quoted} {words[row['state']]} TRIGGER {quote(row['tgname'])}")
    return statements


async def _write_rows(connection: Connection, rows: Rows) -> None:
    if rows.count:
        await connection.copy_to_table(
            rows.table.name, schema_name=rows.table.schema, columns=rows.columns, source=_unpack(rows), timeout=LONG
        )


async def _unpack(rows: Rows) -> AsyncIterator[bytes]:
    from zstandard import ZstdDecompressor

    for chunk in ZstdDecompressor().read_to_iter(rows.data):
        yield chunk


async def _set_sequence(connection: Connection, each: Stand) -> None:
    await connection.fetchval(
        "SELECT pg_catalog.setval($1::text::pg_catalog.regclass, $2, $3)", each.sequence.quoted, each.last, each.called
    )


async def _refresh_views(connection: Connection) -> None:
    rows = await connection.fetch(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid"  # a view is younger than what it is made of
    )
    for row in rows:
        name = Name(row["nspname"], row["relname"])
        await connection.execute(f"REFRESH MATERIALIZED VIEW {name.quoted}", timeout=LONG)


async def _read_back(connection: Connection, home: Name, then: Snapshot, touched: Sequence[Name]) -> None:
    """Compare everything with the snapshot.

    Raises:
        IntegrityError: it names what differs.
    """
    there = await take_inventory(connection, home)
    wrong = differences(then.inventory, there if then.scope is None else within(there, then.scope))
    if not wrong:
        for rows in then.rows:
            if rows.table in touched or rows.extension:
                found = await read_rows(connection, rows.table, keep=False)
                if found.digest != rows.digest:
                    owner = f" (which belongs to the extension {rows.extension})" if rows.extension else ""
                    wrong.append(f"table {rows.table.schema}.{rows.table.name}{owner} has other rows")
        if await read_sequences(connection, then.scope) != then.sequences:
            wrong.append("a sequence stands elsewhere")
    _require_equal(wrong)


def _require_equal(wrong: Iterable[str]) -> None:
    found = list(wrong)
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise IntegrityError("database.differs", what="; ".join(found[:_SHOWN]) + more)
