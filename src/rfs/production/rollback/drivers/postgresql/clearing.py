"""Takes out of a database what the role owns, so that a dump can be run in it as in an empty one.

DROP OWNED is not the way: it also revokes what the role was granted on other databases of the server.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

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
# pg_dump says only what differs from a new database, and so what stays must be as in one.
_SCHEMAS = """
WITH s AS (
    SELECT n.nspname, n.nspacl, coalesce(i.initprivs, acldefault('n', n.nspowner)) AS first
    FROM pg_namespace n LEFT JOIN pg_init_privs i
    ON i.classoid = 'pg_namespace'::regclass AND i.objoid = n.oid AND i.objsubid = 0
    WHERE n.nspname = ANY (%s) AND pg_has_role(n.nspowner, 'USAGE')
)
SELECT DISTINCT 1, format('REVOKE ALL ON SCHEMA %%I FROM %%s CASCADE', nspname,
    coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC')) FROM s, aclexplode(nspacl) a
UNION ALL SELECT 2, format('GRANT %%s ON SCHEMA %%I TO %%s', a.privilege_type, nspname,
    coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC')) FROM s, aclexplode(first) a
UNION ALL SELECT 3, format('COMMENT ON SCHEMA %%I IS %%L', nspname,
    CASE nspname WHEN 'public' THEN 'standard public schema' END) FROM s
ORDER BY 1, 2
"""
_DEFAULTS = """
WITH d AS (
    SELECT defaclacl, format('ALTER DEFAULT PRIVILEGES FOR ROLE %%I', pg_get_userbyid(defaclrole))
        || CASE WHEN nspname IS NULL THEN '' ELSE format(' IN SCHEMA %%I', nspname) END AS words,
    CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
        WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END AS kind,
    CASE WHEN defaclnamespace = 0
        THEN acldefault(CASE defaclobjtype WHEN 'S' THEN 's' ELSE defaclobjtype END, defaclrole) END AS usual
    FROM pg_default_acl LEFT JOIN pg_namespace n ON n.oid = defaclnamespace WHERE pg_has_role(defaclrole, 'USAGE')
)
SELECT DISTINCT 1, format('%%s REVOKE ALL ON %%s FROM %%s', words, kind,
    coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC')) FROM d, aclexplode(defaclacl) a
UNION ALL SELECT 2, format('%%s GRANT %%s ON %%s TO %%s', words, a.privilege_type, kind,
    coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC'))
    FROM d, aclexplode(usual) a ORDER BY 1, 2
"""


def clear(connection: Connection[Any], extensions: Collection[str], schemas: Collection[str], pulse: Pulse) -> None:
    """Drop what the role owns, and give what stays the privileges that it has in a new database.

    Args:
        connection: inside of the database, in a transaction.
        extensions: those that stay.
        schemas: those that stay, empty but for extensions.
    """
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
    for query, values in ((_SCHEMAS, [list(schemas)]), (_DEFAULTS, [])):
        for _, statement in connection.execute(query, values).fetchall():
            _run(connection, statement)


def _run(connection: Connection[Any], statement: str) -> None:
    connection.execute(statement.encode())  # made of what the server itself has quoted
