"""Two names change places: the guards before it, and the one transaction that does it.

Both renames are rows of one catalog and so are one transaction: at every moment, whoever is killed, the
name means the one database or the other. What is not in a transaction (that the live one takes no
connections meanwhile) is put right by whoever runs this again, whichever way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.drivers.postgresql.bouncer import paused
from rfs.production.rollback.drivers.postgresql.connect import LOCK_SECONDS, options_of, row_of
from rfs.production.rollback.drivers.postgresql.marks import (
    Beside,
    allow,
    comment_on,
    new_mark,
    new_name,
    write_mark,
)
from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import ConflictError
from rfs.production.rollback.model import Component, utc_now

if TYPE_CHECKING:
    from psycopg import Connection

_POLL_SECONDS = 0.02
_END_SECONDS = 10.0
LOCK_WAIT = f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"
_LISTED = 3
_SHOWN = 60
_SESSIONS = """
SELECT pid, xact_start::text, left(query, 200), usename, coalesce(state, 'disabled') = 'disabled'
FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() AND pid <> %s
AND (backend_type = 'client backend' OR backend_type IS NULL AND usesysid IS NOT NULL) ORDER BY pid
"""
# Of sessions of roles that one is not a member of, neither kind nor state is shown, and they cannot be ended.
_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = %s ORDER BY prepared"
_SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE database = %s ORDER BY 1"
_SUBSCRIPTIONS = "SELECT subname FROM pg_subscription WHERE subdbid = %s AND subenabled ORDER BY 1"


def swap(connection: Connection[Any], c: Component, live: Beside | None, incoming: Beside | None, pulse: Pulse) -> int:
    """Let the live name mean another database; what it meant is kept beside it, closed.

    Args:
        connection: to a third database.
        live: what has the name now, or None when nothing has.
        incoming: what gets it, or None when nothing shall.

    Returns:
        The number of the transaction that did it.

    Raises:
        ConflictError: something is in the way; the live database is as it was.
    """
    if live is None:
        return _exchange(connection, c, live, incoming, pulse)
    _refuse_what_holds(connection, c, live)
    with paused(c, pulse):
        _wait_for_open(connection, c, live, pulse)
        allow(connection, live.name, allowed=False)
        try:
            return _exchange(connection, c, live, incoming, pulse)
        except BaseException:  # also when the user says stop: nobody may stand before a closed door because of us
            allow(connection, live.name, allowed=True)
            raise


def _exchange(
    connection: Connection[Any], c: Component, live: Beside | None, incoming: Beside | None, pulse: Pulse
) -> int:
    for each in (live, incoming):
        if each is not None:
            _end_sessions(connection, c, each, pulse)
    return _rename(connection, c, live, incoming)


@contextmanager
def alone(connection: Connection[Any], c: Component, live: Beside, pulse: Pulse, spared: int) -> Iterator[int]:
    """Keep everybody else out of the live database for a while; yield the number of the transaction that closed it.

    Args:
        connection: to another database.
        spared: the process of the one session that may stay.

    Raises:
        ConflictError: something is in the way; the live database is as it was.
    """
    _refuse_what_holds(connection, c, live)
    with paused(c, pulse):
        _wait_for_open(connection, c, live, pulse)
        with connection.transaction():
            allow(connection, live.name, allowed=False)
            (closed,) = row_of(connection, "SELECT pg_current_xact_id()::text")
        try:
            _end_sessions(connection, c, live, pulse, spared)
            yield int(closed)
        finally:
            allow(connection, live.name, allowed=True)


def end_session(connection: Connection[Any], pid: int, since: str) -> None:
    """End a session that its client, which was killed, left at work; another one with its number is not meant."""
    words = "SELECT pid FROM pg_stat_activity WHERE pid = %s AND backend_start::text = %s"
    deadline = time.monotonic() + _END_SECONDS
    while connection.execute(words, [pid, since]).fetchone() and time.monotonic() < deadline:
        connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        time.sleep(_POLL_SECONDS)  # a server tells nobody that a session is over


def _rename(connection: Connection[Any], c: Component, live: Beside | None, incoming: Beside | None) -> int:
    from psycopg import sql

    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    name = new_mark(c, "").live
    with connection.transaction():
        if live is not None:
            aside = new_name(live.name)
            comment = _comment(connection, live.name)
            connection.execute(rename.format(sql.Identifier(live.name), sql.Identifier(aside)))
            since = utc_now().isoformat(timespec="seconds")
            write_mark(connection, aside, new_mark(c, "displaced", since=since, comment=comment))
        if incoming is not None:
            connection.execute(rename.format(sql.Identifier(incoming.name), sql.Identifier(name)))
            comment_on(connection, name, incoming.mark.comment)
            allow(connection, name, allowed=True)
        return int(row_of(connection, "SELECT pg_current_xact_id()::text")[0])


def _comment(connection: Connection[Any], name: str) -> str | None:
    words = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
    comment: str | None = row_of(connection, words, name)[0]
    return comment


def _refuse_what_holds(connection: Connection[Any], c: Component, live: Beside) -> None:
    for query, key, value in (
        (_PREPARED, "postgresql.prepared", live.name),
        (_SLOTS, "postgresql.slots", live.name),
        (_SUBSCRIPTIONS, "postgresql.subscriptions", live.oid),
    ):
        found = [str(row[0]) for row in connection.execute(query, [value])]
        if found:
            more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            raise ConflictError(key, component=c.name, database=live.name, names=", ".join(found[:_LISTED]) + more)


def _wait_for_open(connection: Connection[Any], c: Component, live: Beside, pulse: Pulse) -> None:
    """Let the transactions end that are open now; younger ones are waited for when the door is closed."""
    mine = {(pid, since) for pid, since, *_ in _sessions(connection, live) if since is not None}

    def still_open() -> list[Any]:
        return [each for each in _sessions(connection, live) if (each[0], each[1]) in mine]

    left = _until_none(still_open, _patience(c, pulse), pulse)
    if left and options_of(c).on_open_transactions == "refuse":
        raise _in_the_way(c, live, left)


def _end_sessions(connection: Connection[Any], c: Component, database: Beside, pulse: Pulse, spared: int = 0) -> None:
    """End each session as soon as it is in no transaction."""
    began = time.monotonic()
    patience, forced = _patience(c, pulse), options_of(c).on_open_transactions == "terminate"

    def left() -> list[Any]:
        over = time.monotonic() - began >= patience
        sessions = _sessions(connection, database, spared)
        busy = [(pid, since, *more, hidden) for pid, since, *more, hidden in sessions if since is not None or hidden]
        if busy and over and not forced:
            raise _in_the_way(c, database, busy)
        for pid, since, *_, hidden in sessions:
            if over or (since is None and not hidden):
                connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        return sessions

    in_the_way = _until_none(left, patience + _END_SECONDS, pulse)
    if in_the_way:
        raise _in_the_way(c, database, in_the_way)


def _until_none(look: Callable[[], list[Any]], seconds: float, pulse: Pulse) -> list[Any]:
    """Look again and again until nothing is found or the time is over; return what is found then."""
    deadline = time.monotonic() + seconds
    while found := look():
        pulse.tick()
        if time.monotonic() >= deadline:
            return found
        time.sleep(_POLL_SECONDS)  # a server tells nobody that a transaction has ended
    return []


def _patience(c: Component, pulse: Pulse) -> float:
    return min(parse_duration(options_of(c).wait), max(0.0, pulse.remaining()))


def _sessions(connection: Connection[Any], database: Beside, spared: int = 0) -> list[Any]:
    return list(connection.execute(_SESSIONS, [database.name, spared]))


def _in_the_way(c: Component, database: Beside, sessions: list[Any]) -> ConflictError:
    told = []
    for pid, since, query, role, hidden in sessions[:_LISTED]:
        words = "of another role, which cannot be looked into" if hidden else f"in a transaction since {since}"
        if since is None and not hidden:
            words = "which does not end"
        said = f": {' '.join(query.split())[:_SHOWN]}" if query and not hidden else ""
        told.append(f"process {pid} of {role}, {words}{said}")
    if len(sessions) > _LISTED:
        told.append(f"{len(sessions) - _LISTED} more")
    return ConflictError("postgresql.in_use", component=c.name, database=database.name, sessions="; ".join(told))
