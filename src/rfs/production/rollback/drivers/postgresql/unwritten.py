"""Whether anybody has written into a database since a moment, told without reading its rows.

Rows of tables are told by what the server has counted, definitions by which rows its catalogs have. What belongs to
temporary tables is left out, and what the server writes when it looks after tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.drivers.postgresql.connect import row_of

if TYPE_CHECKING:
    from psycopg import Connection

_MOST = 100_000
# Large objects are rows, though they lie among the catalogs; user mappings not everybody may read.
_ROWS = """
SELECT (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint, pg_snapshot_xmin(pg_current_snapshot())::text::bigint
FROM pg_stat_all_tables s JOIN pg_class c ON c.oid = s.relid
WHERE c.relpersistence <> 't' AND s.schemaname <> 'pg_toast'
AND (s.schemaname <> 'pg_catalog' OR s.relname ~ '^pg_(largeobject|user_mapping)')
"""
_CATALOGS = """
SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared
AND relname !~ '^pg_(largeobject|statistic$|statistic_ext_data$)' AND has_table_privilege(oid, 'SELECT')
ORDER BY relname
"""
_TEMPORARY = """
WITH s AS MATERIALIZED (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_'),
t AS MATERIALIZED (SELECT oid FROM pg_class WHERE relnamespace IN (SELECT oid FROM s)
    UNION ALL SELECT oid FROM pg_type WHERE typnamespace IN (SELECT oid FROM s))
"""
_OF = {
    "pg_attrdef": "adrelid",
    "pg_attribute": "attrelid",
    "pg_class": "oid",
    "pg_constraint": "conrelid",
    "pg_index": "indrelid",
    "pg_inherits": "inhrelid",
    "pg_rewrite": "ev_class",
    "pg_sequence": "seqrelid",
    "pg_trigger": "tgrelid",
    "pg_type": "oid",
}
_OTHER = {
    "pg_depend": "objid IN (SELECT oid FROM t) OR refobjid IN (SELECT oid FROM t)",
    "pg_namespace": "oid IN (SELECT oid FROM s)",
    "pg_proc": "pronamespace IN (SELECT oid FROM s)",
}
# The one that closed the door is none of those who wrote.
_COMMITTED = """
SELECT 1 FROM generate_series(%s::bigint, %s::bigint - 1) AS n
WHERE n <> %s AND pg_xact_status(n::text::xid8) IS DISTINCT FROM 'aborted' LIMIT 1
"""


class Written(msgspec.Struct, frozen=True):
    """What tells whether somebody writes into a database afterwards.

    Attributes:
        written: rows that the server has counted as written.
        catalogs: which rows the catalogs have.
        began: the oldest transaction that was not over.
    """

    oid: int
    written: int
    began: int = 0
    catalogs: str = ""


def written_in(connection: Connection[Any]) -> Written:
    """Return how the database of this connection stands. Sessions tell what they wrote late, or when they end."""
    oid, rows, began = row_of(connection, _ROWS)
    parts = []
    for (name,) in connection.execute(_CATALOGS):
        leave = f"{_OF[name]} IN (SELECT oid FROM t)" if name in _OF else _OTHER.get(name, "false")
        each = f"sum(hashtextextended(ctid::text || xmin::text, 0)::numeric) FROM {name} WHERE NOT ({leave})"
        parts.append(f"SELECT '{name}', count(*), {each}")
    words = f"{_TEMPORARY} SELECT md5(string_agg(e::text, ' ' ORDER BY e)) FROM ({' UNION ALL '.join(parts)}) AS e"
    return Written(oid, rows, began, row_of(connection, words)[0])


def is_unwritten(connection: Connection[Any], then: Written, closed: int) -> bool:
    """Tell whether nobody has written into the database of this connection; all other sessions have ended.

    Args:
        closed: the number of the transaction that closed the door.
    """
    now = written_in(connection)
    if (now.oid, now.written, now.catalogs) == (then.oid, then.written, then.catalogs):
        return True
    # What was taken back was counted, too; and what other databases' transactions do cannot be told from this one's.
    (after,) = row_of(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    known = then.oid == now.oid and then.began > 0 and after - then.began <= _MOST
    return known and connection.execute(_COMMITTED, [then.began, after, closed]).fetchone() is None
