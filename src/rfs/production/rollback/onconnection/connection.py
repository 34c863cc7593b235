"""What is needed of an asyncpg connection, and how a transaction of ours on it is begun and left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from rfs.production.rollback.errors import ConflictError, LockedError, RollbackError, UsageError
from rfs.production.rollback.pg_dump import OLDEST_SERVER

# A caller's command_timeout is meant for the queries of an application; a table is as large as it is.
LONG = 86400.0
# Rollbacks by a connection come one after the other.
_ADVISORY = 0x7266735F6462
# What the text form of a value depends on.
_TEXT_FORM = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "timezone": "UTC",
    "search_path": "",  # so that every name is said with its schema
    "row_security": "off",  # rows that a policy hides are an error, never silently missing
    "synchronize_seqscans": "off",  # the same rows in the same order
    "check_function_bodies": "off",  # a function may be created before what it speaks of
    "standard_conforming_strings": "on",
    "client_min_messages": "warning",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}


class Connection(Protocol):
    """The methods of `asyncpg.Connection` that are used; a connection of a pool has them too."""

    def is_closed(self) -> bool: ...
    def is_in_transaction(self) -> bool: ...
    def get_server_version(self) -> Any: ...
    def transaction(self, *, isolation: Any = None) -> Any: ...
    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str: ...
    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> Sequence[Any]: ...
    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> Any: ...
    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any: ...
    async def copy_from_table(
        self,
        table_name: str,
        *,
        output: Callable[[bytes], Awaitable[None]],
        columns: Sequence[str] | None = None,
        schema_name: str | None = None,
        timeout: float | None = None,
    ) -> str: ...
    async def copy_to_table(
        self,
        table_name: str,
        *,
        source: AsyncIterator[bytes],
        columns: Sequence[str] | None = None,
        schema_name: str | None = None,
        timeout: float | None = None,
    ) -> str: ...


def require_usable(connection: object) -> Connection:
    """Return the connection, typed.

    Raises:
        UsageError: it is no open asyncpg connection, the caller is inside a transaction, or the server is too old.
    """
    if not hasattr(connection, "copy_to_table") or not hasattr(connection, "is_in_transaction"):
        raise UsageError("database.connection", given=type(connection).__name__)
    usable: Connection = connection  # type: ignore[assignment]  # asyncpg tells no types
    if usable.is_closed():
        raise UsageError("database.closed")
    if usable.is_in_transaction():
        raise UsageError("database.in_transaction")
    major = usable.get_server_version().major
    if major < OLDEST_SERVER:
        raise UsageError("database.old_server", version=major, oldest=OLDEST_SERVER)
    return usable


@asynccontextmanager
async def transaction(
    connection: Connection, lock_timeout: float, first: str | None = None
) -> AsyncIterator[dict[str, str]]:
    """Run the body in one transaction, and leave the caller's session as it was; yields its settings for `usual`.

    Args:
        lock_timeout: seconds that any lock is waited for.
        first: with it, all of the transaction sees the database at one moment, which comes after this statement.
            A table that is truncated or rewritten after that moment and before it is locked would look empty.
    """
    before = await _settings(connection)
    async with connection.transaction(isolation="read_committed" if first is None else "repeatable_read"):
        await connection.execute(f"SET LOCAL lock_timeout = {max(1, round(lock_timeout * 1000))}")
        if first:
            await connection.execute(first)
        await set_local(connection, _TEXT_FORM)
        yield {name: before[name] for name in _TEXT_FORM if name in before}
        after = await _settings(connection)
        # SET inside of a script or a dump outlives the transaction.
        for name, value in before.items():
            if after.get(name) != value:
                await connection.execute("SELECT pg_catalog.set_config($1, $2, false)", name, value)


async def set_local(connection: Connection, settings: dict[str, str]) -> None:
    """Set settings until the end of the transaction."""
    for name, value in settings.items():
        await connection.fetchval("SELECT pg_catalog.set_config($1, $2, true)", name, value)


async def alone(connection: Connection) -> None:
    """Wait until nobody else rolls back this database by a connection; holds until the transaction ends."""
    await connection.fetchval("SELECT pg_catalog.pg_advisory_xact_lock($1)", _ADVISORY)


def expected(error: BaseException) -> RollbackError | None:
    """Return what a user is told of an error of asyncpg; None when it is no error of the server or the network."""
    import asyncpg  # type: ignore[import-untyped]  # asyncpg tells no types; whoever has a connection has it

    lost = isinstance(error, asyncpg.InterfaceError) and "closed" in str(error)
    if isinstance(error, asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError):
        found: RollbackError | None = LockedError("database.locked", why=said(error))
    elif isinstance(error, asyncpg.SerializationError):
        found = ConflictError("database.moved", why=said(error))
    elif lost or isinstance(error, asyncpg.PostgresConnectionError | asyncpg.AdminShutdownError | OSError):
        found = RollbackError("database.lost", why=said(error))
    elif isinstance(error, asyncpg.InsufficientPrivilegeError):
        found = UsageError("database.denied", why=said(error))
    elif isinstance(error, asyncpg.PostgresError):
        found = RollbackError("database.refused", why=said(error))
    else:
        found = None
    return found


def said(error: BaseException) -> str:
    """Return what the server said, on one line and without its full stop."""
    where = getattr(error, "detail", None)
    text = error.args[0] if where and error.args else error  # an asyncpg error's own text has its detail in it
    return " ".join(f"{text}{f' ({where})' if where else ''}".split()).rstrip(".")


async def _settings(connection: Connection) -> dict[str, str]:
    rows = await connection.fetch(
        "SELECT pg_catalog.lower(name) AS name, pg_catalog.current_setting(name) AS value FROM pg_catalog.pg_settings"
        " WHERE context IN ('user', 'superuser') AND name !~ '^transaction_|^seed$|^role$|^session_authorization$'"
        " AND (context = 'user' OR source = 'session')"
    )
    return {row["name"]: row["value"] for row in rows}
