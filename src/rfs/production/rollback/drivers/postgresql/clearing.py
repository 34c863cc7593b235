"""Takes out of a database what the role owns, so that a dump can be run in it as in an empty one.

DROP OWNED is not the way: it also revokes what the role was granted on other databases of the server.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from rfs.production.rollback import pg_fresh
from rfs.production.rollback.driver import Pulse

if TYPE_CHECKING:
    from psycopg import Connection

_OWNED = """
SELECT i.type, i.identity, s.objid::bigint, i.name FROM pg_shdepend s
CROSS JOIN LATERAL pg_identify_object(s.classid, s.objid, 0) i
WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
AND s.deptype = 'o' AND s.refclassid = 'pg_authid'::regclass AND pg_has_role(s.refobjid, 'USAGE')
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = s.classid AND d.objid = s.objid AND d.deptype = 'e')
ORDER BY s.classid, s.objid
"""
_RELATIONS = frozenset(["table", "view", "materialized view", "foreign table"])
_FIRST = frozenset(["extension", "schema", "publication", "event trigger"])
_WORDS = {
    **dict.fromkeys(["function", "procedure", "aggregate"], "ROUTINE"),
    "foreign-data wrapper": "FOREIGN DATA WRAPPER",
    "statistics object": "STATISTICS",
}


def clear(connection: Connection[Any], extensions: Collection[str], schemas: Collection[str], pulse: Pulse) -> None:
    """Drop what the role owns, and give what stays the privileges that it has in a new database.

    Args:
        connection: inside of the database, in a transaction.
        extensions: those that stay.
        schemas: those that stay, empty but for extensions.
    """
    from psycopg import RawCursor

    for kinds in (_FIRST, _RELATIONS, None):
        # Each drop takes along what depends on it: what is left is asked for again.
        for kind, identity, oid, name in connection.execute(_OWNED).fetchall():
            if kinds is not None and kind not in kinds:
                continue
            if (kind == "extension" and name in extensions) or (kind == "schema" and name in schemas):
                continue
            if kind == "large object":
                connection.execute("SELECT lo_unlink(%s::oid)", [oid])
            elif kind != "default acl":
                _run(connection, f"DROP {_WORDS.get(kind, kind)} IF EXISTS {identity} CASCADE")
            pulse.tick()
    # By a cursor that sends the text as it is: the queries hold signs of percent of their own.
    raw = RawCursor(connection)
    for query, values in ((pg_fresh.schemas("$1"), [list(schemas)]), (pg_fresh.DEFAULTS, [])):
        for _, statement in raw.execute(query.encode(), values).fetchall():
            _run(connection, statement)


def _run(connection: Connection[Any], statement: str) -> None:
    connection.execute(statement.encode())  # made of what the server itself has quoted
