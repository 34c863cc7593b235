"""The databases beside the live one, recognised by what rfs wrote into their comments, never by name alone."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.drivers.postgresql.connect import place_of
from rfs.production.rollback.model import Component

if TYPE_CHECKING:
    from psycopg import Connection

_PREFIX = "rfs: "
_NAME_BYTES = 63
_ALL = "SELECT oid::bigint, datname, datallowconn, shobj_description(oid, 'pg_database') FROM pg_database ORDER BY oid"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What a database beside the live one is there for.

    Attributes:
        state: "building", not to be used; "staged", whole, and to be swapped in; "displaced", was live.
        live: the name that it has when it is live.
        home, component: whose it is.
        digest: of the capture that it was built from; "" for a displaced one.
        alias: the identity that the server's own spelling of it has.
        since: UTC, as ISO 8601.
        comment: what a displaced one's comment was, and will be again.
    """

    state: str
    live: str
    home: str
    component: str
    digest: str = ""
    alias: str = ""
    since: str = ""
    comment: str | None = None


NO_MARK = Mark(state="", live="", home="", component="")


class Beside(msgspec.Struct, frozen=True):
    """A database of the server; `mark` is NO_MARK unless it is one of those that rfs keeps."""

    oid: int
    name: str
    open: bool
    mark: Mark


def databases(connection: Connection[Any]) -> list[Beside]:
    """Return every database of the server."""
    return [Beside(oid, name, allowed, _mark(text)) for oid, name, allowed, text in connection.execute(_ALL)]


def _mark(comment: str | None) -> Mark:
    if comment is None or not comment.startswith(_PREFIX):
        return NO_MARK
    try:
        return msgspec.json.decode(comment[len(_PREFIX) :], type=Mark)
    except msgspec.DecodeError:
        return NO_MARK


def mine(connection: Connection[Any], c: Component) -> list[Beside]:
    """Return the databases beside this component's live one that are its own."""
    live = place_of(c).database
    return [
        each
        for each in databases(connection)
        if (each.mark.live, each.mark.home, each.mark.component) == (live, c.home, c.name)
    ]


def new_mark(c: Component, state: str, **more: Any) -> Mark:
    return Mark(state=state, live=place_of(c).database, home=c.home, component=c.name, **more)


def comment_on(connection: Connection[Any], name: str, text: str | None) -> None:
    from psycopg import sql

    words = sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(text))
    connection.execute(words)


def write_mark(connection: Connection[Any], name: str, mark: Mark) -> None:
    comment_on(connection, name, _PREFIX + msgspec.json.encode(mark).decode())


def new_name(live: str) -> str:
    """Return a name for a database beside the live one: told by its beginning, and like no other's."""
    end = f"_rfs_{os.urandom(4).hex()}"
    return live.encode()[: _NAME_BYTES - len(end)].decode(errors="ignore") + end


def allow(connection: Connection[Any], name: str, *, allowed: bool) -> None:
    """Open a database for connections, or close it."""
    from psycopg import sql

    words = f"ALTER DATABASE {{}} ALLOW_CONNECTIONS {'true' if allowed else 'false'}"
    connection.execute(sql.SQL(words).format(sql.Identifier(name)))


def drop(connection: Connection[Any], name: str) -> None:
    """Drop a database beside the live one, with what sessions a crash may have left in it."""
    from psycopg import sql
    from psycopg.errors import InsufficientPrivilege, ObjectInUse

    gently = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))
    by_force = gently + sql.SQL(" WITH (FORCE)")
    # Its owner may not end autovacuum by force. The server does it by itself when it is not told to, and then waits
    # for all others.
    for words in (by_force, gently):
        with suppress(InsufficientPrivilege, ObjectInUse):
            connection.execute(words)
            return
    connection.execute(by_force)
