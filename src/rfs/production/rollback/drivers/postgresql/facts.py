"""The database itself: what no dump of its content holds, read from the server's catalogs and given to another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.drivers.postgresql.connect import connected, row_of
from rfs.production.rollback.model import Component

if TYPE_CHECKING:
    from psycopg import Connection

_DATABASE = """
SELECT to_jsonb(d) - 'datacl' AS row, pg_get_userbyid(d.datdba) AS owner,
       pg_encoding_to_char(d.encoding) AS encoding, t.spcname, shobj_description(d.oid, 'pg_database') AS comment
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = %s
"""
_ACL = """
SELECT coalesce(r.rolname, ''), a.privilege_type, a.is_grantable
FROM pg_database d, aclexplode(d.datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE d.datname = %s ORDER BY 1, 2
"""
# Written out, what everybody has by default is the same as nothing.
_HAS_ACL = """
SELECT datacl IS NOT NULL AND NOT (datacl @> usual AND usual @> datacl)
FROM pg_database, acldefault('d', datdba) AS usual WHERE datname = %s
"""
_SETTINGS = """
SELECT coalesce(r.rolname, ''), s.setconfig
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE d.datname = %s ORDER BY 1
"""
_KEYS = """
SELECT n.nspname, c.relname, array_agg(a.attname ORDER BY k.ord)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, ord)
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
WHERE i.indisprimary AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' GROUP BY 1, 2 ORDER BY 1, 2
"""
_INSTANT = """
SELECT pg_current_snapshot()::text || ' ' || coalesce(md5(string_agg(s, ',' ORDER BY s)), '')
FROM (SELECT format('%%s.%%s %%s', schemaname, sequencename, last_value) FROM pg_sequences) AS each(s)
"""
_COUNTED = """
SELECT d.oid::bigint, coalesce(s.tup_inserted + s.tup_updated + s.tup_deleted, 0), coalesce(s.stats_reset::text, '')
FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid WHERE d.datname = %s
"""
_DEFAULT_TABLESPACE = "pg_default"


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """What a database is besides its content.

    Attributes:
        encoding, collate, ctype, provider, locale, rules: what it was created with; `locale` of the provider.
        limit: the most connections, -1 for any number.
        acl: (role, privilege, whether it may be passed on), role "" for everybody; None when nothing was granted.
        settings: (role, its settings in this database), role "" for the database's own.
    """

    owner: str
    encoding: str
    collate: str
    ctype: str
    provider: str
    locale: str | None
    rules: str | None
    tablespace: str
    limit: int
    comment: str | None
    acl: tuple[tuple[str, str, bool], ...] | None
    settings: tuple[tuple[str, tuple[str, ...]], ...]


def plain(database: Database) -> dict[str, Any]:
    """Return what a database is as it comes back from JSON."""
    built: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(database))
    return built


class Counted(msgspec.Struct, frozen=True):
    """How many rows the server has counted as written in a database, its catalogs' among them.

    Attributes:
        since: when it began to count.
    """

    oid: int
    written: int
    since: str


class Held(msgspec.Struct, frozen=True):
    """A moment of a database that other sessions can see as well.

    Attributes:
        snapshot: its name, for as long as the session lives.
        instant: see instant_of.
        counted: what the server had counted when it began.
        version: the server's major version.
        keys: the columns of each table's primary key, by schema and table.
    """

    snapshot: str
    instant: str
    counted: Counted
    version: int
    database: Database
    keys: dict[tuple[str, str], tuple[str, ...]]


@contextmanager
def held(c: Component, name: str) -> Iterator[Held]:
    """Hold a moment of a database, so that everything that is read of it is of that moment."""
    with connected(c, name) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        counted = counted_in(connection, name)
        (snapshot,) = row_of(connection, "SELECT pg_export_snapshot()")
        database = read(connection, name)
        keys = {(schema, table): tuple(columns) for schema, table, columns in connection.execute(_KEYS)}
        version = connection.info.server_version // 10000
        yield Held(snapshot, instant_of(connection), counted, version, database, keys)


def instant_of(connection: Connection[Any]) -> str:
    """Return which transactions have begun and ended on the server, and how far this database's sequences are.

    Equal when nobody wrote anything: a sequence that moves is no transaction, most times.
    """
    return str(row_of(connection, _INSTANT)[0])


def is_quiet(instant: str) -> bool:
    """Tell whether no transaction that writes was running."""
    first, last, _ = instant.split(":", 2)
    return first == last


def opened_at(transaction: int, instant: str) -> bool:
    """Tell whether nobody wrote anything after a transaction, whose number is given."""
    return instant.startswith(f"{transaction + 1}:{transaction + 1}: ")


def counted_in(connection: Connection[Any], name: str) -> Counted:
    """Return what the server has counted in a database; a session tells it up to ten seconds late, or when it ends."""
    oid, written, since = row_of(connection, _COUNTED, name)
    return Counted(oid, written, since)


def system_of(connection: Connection[Any]) -> str:
    """Return what tells this server's data from every other's."""
    return str(row_of(connection, "SELECT system_identifier::text FROM pg_control_system()")[0])


def read(connection: Connection[Any], name: str) -> Database:
    """Return what a database is that exists."""
    columns, owner, encoding, tablespace, comment = row_of(connection, _DATABASE, name)
    acl = [tuple(each) for each in connection.execute(_ACL, [name])]
    settings = [(role, tuple(sorted(values))) for role, values in connection.execute(_SETTINGS, [name])]
    (has_acl,) = row_of(connection, _HAS_ACL, name)
    return Database(
        owner=owner,
        encoding=encoding,
        collate=columns["datcollate"],
        ctype=columns["datctype"],
        provider=columns["datlocprovider"],
        locale=columns.get("datlocale", columns.get("daticulocale")),
        rules=columns.get("daticurules"),
        tablespace=tablespace,
        limit=columns["datconnlimit"],
        comment=comment,
        acl=tuple(acl) if has_acl else None,
        settings=tuple(settings),
    )


def create(connection: Connection[Any], name: str, like: Database) -> None:
    """Create an empty database as another one was created."""
    from psycopg import sql

    words: list[sql.Composable] = [
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {}").format(
            sql.Identifier(name), sql.Identifier(like.owner)
        ),
        sql.SQL("ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(like.encoding, like.collate, like.ctype),
        sql.SQL("CONNECTION LIMIT {}").format(like.limit),
    ]
    if like.tablespace != _DEFAULT_TABLESPACE:  # that one needs no privilege unless it is named
        words.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(like.tablespace)))
    providers = {"i": ("icu", "ICU_LOCALE"), "b": ("builtin", "BUILTIN_LOCALE")}
    if like.provider in providers and like.locale is not None:
        provider, word = providers[like.provider]
        words.append(sql.SQL(f"LOCALE_PROVIDER {provider} {word} {{}}").format(like.locale))
        if like.rules is not None:
            words.append(sql.SQL("ICU_RULES {}").format(like.rules))
    else:
        words.append(sql.SQL("LOCALE_PROVIDER libc"))
    connection.execute(sql.SQL(" ").join(words))


def give(connection: Connection[Any], name: str, what: Database) -> None:
    """Give a database the privileges and settings of another; its comment is the swap's affair."""
    from psycopg import sql

    database = sql.Identifier(name)
    if what.acl is not None:
        _revoke(connection, name, {"", what.owner})
        for grantee, privilege, passed_on in what.acl:
            role = sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
            words = sql.SQL(f"GRANT {privilege} ON DATABASE {{}} TO {{}}").format(database, role)
            connection.execute(words + sql.SQL(" WITH GRANT OPTION" if passed_on else ""))
    for role_name, settings in what.settings:
        whose = sql.SQL("ALTER DATABASE {}").format(database)
        if role_name:
            whose = sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(role_name), database)
        for setting in settings:
            key, _, value = setting.partition("=")
            connection.execute(sql.SQL("{} SET {} TO {}").format(whose, _setting(key), _value(key, value)))


