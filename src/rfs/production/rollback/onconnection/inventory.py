"""Every object of a database with its properties, asked of the catalog on the connection itself.

pg_dump cannot see what a transaction has not committed yet. So what a restore made is compared with this listing before
it is committed. Expressions are left out: PostgreSQL spells some of them differently after they were made anew from
their own text, and they were made from exactly the text that pg_dump gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rfs.production.rollback.errors import IrreversibleError
from rfs.production.rollback.onconnection.connection import Connection
from rfs.production.rollback.onconnection.snapshot import Entry, Name

_FIRST_OWN = 16384  # lower object ids are those of initdb
_OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
_REL = "pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)"
_TABLES = f"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND {_OURS}"

# catalog, its columns of owner and ACL, which kind of default ACL, and which rows
_OBJECTS = (
    ("pg_namespace", "nspowner", "nspacl", "'n'", "o.nspname !~ '^pg_' AND o.nspname <> 'information_schema'"),
    (
        "pg_class",
        "relowner",
        "relacl",
        "CASE o.relkind WHEN 'S' THEN 's' ELSE 'r' END",
        (
            "o.relkind <> 't' AND o.relpersistence <> 't' AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_index i"
            " JOIN pg_catalog.pg_class t ON t.oid = i.indrelid WHERE i.indexrelid = o.oid"
            " AND (t.relkind = 't' OR NOT i.indisvalid AND t.relkind <> 'p'))"
        ),
    ),
    ("pg_proc", "proowner", "proacl", "'f'", "true"),
    (
        "pg_type",
        "typowner",
        "typacl",
        "'T'",
        (
            "(o.typrelid = 0 OR EXISTS (SELECT 1 FROM pg_catalog.pg_class c"
            " WHERE c.oid = o.typrelid AND c.relkind = 'c'))"
            " AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_type e WHERE e.typarray = o.oid)"
        ),
    ),
    ("pg_operator", "oprowner", None, None, "true"),
    ("pg_opclass", "opcowner", None, None, "true"),
    ("pg_opfamily", "opfowner", None, None, "true"),
    ("pg_collation", "collowner", None, None, "true"),
    ("pg_conversion", "conowner", None, None, "true"),
    ("pg_ts_config", "cfgowner", None, None, "true"),
    ("pg_ts_dict", "dictowner", None, None, "true"),
    ("pg_ts_parser", None, None, None, "true"),
    ("pg_ts_template", None, None, None, "true"),
    ("pg_statistic_ext", "stxowner", None, None, "true"),
    ("pg_foreign_data_wrapper", "fdwowner", "fdwacl", "'F'", "true"),
    ("pg_foreign_server", "srvowner", "srvacl", "'S'", "true"),
    ("pg_language", "lanowner", "lanacl", "'l'", "true"),
    ("pg_event_trigger", "evtowner", None, None, "true"),
    ("pg_publication", "pubowner", None, None, "true"),
    ("pg_cast", None, None, None, "true"),
    ("pg_am", None, None, None, "true"),
    ("pg_transform", None, None, None, "true"),
)

# Each returns what an object belongs to, which it is, and how it is.
_DETAILS = (
    # tables, views, indexes, sequences
    f"""SELECT c.oid, 'relation ' || {_REL}, jsonb_build_array(c.relkind, c.relpersistence, c.relreplident,
        c.reloptions, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.relispopulated,
        (SELECT amname FROM pg_catalog.pg_am m WHERE m.oid = c.relam),
        (SELECT jsonb_build_array(partstrat, partnatts) FROM pg_catalog.pg_partitioned_table p
         WHERE p.partrelid = c.oid),
        (SELECT spcname FROM pg_catalog.pg_tablespace s WHERE s.oid = c.reltablespace),
        (SELECT array_agg(i.inhparent::pg_catalog.regclass::text ORDER BY i.inhseqno) FROM pg_catalog.pg_inherits i
         WHERE i.inhrelid = c.oid)) {_TABLES} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')""",
    f"""SELECT c.oid, 'column ' || pg_catalog.quote_ident(a.attname) || ' of ' || {_REL}, jsonb_build_array(
        pg_catalog.row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum),
        pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef, a.attidentity, a.attgenerated,
        a.attcollation::pg_catalog.regcollation::text, a.attstorage, a.attcompression, a.attstattarget,
        (SELECT array_agg(x::text ORDER BY x::text) FROM unnest(a.attacl) x), a.attoptions, a.attfdwoptions,
        pg_catalog.col_description(c.oid, a.attnum)) {_TABLES} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped""",
    f"""SELECT c.oid, 'index ' || i.indexrelid::pg_catalog.regclass, jsonb_build_array({_REL}, i.indisunique,
        i.indisprimary, i.indisexclusion, i.indimmediate, i.indisclustered, i.indisreplident, i.indnkeyatts, i.indnatts,
        i.indnullsnotdistinct, i.indpred IS NULL, i.indexprs IS NULL, x.reloptions,
        (SELECT amname FROM pg_catalog.pg_am m WHERE m.oid = x.relam),
        (SELECT array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, k, false) ORDER BY k)
         FROM pg_catalog.generate_series(1, i.indnatts) k WHERE i.indkey[k - 1] <> 0)) {_TABLES}
        JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND (i.indisvalid OR c.relkind = 'p')
        JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid""",
    f"""SELECT c.oid, 'constraint ' || pg_catalog.quote_ident(k.conname) || ' on ' || {_REL},
        jsonb_build_array(k.contype, k.condeferrable, k.condeferred, k.convalidated,
        CASE WHEN k.contype IN ('c', 'n') THEN k.connoinherit END, k.confupdtype,
        k.confdeltype, k.confmatchtype, k.confrelid::pg_catalog.regclass::text,
        (SELECT array_agg(a.attname ORDER BY p.n) FROM unnest(k.conkey) WITH ORDINALITY p(k, n)
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.k),
        (SELECT array_agg(a.attname ORDER BY p.n) FROM unnest(k.confkey) WITH ORDINALITY p(k, n)
         JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = p.k),
        pg_catalog.obj_description(k.oid, 'pg_constraint')) {_TABLES}
        JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid""",
    f"""SELECT c.oid, 'trigger ' || pg_catalog.quote_ident(t.tgname) || ' on ' || {_REL}, jsonb_build_array(
        t.tgenabled, t.tgtype, t.tgfoid::pg_catalog.regprocedure::text, t.tgdeferrable, t.tginitdeferred,
        t.tgqual IS NULL, t.tgoldtable, t.tgnewtable, pg_catalog.encode(t.tgargs, 'escape'),
        (SELECT array_agg(a.attname ORDER BY a.attname) FROM unnest(t.tgattr) k
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k),
        pg_catalog.obj_description(t.oid, 'pg_trigger')) {_TABLES}
        JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal""",
    f"""SELECT c.oid, 'rule ' || pg_catalog.quote_ident(r.rulename) || ' on ' || {_REL}, jsonb_build_array(
        r.ev_type, r.ev_enabled, r.is_instead, pg_catalog.obj_description(r.oid, 'pg_rewrite')) {_TABLES}
        JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid""",
    f"""SELECT c.oid, 'policy ' || pg_catalog.quote_ident(p.polname) || ' on ' || {_REL}, jsonb_build_array(
        p.polcmd, p.polpermissive, p.polqual IS NULL, p.polwithcheck IS NULL,
        (SELECT array_agg(pg_catalog.pg_get_userbyid(x) ORDER BY x) FROM unnest(p.polroles) x),
        pg_catalog.obj_description(p.oid, 'pg_policy')) {_TABLES}
        JOIN pg_catalog.pg_policy p ON p.polrelid = c.oid""",
    f"""SELECT coalesce((SELECT d.refobjid FROM pg_catalog.pg_depend d
         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
         AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass), 0), 'sequence ' || {_REL}, jsonb_build_array(
        pg_catalog.format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache,
        s.seqcycle, c.relpersistence) {_TABLES} JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid""",
    # types and functions
    """SELECT 0::oid, 'enum ' || t.oid::pg_catalog.regtype, jsonb_build_array(
        array_agg(e.enumlabel ORDER BY e.enumsortorder)) FROM pg_catalog.pg_type t
        JOIN pg_catalog.pg_enum e ON e.enumtypid = t.oid GROUP BY t.oid""",
    """SELECT 0::oid, 'domain ' || t.oid::pg_catalog.regtype, jsonb_build_array(
        pg_catalog.format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault IS NULL,
        t.typcollation::pg_catalog.regcollation::text, (SELECT array_agg(k.conname ORDER BY k.conname)
        FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid)) FROM pg_catalog.pg_type t
        WHERE t.typtype = 'd' AND t.oid >= 16384""",
    """SELECT 0::oid, 'range ' || t.oid::pg_catalog.regtype, jsonb_build_array(
        r.rngsubtype::pg_catalog.regtype::text, r.rngcollation::pg_catalog.regcollation::text,
        r.rngcanonical::pg_catalog.regproc::text, r.rngsubdiff::pg_catalog.regproc::text,
        r.rngmultitypid::pg_catalog.regtype::text) FROM pg_catalog.pg_range r
        JOIN pg_catalog.pg_type t ON t.oid = r.rngtypid AND t.oid >= 16384""",
    """SELECT 0::oid, 'code of ' || p.oid::pg_catalog.regprocedure, jsonb_build_array(p.prokind, l.lanname,
        pg_catalog.md5(p.prosrc), p.probin, p.provolatile, p.proisstrict, p.prosecdef, p.proleakproof, p.proparallel,
        p.procost, p.prorows, p.proretset, pg_catalog.format_type(p.prorettype, NULL), p.proconfig, p.proargnames,
        p.proargmodes::text, p.pronargdefaults) FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE p.oid >= 16384
        AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.deptype = 'e' AND d.objid = p.oid
                        AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass)""",
    # what a database has as a whole
    """SELECT 0::oid, 'extension ' || e.extname, jsonb_build_array(e.extversion, n.nspname,
        pg_catalog.obj_description(e.oid, 'pg_extension')) FROM pg_catalog.pg_extension e
        JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace""",
    """SELECT 0::oid, 'default privileges of ' || pg_catalog.pg_get_userbyid(d.defaclrole) || ' for '
        || d.defaclobjtype::text || ' in ' || coalesce(n.nspname, 'every schema'),
        jsonb_build_array((SELECT array_agg(x::text ORDER BY x::text) FROM unnest(d.defaclacl) x))
        FROM pg_catalog.pg_default_acl d LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace""",
    """SELECT 0::oid, 'publication of ' || p.pubname, jsonb_build_array(p.puballtables, p.pubinsert, p.pubupdate,
        p.pubdelete, p.pubtruncate, (SELECT array_agg(r.prrelid::pg_catalog.regclass::text ORDER BY 1)
        FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid)) FROM pg_catalog.pg_publication p""",
)


