"""What the catalogs of a PostgreSQL database tell of it besides its rows, each kind of fact by a query of its own."""

from __future__ import annotations

from typing import Any

import psycopg

_NONE = "NULL::aclitem[]"
# Catalog: the columns of owner, privileges and of whom these are by default.
_OWNED = {
    "pg_class": ("relowner", "relacl", "CASE relkind WHEN 'S' THEN 's' ELSE 'r' END"),
    "pg_proc": ("proowner", "proacl", "'f'"),
    "pg_type": ("typowner", "typacl", "'T'"),
    "pg_namespace": ("nspowner", "nspacl", "'n'"),
    "pg_largeobject_metadata": ("lomowner", "lomacl", "'L'"),
    "pg_operator": ("oprowner", _NONE, "'r'"),
    "pg_collation": ("collowner", _NONE, "'r'"),
    "pg_statistic_ext": ("stxowner", _NONE, "'r'"),
    "pg_publication": ("pubowner", _NONE, "'r'"),
    "pg_ts_config": ("cfgowner", _NONE, "'r'"),
}
# Those of a database's own objects, and those that a dump keeps though they are there from the beginning.
_OURS = "(o.oid >= 16384 OR o.oid = 'public'::regnamespace)"
_SORTED = "(SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest({}) a)"
_HERE = "(SELECT oid FROM pg_database WHERE datname = current_database())"
_VISIBLE = "NOT (c.relnamespace::regnamespace::text ~ '^pg_|^information_schema$')"
_QUERIES = {
    "privileges of columns": f"""
        SELECT attrelid::regclass::text, attname, {_SORTED.format("attacl")} FROM pg_attribute
        WHERE attacl IS NOT NULL AND attrelid >= 16384""",
    "default privileges": f"""
        SELECT defaclrole::regrole::text, defaclnamespace::regnamespace::text, defaclobjtype::text,
        {_SORTED.format("defaclacl")} FROM pg_default_acl""",
    "settings": f"""
        SELECT setrole::regrole::text, {_SORTED.format("setconfig")} FROM pg_db_role_setting
        WHERE setdatabase = {_HERE}""",
    "the database": f"""
        SELECT datdba::regrole::text, encoding, datcollate, datctype, datconnlimit, datallowconn, datistemplate,
        {_SORTED.format("coalesce(datacl, acldefault('d', datdba))")} FROM pg_database
        WHERE datname = current_database()""",
    "comments": f"""
        SELECT pg_describe_object(classoid, objoid, objsubid), description FROM pg_description
        WHERE objoid >= 16384 OR objoid = 'public'::regnamespace
        UNION ALL SELECT 'the database', description FROM pg_shdescription WHERE objoid = {_HERE}""",
    "sequences": """
        SELECT s.*, (SELECT array_agg(d.refobjid::regclass || '.' || d.refobjsubid || d.deptype::text) FROM pg_depend d
            WHERE d.objid = format('%I.%I', schemaname, sequencename)::regclass AND d.refobjsubid > 0)::text
        FROM pg_sequences s""",
    "statistics of columns": f"""
        SELECT s.starelid::regclass::text, a.attname, s.stainherit FROM pg_statistic s
        JOIN pg_attribute a ON (a.attrelid, a.attnum) = (s.starelid, s.staattnum)
        JOIN pg_class c ON c.oid = s.starelid WHERE {_VISIBLE}""",
    "statistics objects": """
        SELECT stxname, pg_get_statisticsobjdef(oid), (SELECT count(*) FROM pg_statistic_ext_data WHERE stxoid = oid)
        FROM pg_statistic_ext""",
    "numbers of rows": f"""
        SELECT c.oid::regclass::text, c.reltuples FROM pg_class c WHERE relkind IN ('r', 'p', 'i') AND {_VISIBLE}""",
    "targets of statistics": """
        SELECT attrelid::regclass::text, attname, nullif(attstattarget, -1), attoptions::text FROM pg_attribute
        WHERE attnum > 0 AND attrelid >= 16384 AND NOT attisdropped
        AND (SELECT relkind FROM pg_class WHERE oid = attrelid) IN ('r', 'p', 'v')""",
}


def facts_of(connection: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    """Return what a superuser's connection to a database finds of each kind."""
    found: dict[str, list[Any]] = {}
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        for catalog, (owner, acl, kind) in _OWNED.items():
            usual = f'coalesce(o.{acl}, acldefault(({kind})::"char", o.{owner}))' if acl != _NONE else _NONE
            system = "pg_largeobject" if catalog == "pg_largeobject_metadata" else catalog
            toast = "AND o.relnamespace <> 'pg_toast'::regnamespace" if catalog == "pg_class" else ""
            toast = "AND o.typnamespace <> 'pg_toast'::regnamespace" if catalog == "pg_type" else toast
            query = f"""SELECT (pg_identify_object('pg_catalog.{system}'::regclass, o.oid, 0)).identity,
                o.{owner}::regrole::text, {_SORTED.format(usual)} FROM pg_catalog.{catalog} o
                WHERE {_OURS} {toast}"""
            found[catalog] = sorted(connection.execute(query.encode()).fetchall(), key=repr)
        for kind, query in _QUERIES.items():
            found[kind] = sorted(connection.execute(query.encode()).fetchall(), key=repr)
        names = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S' ORDER BY 1"
        found["where sequences are"] = [
            (name, *connection.execute(f"SELECT last_value, is_called FROM {name}".encode()).fetchall())
            for (name,) in connection.execute(names).fetchall()
        ]
    return found
