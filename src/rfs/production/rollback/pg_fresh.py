"""What a PostgreSQL database's schemas and default privileges are in a new database, as statements that make them so.

pg_dump says only what differs from a new database, and so what stays must be as in one before its script is run.
Every name is said with its schema: the session's search path may be anybody's.
"""

from __future__ import annotations

_WHO = "coalesce(nullif(a.grantee, 0)::pg_catalog.regrole::text, 'PUBLIC')"
_SCHEMAS = f"""
WITH s AS (
    SELECT n.nspname, n.nspacl, coalesce(i.initprivs, pg_catalog.acldefault('n', n.nspowner)) AS first
    FROM pg_catalog.pg_namespace n LEFT JOIN pg_catalog.pg_init_privs i
    ON i.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND i.objoid = n.oid AND i.objsubid = 0
    WHERE n.nspname = ANY (:schemas) AND pg_catalog.pg_has_role(n.nspowner, 'USAGE')
)
SELECT DISTINCT 1, pg_catalog.format('REVOKE ALL ON SCHEMA %I FROM %s CASCADE', nspname, {_WHO})
    FROM s, pg_catalog.aclexplode(nspacl) a
UNION ALL SELECT 2, pg_catalog.format('GRANT %s ON SCHEMA %I TO %s', a.privilege_type, nspname, {_WHO})
    FROM s, pg_catalog.aclexplode(first) a
UNION ALL SELECT 3, pg_catalog.format('COMMENT ON SCHEMA %I IS %L', nspname,
    CASE nspname WHEN 'public' THEN 'standard public schema' END) FROM s
ORDER BY 1, 2
"""  # noqa: S608 — made of constants
DEFAULTS = f"""
WITH d AS (
    SELECT defaclacl, pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I', pg_catalog.pg_get_userbyid(defaclrole))
        || CASE WHEN nspname IS NULL THEN '' ELSE pg_catalog.format(' IN SCHEMA %I', nspname) END AS words,
    CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
        WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END AS kind,
    CASE WHEN defaclnamespace = 0 THEN
        pg_catalog.acldefault(CASE defaclobjtype WHEN 'S' THEN 's' ELSE defaclobjtype END, defaclrole) END AS usual
    FROM pg_catalog.pg_default_acl LEFT JOIN pg_catalog.pg_namespace n ON n.oid = defaclnamespace
    WHERE pg_catalog.pg_has_role(defaclrole, 'USAGE')
)
SELECT DISTINCT 1, pg_catalog.format('%s REVOKE ALL ON %s FROM %s', words, kind, {_WHO})
    FROM d, pg_catalog.aclexplode(defaclacl) a
UNION ALL SELECT 2, pg_catalog.format('%s GRANT %s ON %s TO %s', words, a.privilege_type, kind, {_WHO})
    FROM d, pg_catalog.aclexplode(usual) a
ORDER BY 1, 2
"""  # noqa: S608 — made of constants
"""The query of (order, statement) for the default privileges that the role may change."""


def schemas(parameter: str) -> str:
    """Return the query of (order, statement) for the schemas whose names the parameter holds.

    Args:
        parameter: how the client library writes it, such as `$1`; an array of names.
    """
    return _SCHEMAS.replace(":schemas", parameter)