async def take_inventory(connection: Connection, home: Name) -> list[Entry]:
    """Return all objects but `home`, in order. Within a transaction with an empty search path."""
    rows = await connection.fetch(f"SELECT c.oid, n.nspname, c.relname {_TABLES}")
    names = {row["oid"]: Name(row["nspname"], row["relname"]) for row in rows}
    found = []
    for query in [_objects(*each) for each in _OBJECTS] + [*_DETAILS]:
        # A key is null when the object went while we looked.
        words = f"SELECT oid, key, value::text AS value FROM ({query}) AS q(oid, key, value) WHERE key IS NOT NULL"
        for row in await connection.fetch(words):
            owner = names.get(row["oid"])
            if owner != home:
                found.append(Entry(owner.quoted if owner else "", row["key"], row["value"]))
    return sorted(found, key=lambda entry: (entry.key, entry.relation))


def within(entries: Iterable[Entry], tables: Sequence[Name], *, inside: bool = True) -> list[Entry]:
    """Return the entries that belong to some tables, or those that do not."""
    chosen = {table.quoted for table in tables}
    return [entry for entry in entries if (entry.relation in chosen) is inside]


def differences(wanted: Iterable[Entry], there: Iterable[Entry]) -> list[str]:
    """Return in words which objects are missing, too many or different."""
    then = {(entry.relation, entry.key): entry.value for entry in wanted}
    now = {(entry.relation, entry.key): entry.value for entry in there}
    words = [f"{key} is missing" for relation, key in then if (relation, key) not in now]
    words += [f"{key} should not be there" for relation, key in now if (relation, key) not in then]
    words += [f"{each[1]} is different" for each, value in then.items() if each in now and now[each] != value]
    return words


