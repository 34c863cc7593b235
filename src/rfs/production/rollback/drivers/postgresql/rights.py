"""What the role of `url` may do, and what in a database it may not touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.drivers.postgresql.connect import row_of

if TYPE_CHECKING:
    from psycopg import Connection

_LISTED = 3
_ROLE = "SELECT rolname::text, rolsuper, rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
# Those of a superuser leave no trace in pg_shdepend: each catalog has to be asked.
_FOREIGN = """
WITH n AS (SELECT oid, nspname FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'),
o AS (
    SELECT 'pg_class'::regclass AS classid, c.oid, relowner AS owner, n.nspname || '.' || relname AS name
    FROM pg_class c JOIN n ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL SELECT 'pg_proc'::regclass, p.oid, proowner, n.nspname || '.' || proname
    FROM pg_proc p JOIN n ON n.oid = pronamespace
    UNION ALL SELECT 'pg_type'::regclass, t.oid, typowner, n.nspname || '.' || typname
    FROM pg_type t JOIN n ON n.oid = typnamespace WHERE typtype IN ('e', 'd', 'r')
    UNION ALL SELECT 'pg_namespace'::regclass, oid, nspowner, nspname FROM pg_namespace
    WHERE oid IN (SELECT oid FROM n) AND nspname <> 'public'
    UNION ALL SELECT 'pg_largeobject'::regclass, oid, lomowner, 'large object ' || oid FROM pg_largeobject_metadata
    UNION ALL SELECT 'pg_publication'::regclass, oid, pubowner, 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'pg_event_trigger'::regclass, oid, evtowner, 'event trigger ' || evtname FROM pg_event_trigger
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid, srvowner, 'server ' || srvname FROM pg_foreign_server
)
SELECT DISTINCT name FROM o WHERE NOT pg_has_role(owner, 'USAGE') AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e') ORDER BY 1
"""
_UNTRUSTED = """
SELECT e.extname FROM pg_extension e JOIN pg_available_extension_versions v
ON v.name = e.extname AND v.version = e.extversion WHERE v.superuser AND NOT v.trusted
AND e.extname <> 'plpgsql' ORDER BY 1
"""
_SETTINGS = """
SELECT DISTINCT r.rolname FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database() AND r.rolname <> current_user
AND NOT (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user) ORDER BY 1
"""


class Role(msgspec.Struct, frozen=True):
    """The role that rfs connects as. `creates`: it may create databases."""

    name: str
    superuser: bool
    creates: bool


def role_of(connection: Connection[Any]) -> Role:
    return Role(*row_of(connection, _ROLE))


def foreign(connection: Connection[Any]) -> list[str]:
    """Return the names of what belongs to roles that this one is not a member of, extensions aside."""
    return [str(row[0]) for row in connection.execute(_FOREIGN)]


def untrusted(connection: Connection[Any]) -> list[str]:
    """Return the extensions that only a superuser may create."""
    return [str(row[0]) for row in connection.execute(_UNTRUSTED)]


def of_settings(connection: Connection[Any]) -> list[str]:
    """Return the roles whose settings in this database the role may not give to another one."""
    return [str(row[0]) for row in connection.execute(_SETTINGS)]


def some(found: list[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    return ", ".join(found[:_LISTED]) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
