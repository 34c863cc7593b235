"""The shop's database, in SQLite or PostgreSQL: what the rest of the program sees of either."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


class Cursor(Protocol):
    """What a statement gave; rows are read by the names of their columns."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """A connection in autocommit mode; a transaction is opened with `transaction`.

    Statements are written once, with "?" where a value belongs.
    """

    begin: str

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Cursor: ...

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None: ...

    def run(self, script: str) -> None:
        """Run the statements of a script; it opens and commits its own transactions."""

    def schema_version(self) -> int: ...

    def check(self) -> str:
        """Return "ok", or what is wrong with the database."""

    def created(self) -> None:
        """Say that rows were inserted with numbers of their own, after which the database numbers on."""

    def close(self) -> None: ...


def connect(place: Path | str) -> Connection:
    """Return a connection to the SQLite database at a path, or to the PostgreSQL database of a URL."""
    if isinstance(place, Path):
        from app.in_sqlite import Sqlite

        return Sqlite(place)
    from app.in_postgresql import Postgresql

    return Postgresql(place)


def schema(place: Path | str) -> str:
    """Return the script that makes the shop's tables there."""
    name = "sqlite" if isinstance(place, Path) else "postgresql"
    return (Path(__file__).parent / f"schema_{name}.sql").read_text(encoding="utf-8")


@contextmanager
def opened(place: Path | str) -> Iterator[Connection]:
    """Yield a connection and close it."""
    connection = connect(place)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def transaction(connection: Connection) -> Iterator[Connection]:
    """Commit what the block did, or none of it."""
    connection.execute(connection.begin)
    try:
        yield connection
    except BaseException:  # an interruption too must not leave it open
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def ledger_sum(connection: Connection) -> int:
    """Return the sum of all amounts in the ledger; 0 unless something is wrong."""
    [row] = connection.execute("SELECT coalesce(sum(amount_cents), 0) AS total FROM ledger").fetchall()
    return int(row["total"])
