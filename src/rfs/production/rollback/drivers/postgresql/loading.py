"""Running a dump in a database: all of it in one session, or, where that is possible, in two at the same time."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, cast

from rfs.production.rollback.driver import BlobSource, Pulse
from rfs.production.rollback.drivers.postgresql.connect import first_line, limit
from rfs.production.rollback.drivers.postgresql.content import Contents, Script, Stored
from rfs.production.rollback.drivers.postgresql.script import PREAMBLE, End, Piece, Rows, Statements, Table
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

if TYPE_CHECKING:
    from psycopg import Connection

_RIGHTS = "ACL SCHEMA "
_FIRST = (PREAMBLE, "SCHEMA ", "COMMENT SCHEMA ")
# What locks one table only, so that two sessions cannot stand in each other's way.
_OF_ONE_TABLE = ("INDEX ", "CONSTRAINT ")
_ON = re.compile(rb"\A(?:ALTER TABLE ONLY|CREATE (?:UNIQUE )?INDEX .+? ON(?: ONLY)?) (\S+) ")
_INHERITS = b"\nINHERITS ("
_RELATED = ("TABLE ATTACH ", "INDEX ATTACH ")
_POLL_SECONDS = 0.1

_Unit = Statements | tuple[Stored, list[bytes]]
# What one session does; it tells the bytes that it has given to the server.
_Job = Callable[["Connection[Any]", Callable[[int], None]], None]


class _OverError(Exception):
    """Another job has failed, or the one that waits for all has had enough."""


def in_order(contents: Contents) -> Iterator[Piece]:
    """Yield a dump as it can be run by a role that is no superuser.

    A table is given only to a role that may create in its schema; pg_dump says who may when all is made.
    """
    rights = _rights(contents)
    for piece in contents.pieces():
        if rights and not (isinstance(piece, Statements) and piece.name.startswith(_FIRST)):
            yield from rights
            rights = []
        yield piece


def _rights(contents: Contents) -> list[Statements]:
    return [
        piece
        for item, refs in contents.items()
        if isinstance(item, Script) and any(name.startswith(_RIGHTS) for name, _ in item.objects)
        for piece in contents.statements(item, refs)
        if piece.name.startswith(_RIGHTS)
    ]


def load(connection: Connection[Any], dump: Iterable[Piece], pulse: Pulse, c: Component) -> None:
    """Run a dump in an empty database. Nothing of it is ever read as a command of psql.

    Raises:
        RollbackError: the server refuses some of it, which is named.
    """
    feed = iter(dump)
    for piece in feed:
        match piece:
            case Statements():
                _run(connection, piece, c)
                limit(connection, pulse)
            case Table(header):
                _copy(connection, header, (rows.text for rows in _until_end(feed)), c)


def load_by_two(sessions: Sequence[Connection[Any]], contents: Contents, source: BlobSource, c: Component) -> None:
    """Run a dump in an empty database: tables and indexes two at a time.

    Raises:
        RollbackError: the server refuses some of it, which is named.
    """
    alone = _has_related_tables(contents)

    def kind_of(unit: _Unit) -> str:
        if not isinstance(unit, Statements):
            return "rows"
        return "indexes" if unit.name.startswith(_OF_ONE_TABLE) and not alone else ""

    for kind, group in groupby(_units(contents), kind_of):
        if kind:
            units = list(group)
            for session in sessions:
                limit(session, source)
            _together(sessions, _filling(units, contents, c) if kind == "rows" else _indexing(units, c), source)
            _follow(sessions, units)
            continue
        for unit in cast("Iterator[Statements]", group):
            for session in sessions if unit.name == PREAMBLE else sessions[:1]:
                _run(session, unit, c)
            limit(sessions[0], source)
            _follow(sessions, [unit])


def _units(contents: Contents) -> Iterator[_Unit]:
    """Yield a dump in the order of `in_order`, a table's rows as what the manifest says of them."""
    rights = _rights(contents)
    for item, refs in contents.items():
        if not isinstance(item, Script):
            yield item, refs
            continue
        for piece in contents.statements(item, refs):
            if rights and not piece.name.startswith(_FIRST):
                yield from rights
                rights = []
            yield piece


def _has_related_tables(contents: Contents) -> bool:
    """Tell whether there are partitions or tables that inherit: to change one of those locks others."""
    for item, refs in contents.items():
        if isinstance(item, Script):
            for piece in contents.statements(item, refs):
                if piece.name.startswith(_RELATED) or (piece.name.startswith("TABLE ") and _INHERITS in piece.text):
                    return True
    return False


def _filling(units: Iterable[_Unit], contents: Contents, c: Component) -> list[_Job]:
    """Return what fills each table, the largest first."""

    def job(item: Stored, refs: list[bytes]) -> _Job:
        def run(session: Connection[Any], told: Callable[[int], None]) -> None:
            def texts() -> Iterator[bytes]:
                for _, _, text in contents.rows(item, refs):
                    data = text()
                    told(len(data))
                    yield data

            _copy(session, item.header, texts(), c)

        return run

    tables = cast("Iterable[tuple[Stored, list[bytes]]]", units)
    return [job(item, refs) for item, refs in sorted(tables, key=lambda each: len(each[0].blobs), reverse=True)]


