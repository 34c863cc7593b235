"""`migration_history(version, down_script, …)` on a connection: what is in force, and taking it back."""

from __future__ import annotations

from collections.abc import Sequence

from rfs.production.rollback.errors import IntegrityError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.migrating import Applied, version_key
from rfs.production.rollback.onconnection.connection import LONG, Connection, said, set_local
from rfs.production.rollback.onconnection.snapshot import Name
from rfs.production.rollback.sqltext import in_one_transaction


async def find_history(connection: Connection) -> Name | None:
    """Return where `migration_history` is, by the caller's search path; None where there is none, or another one."""
    row = await connection.fetchrow(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = pg_catalog.to_regclass('migration_history') AND (SELECT pg_catalog.count(*)"
        " FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped"
        " AND a.attname IN ('version', 'down_script')) = 2"
    )
    return None if row is None else Name(row["nspname"], row["relname"])


async def read_history(connection: Connection, table: Name) -> list[Applied]:
    """Return the migrations in force, oldest first."""
    rows = await connection.fetch(f"SELECT version::text AS version, down_script FROM {table.quoted}")
    found = [Applied(row["version"], row["down_script"]) for row in rows]
    return sorted(found, key=lambda each: version_key(each.version))


def require_history(table: Name | None) -> Name:
    """Return the table.

    Raises:
        NotFoundError: there is none.
    """
    if table is None:
        raise NotFoundError("migration.no_history")
    return table


async def take_back(connection: Connection, table: Name, way: Sequence[Applied], usual: dict[str, str]) -> None:
    """Run the scripts of a way, newest first, and remove each one's row; within the caller's open transaction.

    Args:
        usual: the settings of the session, which scripts are written for.

    Raises:
        UsageError: a script has transactions of its own.
        RollbackError: a script fails.
        IntegrityError: the rows are not what they should be afterwards.
    """
    import asyncpg  # type: ignore[import-untyped]  # asyncpg tells no types; whoever has a connection has it

    scripts = [in_one_transaction(each.down or "", f"The down script of {each.version}") for each in way]
    kept = {each.version for each in await read_history(connection, table)} - {each.version for each in way}
    for each, script in zip(way, scripts, strict=True):
        await set_local(connection, usual)  # the one before may have set others
        try:
            await connection.execute(script, timeout=LONG)
            await connection.execute(f"DELETE FROM {table.quoted} WHERE version::text = $1", each.version)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.PostgresConnectionError):
            raise  # the script is not to blame
        except asyncpg.ActiveSQLTransactionError as error:
            raise UsageError(
                "migration.transaction", what=f"The down script of {each.version}", statement=said(error)
            ) from error
        except asyncpg.PostgresError as error:
            raise RollbackError("migration.failed", version=each.version, why=said(error)) from error
    left = {each.version for each in await read_history(connection, table)}
    if left != kept:
        raise IntegrityError("migration.rows", table=table.name)