async def require_recreatable(connection: Connection) -> None:
    """Refuse a database with something that this role could not make again.

    Raises:
        IrreversibleError: it names the first of them.
    """
    for catalog, owner, _, _, condition in _OBJECTS:
        if owner is None:
            continue
        row = await connection.fetchrow(
            f"SELECT pg_catalog.pg_describe_object('pg_catalog.{catalog}'::pg_catalog.regclass, o.oid, 0) AS what,"
            f" pg_catalog.pg_get_userbyid(o.{owner}) AS owner FROM pg_catalog.{catalog} o"
            f" WHERE o.oid >= {_FIRST_OWN} AND {condition} AND {_not_part_of(catalog, 'e', 'i')}"
            f" AND NOT pg_catalog.pg_has_role(current_user, o.{owner}, 'MEMBER') ORDER BY o.oid LIMIT 1"
        )
        if row is not None:
            raise IrreversibleError("database.foreign", what=row["what"], owner=row["owner"])
    objects = await connection.fetchval("SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata")
    if objects:
        raise IrreversibleError("database.large_objects", count=objects)
    subscription = await connection.fetchval(
        "SELECT s.subname FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid"
        " WHERE d.datname = pg_catalog.current_database() LIMIT 1"
    )
    if subscription is not None:
        raise IrreversibleError("database.subscription", name=subscription)