def _indexing(units: Iterable[_Unit], c: Component) -> list[_Job]:
    """Return what builds the indexes of each table; all of them in one where they are not all in the same place."""
    pieces = cast("list[Statements]", list(units))
    of_table: dict[bytes, list[Statements]] = {}
    for piece in pieces:
        on = _ON.match(piece.text)
        of_table.setdefault(on[1] if on else piece.name.encode(), []).append(piece)
    groups = [pieces] if any(_last_settings(piece.text) for piece in pieces) else list(of_table.values())

    def job(group: list[Statements]) -> _Job:
        def run(session: Connection[Any], told: Callable[[int], None]) -> None:
            for piece in group:
                told(0)
                _run(session, piece, c)

        return run

    return [job(group) for group in groups]


def _together(sessions: Sequence[Connection[Any]], jobs: list[_Job], pulse: Pulse) -> None:
    """Let each session do one job after the other until all are done; what fails first ends all.

    Raises:
        BaseException: what a job or the pulse raised.
    """
    waiting, failures, given = deque(jobs), list[BaseException](), deque[int]()
    over = Event()

    def told(size: int) -> None:
        given.append(size)
        if over.is_set():
            raise _OverError

    def work(session: Connection[Any]) -> None:
        try:
            with suppress(IndexError):
                while not over.is_set():
                    waiting.popleft()(session, told)
        except BaseException as error:  # a thread has nobody to tell but the one that waits for it
            failures.append(error)
            over.set()

    threads = [Thread(target=work, args=[session], daemon=True) for session, _ in zip(sessions, jobs, strict=False)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive() and not over.is_set():
                thread.join(_POLL_SECONDS)
                pulse.tick(0, sum(given.popleft() for _ in range(len(given))))
    finally:
        over.set()
        for thread, session in zip(threads, sessions, strict=False):
            _end(thread, session)
    if failures:
        raise failures[0]


@contextmanager
def meanwhile(session: Connection[Any], statement: str, pulse: Pulse) -> Iterator[None]:
    """Let a session run a statement while the body does something else, and wait for it.

    Raises:
        psycopg.Error: the server refuses it.
    """
    failures: list[BaseException] = []

    def work() -> None:
        try:
            session.execute(statement.encode())
        except BaseException as error:  # a thread has nobody to tell but the one that waits for it
            failures.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
        while thread.is_alive():
            pulse.tick()
            thread.join(_POLL_SECONDS)
    finally:
        _end(thread, session)
    if failures:
        raise failures[0]


def _end(thread: Thread, session: Connection[Any]) -> None:
    """Cancel what a session's thread is waiting for, until it has ended."""
    import psycopg

    while thread.is_alive():
        with suppress(psycopg.Error):  # it has gone away: its thread has been told so, too
            session.cancel_safe()
        thread.join(_POLL_SECONDS)


def _follow(sessions: Sequence[Connection[Any]], units: Iterable[_Unit]) -> None:
    """Let the other sessions set what the first one has set for all that comes after."""
    for unit in units:
        for line in _last_settings(unit.text) if isinstance(unit, Statements) else []:
            for session in sessions[1:]:
                session.execute(line)


def _last_settings(text: bytes) -> list[bytes]:
    """Return where what comes next is to be made: pg_dump says so at the end of what comes before."""
    lines = []
    for line in reversed(text.splitlines()):
        if line.startswith(b"SET default_"):
            lines.append(line)
        elif line:
            break
    return lines[::-1]


def _run(connection: Connection[Any], piece: Statements, c: Component) -> None:
    if piece.name == PREAMBLE:
        _settings(connection, piece.text)
        return
    with _named(c, piece.name):
        connection.execute(piece.text)


def _copy(connection: Connection[Any], header: str, texts: Iterator[bytes], c: Component) -> None:
    words = f"COPY {header} FROM STDIN".encode("utf-8", "surrogateescape")
    with _named(c, f"rows of {header}"), connection.cursor().copy(words) as copy:
        for text in texts:
            copy.write(text)


def _until_end(feed: Iterator[Piece]) -> Iterator[Rows]:
    for piece in feed:
        if isinstance(piece, End):
            return
        yield cast("Rows", piece)


@contextmanager
def _named(c: Component, what: str) -> Iterator[None]:
    """Tell what it was that the server refused to make; that it went away, or has no room, is about no object."""
    import psycopg

    try:
        yield
    except psycopg.errors.QueryCanceled:
        raise
    except (psycopg.ProgrammingError, psycopg.IntegrityError, psycopg.DataError, psycopg.NotSupportedError) as error:
        raise RollbackError("postgresql.refused", component=c.name, what=what, why=first_line(error)) from error


def _settings(connection: Connection[Any], text: bytes) -> None:
    """Set what a dump begins with; a setting that a newer pg_dump knows and this server does not is left out."""
    from psycopg.errors import UndefinedObject

    for line in text.splitlines():
        if line.startswith((b"SET ", b"SELECT ")):
            with suppress(UndefinedObject), connection.transaction():
                connection.execute(line)