def give_again(connection: Connection[Any], name: str, now: Database, what: Database) -> None:
    """Give a database that is in use the privileges, settings, limit and comment that it had."""
    from psycopg import sql

    database = sql.Identifier(name)
    if now.acl != what.acl:
        _revoke(connection, name, {grantee for grantee, _, _ in now.acl or ()} | {"", now.owner})
        usual = "SELECT coalesce(r.rolname, ''), a.privilege_type, a.is_grantable FROM pg_database d,"
        usual += (
            " aclexplode(acldefault('d', d.datdba)) a LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE d.datname = %s"
        )
        acl = what.acl if what.acl is not None else tuple(connection.execute(usual, [name]).fetchall())
        what = msgspec.structs.replace(what, acl=acl)
    else:
        what = msgspec.structs.replace(what, acl=None)
    if now.settings != what.settings:
        for role, _ in now.settings:
            words = sql.SQL("ALTER DATABASE {} RESET ALL").format(database)
            if role:
                words = sql.SQL("ALTER ROLE {} IN DATABASE {} RESET ALL").format(sql.Identifier(role), database)
            connection.execute(words)
    else:
        what = msgspec.structs.replace(what, settings=())
    give(connection, name, what)
    if now.limit != what.limit:
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(database, what.limit))
    if now.comment != what.comment:
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, what.comment))


def _revoke(connection: Connection[Any], name: str, grantees: set[str]) -> None:
    from psycopg import sql

    for grantee in sorted(grantees):
        role = sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
        words = sql.SQL("REVOKE ALL ON DATABASE {} FROM {} CASCADE").format(sql.Identifier(name), role)
        connection.execute(words)


# Their values are lists, each item quoted as it has to be: one quoted text would be one item.
_ITEM = re.compile(r'"((?:[^"]|"")*)"|([^\s",]+)')
_LISTS = frozenset(
    ["search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries", "datestyle"]
)


def _setting(key: str) -> Any:
    from psycopg import sql

    return sql.SQL(".").join(map(sql.Identifier, key.split(".")))


def _value(key: str, value: str) -> Any:
    from psycopg import sql

    if key.lower() in _LISTS and value.strip():
        items = [plain if plain else quoted.replace('""', '"') for quoted, plain in _ITEM.findall(value)]
        return sql.SQL(", ").join(map(sql.Literal, items))
    return sql.Literal(value)
