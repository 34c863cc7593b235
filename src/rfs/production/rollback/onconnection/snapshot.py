"""What a database checkpoint holds, and its row in `db_checkpoints`.

`schema_dump` is SQL: what pg_dump says comes before the data, a line that says so, what comes after. `data_snapshot`
is a seal, then a msgpack of `Snapshot`: each table's rows as COPY has them, compressed, with their digest.
"""

from __future__ import annotations

import secrets
from contextlib import suppress

import msgspec

from rfs.production.rollback.errors import IntegrityError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.onconnection.connection import Connection

# PostgreSQL takes no value of 1 GiB, and the message that brings one has to fit as well.
LARGEST = 900 * 2**20  # bytes, compressed
_MAGIC = b"rfs database 1\n"
_BETWEEN = "-- rfs: the data comes here\n"
_COLUMNS = {
    "id": "text",
    "name": "text",
    "schema_dump": "text",
    "data_snapshot": "bytea",
    "created_at": "timestamp with time zone",
}


class Name(msgspec.Struct, frozen=True, order=True):
    """A relation's name, unquoted."""

    schema: str
    name: str

    @property
    def quoted(self) -> str:
        return f"{quote(self.schema)}.{quote(self.name)}"


class Rows(msgspec.Struct, frozen=True):
    """The rows of one table.

    Attributes:
        columns: those that can be written; None where COPY is to take its own.
        digest: of the rows in the text form of COPY.
        data: that text, compressed by zstd.
        extension: the table belongs to an extension, which makes it: its rows are compared, never written.
    """

    table: Name
    columns: list[str] | None
    count: int
    digest: str
    data: bytes
    extension: str = ""


class Sequence(msgspec.Struct, frozen=True):
    """Where a sequence stands."""

    sequence: Name
    last: int
    called: bool


class Entry(msgspec.Struct, frozen=True):
    """One object of the catalog: what it belongs to, which it is, and how it is."""

    relation: str
    key: str
    value: str


class Schema(msgspec.Struct, frozen=True):
    """What pg_dump said: `drops` remove what `before` and `after` the data make."""

    before: str = ""
    after: str = ""
    drops: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """A database, or some tables of it, at one moment.

    Attributes:
        scope: the tables it was restricted to, there or not; None for the whole database.
        migrations: the versions in `migration_history`, oldest first; None where there is no such table.
    """

    scope: list[Name] | None
    schema: Schema
    rows: list[Rows]
    sequences: list[Sequence]
    inventory: list[Entry]
    migrations: list[str] | None = None


def quote(name: str) -> str:
    """Return an identifier in quotes."""
    return '"' + name.replace('"', '""') + '"'


def encode(snapshot: Snapshot) -> tuple[str, bytes]:
    """Return what goes to `schema_dump` and to `data_snapshot`.

    Raises:
        RollbackError: it is more than a column can hold.
    """
    from blake3 import blake3

    text = snapshot.schema.before + _BETWEEN + snapshot.schema.after
    kept = msgspec.structs.replace(snapshot, schema=Schema(drops=snapshot.schema.drops))
    payload = msgspec.msgpack.encode((len(snapshot.schema.before), kept))
    if len(payload) > LARGEST:
        raise RollbackError("database.large", size=f"{len(payload) / 1e6:.0f} MB", most=f"{LARGEST / 1e6:.0f} MB")
    seal = blake3(text.encode()).digest() + blake3(payload).digest()
    return text, _MAGIC + seal + payload


def decode(checkpoint_id: str, text: str, data: bytes) -> Snapshot:
    """Return what `encode` was given.

    Raises:
        IntegrityError: it is damaged.
    """
    from blake3 import blake3

    seal, payload = data[len(_MAGIC) : len(_MAGIC) + 64], data[len(_MAGIC) + 64 :]
    whole = data.startswith(_MAGIC) and seal == blake3(text.encode()).digest() + blake3(payload).digest()
    if not whole:
        raise IntegrityError("database.damaged", checkpoint=checkpoint_id)
    length, snapshot = msgspec.msgpack.decode(payload, type=tuple[int, Snapshot])
    schema = Schema(text[:length], text[length + len(_BETWEEN) :], snapshot.schema.drops)
    return msgspec.structs.replace(snapshot, schema=schema)


async def find_home(connection: Connection) -> Name | None:
    """Return where `db_checkpoints` is, by the caller's search path; None where there is none.

    Raises:
        UsageError: a table of that name is not ours.
    """
    row = await connection.fetchrow(
        "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = pg_catalog.to_regclass('db_checkpoints')"
    )
    if row is None:
        return None
    columns = await connection.fetch(
        "SELECT attname, pg_catalog.format_type(atttypid, NULL) AS type FROM pg_catalog.pg_attribute"
        " WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
        row["oid"],
    )
    if not _COLUMNS.items() <= {each["attname"]: each["type"] for each in columns}.items():
        raise UsageError("database.table", table=f"{row['nspname']}.{row['relname']}")
    return Name(row["nspname"], row["relname"])


async def new_home(connection: Connection) -> Name:
    """Return where `db_checkpoints` will be made: in the caller's schema.

    Raises:
        UsageError: the caller's search path names no schema that is there.
    """
    schema = await connection.fetchval("SELECT pg_catalog.current_schema()")
    if schema is None:
        raise UsageError("database.no_schema")
    return Name(schema, "db_checkpoints")


async def make_home(connection: Connection, home: Name) -> None:
    """Make `db_checkpoints`, unless somebody else just did."""
    await connection.execute(
        f"CREATE TABLE IF NOT EXISTS {home.quoted} (id text PRIMARY KEY, name text NOT NULL, schema_dump text NOT NULL,"
        " data_snapshot bytea NOT NULL, created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp())"
    )


async def put(connection: Connection, home: Name, name: str, snapshot: Snapshot) -> str:
    """Store a snapshot, within the transaction; return its id."""
    text, data = encode(snapshot)
    checkpoint_id = secrets.token_hex(6)
    words = f"INSERT INTO {home.quoted} (id, name, schema_dump, data_snapshot, created_at)"  # it is quoted
    await connection.execute(
        words + " VALUES ($1, $2, $3, $4, pg_catalog.clock_timestamp())", checkpoint_id, name, text, data
    )
    return checkpoint_id


async def get(connection: Connection, home: Name, checkpoint_id: str) -> Snapshot:
    """Return a stored snapshot.

    Raises:
        NotFoundError: there is none of that id.
        IntegrityError: it is damaged.
    """
    row = await connection.fetchrow(
        f"SELECT schema_dump, data_snapshot FROM {home.quoted} WHERE id = $1",  # it is quoted
        checkpoint_id,
    )
    if row is None:
        raise NotFoundError("database.no_checkpoint", checkpoint=checkpoint_id, table=home.name)
    return decode(checkpoint_id, row["schema_dump"], row["data_snapshot"])


async def whole_ones(connection: Connection, home: Name) -> list[tuple[str, list[str] | None]]:
    """Return the undamaged checkpoints of the whole database, newest first: id, and the migrations then in force."""
    found = []
    for row in await connection.fetch(f"SELECT id FROM {home.quoted} ORDER BY created_at DESC"):  # it is quoted
        with suppress(IntegrityError):
            each = await get(connection, home, row["id"])
            if each.scope is None:
                found.append((row["id"], each.migrations))
    return found