def _objects(catalog: str, owner: str | None, acl: str | None, default: str | None, condition: str) -> str:
    """Return the query of one catalog: identity, owner, privileges and comment of each object."""
    who = f"pg_catalog.pg_get_userbyid(o.{owner})" if owner else "NULL"
    may = "NULL"
    if acl:
        may = (
            f"(SELECT array_agg(x::text ORDER BY x::text) FROM unnest(coalesce(o.{acl},"
            f' pg_catalog.acldefault(({default})::"char", o.{owner}))) x)'
        )
    belongs = "0::oid"
    if catalog == "pg_class":  # an index belongs to its table, as does the sequence of a column
        belongs = """coalesce((SELECT i.indrelid FROM pg_catalog.pg_index i WHERE i.indexrelid = o.oid),
            (SELECT d.refobjid FROM pg_catalog.pg_depend d WHERE o.relkind = 'S' AND d.objid = o.oid
             AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
             AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass), o.oid)"""
    described = f"('pg_catalog.{catalog}'::pg_catalog.regclass, o.oid, 0)"
    return (
        f"SELECT {belongs}, (SELECT i.type || ' ' || i.identity FROM pg_catalog.pg_identify_object{described} i),"
        f" jsonb_build_array({who}, {may}, pg_catalog.obj_description(o.oid, '{catalog}'))"
        f" FROM pg_catalog.{catalog} o WHERE (o.oid >= {_FIRST_OWN} OR '{catalog}' = 'pg_namespace')"
        f" AND {condition} AND {_not_part_of(catalog, 'e')}"
    )


def _not_part_of(catalog: str, *kinds: str) -> str:
    """Return the condition that an object is no member of an extension (e), or no inner part of another one (i)."""
    wanted = ", ".join(f"'{kind}'" for kind in kinds)
    return (
        f"NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e WHERE e.deptype IN ({wanted}) AND e.objid = o.oid"
        f" AND e.classid = 'pg_catalog.{catalog}'::pg_catalog.regclass)"
    )
