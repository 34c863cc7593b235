"""A number that a database answers: PostgreSQL or SQLite, in a transaction that may only read."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import msgspec

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.secret import absolute, resolve_secret
from rfs.production.rollback.settings import ComponentTable
from rfs.production.rollback.sources.base import Figure, NoFigureError, Source, SourceContext, number, observations

_KINDS = ("postgresql", "sqlite")
_EVERY = 1000  # of SQLite's steps, some microseconds


class Sql(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A database query.

    Attributes:
        sql: a query that gives one row: a number, and perhaps how many observations it stands for. No row, or NULL, is
            no data.
        component: which database component answers it; may be left out where there is one only.
        dsn: of a PostgreSQL server that is no component; may be a secret: "env:NAME", "file:PATH", "cmd:…".
        path: of a SQLite file that is no component.
    """

    sql: str
    component: str | None = None
    dsn: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if not self.sql.strip():
            raise ValueError("sql takes a query")
        if sum(key is not None for key in (self.component, self.dsn, self.path)) > 1:
            raise ValueError("it takes one of component, dsn and path")

    def open(self, context: SourceContext) -> Source:
        """See SourceSpec."""
        if self.dsn is not None:
            return _Postgresql(context, self.sql, self.dsn)
        if self.path is not None:
            return _Sqlite(context, self.sql, self.path)
        component = self._component(context)
        if component.kind == "postgresql":
            return _Postgresql(context, self.sql, str(component.options.get("dsn", "")))
        return _Sqlite(context, self.sql, str(component.options.get("path", "")))

    def _component(self, context: SourceContext) -> ComponentTable:
        databases = [each for each in context.components if each.kind in _KINDS]
        named = [each for each in databases if self.component in (None, each.name)]
        if len(named) == 1:
            return named[0]
        if self.component is not None:
            raise RollbackError("source.component", component=self.component)
        names = ", ".join(each.name for each in databases) or "none"
        raise RollbackError("source.which_database", names=names)


class _Postgresql(Source):
    def __init__(self, context: SourceContext, sql: str, dsn: str) -> None:
        super().__init__(context)
        self._sql, self._dsn = sql, dsn

    def figure(self) -> Figure:
        try:
            import psycopg  # 60 ms, and few conditions ask a database
        except ImportError as error:
            raise RollbackError("source.extra", extra="postgresql") from error
        milliseconds = max(1, round(self.context.timeout * 1000))
        dsn = resolve_secret(self._dsn, self.context.home)
        try:
            psycopg.conninfo.conninfo_to_dict(dsn)
        except psycopg.Error:
            raise NoFigureError("the dsn is no connection string") from None  # its text quotes the dsn
        try:
            with closing(
                psycopg.connect(
                    dsn,
                    autocommit=False,
                    application_name="rfs condition",
                    connect_timeout=max(2, round(self.context.timeout)),
                )
            ) as connection:
                connection.read_only = True
                # For this transaction only: a pool between may hand the session on.
                connection.execute(f"SET LOCAL statement_timeout = {milliseconds}")
                connection.execute("SET LOCAL idle_in_transaction_session_timeout = '1min'")
                cursor = connection.execute(self._sql)
                return _row(cursor.fetchmany(2) if cursor.description is not None else None)
        except psycopg.errors.QueryCanceled as error:
            why = f"the database did not answer within {self.context.timeout:g} s"
            raise NoFigureError(why) from error
        except psycopg.Error as error:
            # Its first line; what follows may quote the query's data, and a failed connection the addresses.
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise NoFigureError(lines[0] if lines else type(error).__name__) from error


class _Sqlite(Source):
    def __init__(self, context: SourceContext, sql: str, path: str) -> None:
        super().__init__(context)
        self._sql, self._path = sql, absolute(path, context.home)

    def figure(self) -> Figure:
        import apsw

        deadline = time.monotonic() + self.context.timeout
        try:
            with closing(apsw.Connection(self._path, flags=apsw.SQLITE_OPEN_READONLY)) as connection:
                connection.set_busy_timeout(max(1, round(self.context.timeout * 1000)))
                connection.set_progress_handler(
                    lambda: self._closed.is_set() or time.monotonic() > deadline, nsteps=_EVERY
                )
                connection.execute("PRAGMA query_only = on")
                rows: Any = connection.execute(self._sql)
                return _row([row for row, _ in zip(rows, range(2), strict=False)])
        except apsw.InterruptError as error:
            why = f"the database did not answer within {self.context.timeout:g} s"
            raise NoFigureError(why) from error
        except apsw.Error as error:
            raise NoFigureError(str(error)) from error


def _row(rows: Iterable[tuple[object, ...]] | None) -> Figure:
    """Return what the rows of a query say. Raises NoFigureError."""
    found = None if rows is None else list(rows)
    if found is None:
        raise NoFigureError("the statement gives no rows; it takes a query")
    if not found:
        return Figure(None)
    if len(found) > 1:
        raise NoFigureError("the query gives several rows; it must give one")
    if not 1 <= len(found[0]) <= 2:
        why = f"the query gives {len(found[0])} columns; it must give a number, and perhaps a count"
        raise NoFigureError(why)
    value, *rest = found[0]
    return Figure(number(value, "what the query gives"), observations(rest[0], "its count") if rest else 1)
