"""DatabaseRollbackManager: checkpoints, rollbacks and migrations of one database, on a connection of the caller's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rfs.core.result import Failure, Result, Success
from rfs.production.rollback.errors import ConflictError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.migrating import Applied, covering, lacking, way_down
from rfs.production.rollback.onconnection import capture, history, snapshot
from rfs.production.rollback.onconnection.connection import (
    Connection,
    alone,
    expected,
    require_usable,
    said,
    set_local,
    transaction,
)
from rfs.production.rollback.onconnection.dump import find_pg_dump
from rfs.production.rollback.onconnection.restore import restore
from rfs.production.rollback.onconnection.snapshot import Name, Snapshot

if TYPE_CHECKING:
    from rfs.production.rollback.onconnection.whole import WholeDatabase

T = TypeVar("T")


class DatabaseRollbackManager:
    """Checkpoints of one PostgreSQL database in its own table `db_checkpoints`, and the way back to them.

    Everything happens on the connection that is given, in place, in one transaction; beside it runs pg_dump, which
    reads the schema in that transaction's snapshot. While a call runs, nothing else may use the connection.

    With a DSN or the name of a database component of rfs.toml the whole driver does it instead, as with `rfs`:
    checkpoints in the store, on PostgreSQL a restore beside the live database, services stopped where there are some.

    Args:
        connection: an asyncpg connection that is in no transaction, of a role that owns what is to be restored; or a
            DSN, also "sqlite:///PATH" or "env:NAME"; or a component's name.
        tables: only these, schema and rows; their partitions and the sequences of their columns go with them.
            Without it: the whole database, but not its own settings and large objects. For a connection alone.

    Attributes:
        lock_timeout: seconds that a lock is waited for, 5 unless set; on a connection.
        store: folder of the store for a DSN; by default rfs makes one for each database.
    """

    lock_timeout = 5.0
    store: str | None = None

    def __init__(self, connection: object, *, tables: Sequence[str] | None = None) -> None:
        self.connection = connection
        self._tables = tables

    async def create_database_checkpoint(self, name: str) -> Result[str, RollbackError]:
        """Take a checkpoint while others go on writing; all of it is of one moment.

        Args:
            name: for people; need not be unique.

        Returns:
            Success of its id. A Failure when the caller is inside a transaction, a table is not there or is locked,
            there is no pg_dump for this server, or something could not be made again by this role.
        """
        if isinstance(self.connection, str):
            return await self._wholly(self.connection, lambda whole: whole.create(name))
        return await self._answer(lambda connection: self._create(connection, name))

    async def rollback_database(self, checkpoint_id: str) -> Result[dict[str, str], RollbackError]:
        """Bring the database to a checkpoint: take a backup, restore schema, then rows, read back, validate.

        `db_checkpoints` itself stays as it is. What did not change is not touched.

        Returns:
            Success of `{"checkpoint_id", "backup_id", "status": "completed"}`; the backup is a checkpoint of the
            state before. After a Failure the database is in the state before.
        """
        if isinstance(self.connection, str):
            return await self._wholly(self.connection, lambda whole: whole.roll_back(checkpoint_id))
        return await self._answer(lambda connection: self._rollback(connection, checkpoint_id))

    async def rollback_migration(self, version: str) -> Result[str, RollbackError]:
        """Take back every migration after a version, newest first: its down script, then its row in the history.

        Where one has no down script, the newest checkpoint of the whole database that was taken before it was
        applied is restored instead of it and of those after it, after a backup. All of it is one transaction. With a
        DSN or a component it has to be a checkpoint at just that version, and is an ordinary rollback.

        Args:
            version: the newest that stays.

        Returns:
            Success of "N migrations rolled back to VERSION". A Failure when there is nothing after the version, a
            migration has no down script and no checkpoint covers it (nothing was touched), or a script fails (the
            database is in the state before).
        """
        if isinstance(self.connection, str):
            return await self._wholly(self.connection, lambda whole: whole.migrate(str(version)))
        return await self._answer(lambda connection: self._migrate(connection, str(version)))

    async def validate_database(self) -> Any:
        """Say whether the restored database is well, before it is committed. A hook, sync or async: override it.

        By now everything was compared with the checkpoint. With a DSN or a component it is live already.

        Returns:
            False or a Failure, or an exception, brings back the state before.
        """
        return True

    async def _wholly(
        self, given: str, act: Callable[[WholeDatabase], Coroutine[Any, Any, Result[T, RollbackError]]]
    ) -> Result[T, RollbackError]:
        from rfs.production.rollback.onconnection.whole import WholeDatabase

        if self._tables is not None:
            return Failure(UsageError("database.tables"))
        return await act(WholeDatabase(given, self.validate_database, self.store))

    async def _answer(self, act: Callable[[Connection], Coroutine[Any, Any, T]]) -> Result[T, RollbackError]:
        try:
            connection = require_usable(self.connection)
        except RollbackError as error:
            return Failure(error)
        try:
            return Success(await act(connection))
        except RollbackError as error:
            return Failure(error)
        except Exception as error:  # only what the server or the network says becomes a Failure
            failure = expected(error)
            if failure is None:
                raise
            failure.__cause__ = error
            return Failure(failure)

    async def _create(self, connection: Connection, name: str) -> str:
        import asyncpg  # type: ignore[import-untyped]  # asyncpg tells no types; whoever has a connection has it

        program = await find_pg_dump(connection.get_server_version().major)
        there = await snapshot.find_home(connection)
        home = there or await snapshot.new_home(connection)
        past = await history.find_history(connection)
        scope = None if self._tables is None else await capture.resolve(connection, self._tables)
        for _ in range(capture.ATTEMPTS):
            tables = await capture.list_tables(connection, home, scope)
            first = capture.lock_statement(tables, "ACCESS SHARE")
            try:
                async with transaction(connection, self.lock_timeout, first):
                    if await capture.list_tables(connection, home, scope) != tables:
                        continue  # one came or went before it could be held
                    versions = await _versions(connection, past)
                    taken = await capture.capture(connection, program, home, scope, versions)
                    if there is None:
                        await alone(connection)
                        await snapshot.make_home(connection, home)
                    return await snapshot.put(connection, home, name, taken)
            except asyncpg.UndefinedTableError:
                continue
        raise ConflictError("database.moved", why="tables were made or removed meanwhile")

    async def _rollback(self, connection: Connection, checkpoint_id: str) -> dict[str, str]:
        program = await find_pg_dump(connection.get_server_version().major)
        home = await snapshot.find_home(connection)
        past = await history.find_history(connection)
        if home is None:
            raise NotFoundError("database.no_checkpoint", checkpoint=checkpoint_id, table="db_checkpoints")
        async with transaction(connection, self.lock_timeout) as usual:
            await alone(connection)
            then = await snapshot.get(connection, home, checkpoint_id)
            backup = await self._bring(connection, program, (home, past), checkpoint_id, then)
            await self._validate(connection, usual)
        return {"checkpoint_id": checkpoint_id, "backup_id": backup, "status": "completed"}

    async def _migrate(self, connection: Connection, version: str) -> str:
        past = history.require_history(await history.find_history(connection))
        home = await snapshot.find_home(connection)
        async with transaction(connection, self.lock_timeout) as usual:
            await alone(connection)
            await connection.execute(capture.lock_statement([past], "EXCLUSIVE"))
            applied = await history.read_history(connection, past)
            way = way_down(applied, version)
            if lacking(way):
                way = await self._cover(connection, home, past, applied, way)
                await self._validate(connection, usual)
            await history.take_back(connection, past, way, usual)
            count = len(applied) - len(await history.read_history(connection, past))
        return f"{count} migration{'' if count == 1 else 's'} rolled back to {version}"

    async def _cover(
        self, connection: Connection, home: Name | None, past: Name, applied: list[Applied], way: list[Applied]
    ) -> list[Applied]:
        """Restore the checkpoint that covers what has no script; return the rest of the way."""
        missing = ", ".join(lacking(way))
        if home is None:
            raise UsageError("migration.no_way", versions=missing)
        program = await find_pg_dump(connection.get_server_version().major)
        kept = [each.version for each in applied if each not in way]
        whole = await snapshot.whole_ones(connection, home)
        chosen = covering(way, kept, [versions for _, versions in whole])
        if chosen is None:
            raise UsageError("migration.no_way", versions=missing)
        checkpoint_id, versions = whole[chosen]
        then = await snapshot.get(connection, home, checkpoint_id)
        await self._bring(connection, program, (home, past), checkpoint_id, then)
        return [each for each in way if each.version in (versions or ())]

    async def _bring(
        self, connection: Connection, program: str, places: tuple[Name, Name | None], checkpoint_id: str, then: Snapshot
    ) -> str:
        """Hold everybody off, take the backup, restore; return the backup's id. `places` are our two tables."""
        home, past = places
        await capture.hold_tables(connection, home, then.scope)
        now = await capture.capture(connection, program, home, then.scope, await _versions(connection, past))
        backup = await snapshot.put(connection, home, f"before the rollback to {checkpoint_id}", now)
        await restore(connection, home, then, now)
        return backup

    async def _validate(self, connection: Connection, usual: dict[str, str]) -> None:
        await set_local(connection, usual)  # the caller's check names tables as the caller does
        ours = await _transaction_id(connection)
        try:
            verdict = self.validate_database()
            if inspect.isawaitable(verdict):
                verdict = await verdict
        except Exception as error:  # whatever the caller's check raises: it does not pass
            if connection.is_closed():
                raise
            await _require_same(connection, ours)
            raise RollbackError("database.invalid", why=said(error) or type(error).__name__) from error
        await _require_same(connection, ours)
        if verdict is False or isinstance(verdict, Failure):
            why = "validate_database said no" if verdict is False else said(verdict.error)
            raise RollbackError("database.invalid", why=why)


async def _transaction_id(connection: Connection) -> str:
    return str(await connection.fetchval("SELECT pg_catalog.pg_current_xact_id()::text"))


async def _require_same(connection: Connection, ours: str) -> None:
    """Make sure that nobody ended our transaction: what it did would stand already, or be gone.

    Raises:
        ConflictError: it is over.
    """
    import asyncpg

    try:
        if await _transaction_id(connection) != ours:
            raise ConflictError("database.committed")
    except asyncpg.InFailedSQLTransactionError:
        return  # still open, and it can only be rolled back


async def _versions(connection: Connection, past: Name | None) -> list[str] | None:
    return None if past is None else [each.version for each in await history.read_history(connection, past)]
