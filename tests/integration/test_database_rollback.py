"""DatabaseRollbackManager on real servers: what comes back, what is refused, and that nothing is half done."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import stat
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pg_everything import DAMAGE, EVERYTHING, everything_of

from pg_server import Server, installations, running
from rfs.production.rollback import DatabaseRollbackManager, pg_dump
from rfs.production.rollback.application import Application
from rfs.production.rollback.onconnection import restore, snapshot

_numbers = iter(range(10**6))


class Shop:
    """A database of its own, with an owner's connection to look by, and managers on connections of their own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"rollback_{os.getpid()}_{next(_numbers)}"
        server.create(self.name, "shop_owner")
        self.sql = server.connect(self.name, "shop_owner")

    def reconnect(self) -> None:
        """A swap ended the session."""
        self.sql.close()
        self.sql = self.server.connect(self.name, "shop_owner")

    def ask(self, query: str) -> list[Any]:
        return self.sql.execute(query).fetchall()

    def everything(self) -> dict[str, Any]:
        return everything_of(self.sql)

    def do(
        self, act: Callable[[Any], Coroutine[Any, Any, Any]], kind: type[Any] = DatabaseRollbackManager, **options: Any
    ) -> Any:
        """Run `act` with a manager on a new connection."""

        async def run() -> Any:
            connection = await asyncpg.connect(host=str(self.server.socket), database=self.name, user="shop_owner")
            try:
                manager = kind(connection, **options)
                manager.lock_timeout = 0.3
                return await act(manager)
            finally:
                await connection.close()

        return asyncio.run(run())

    def checkpoint(self, **options: Any) -> str:
        made: str = self.do(lambda m: m.create_database_checkpoint("before"), **options).unwrap()
        return made

    def roll_back(self, checkpoint: str, **options: Any) -> Any:
        return self.do(lambda m: m.rollback_database(checkpoint), **options)

    def migrate(self, version: str, **options: Any) -> Any:
        return self.do(lambda m: m.rollback_migration(version), **options)


@pytest.fixture
def shop(pg_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("PATH", f"{pg_server.bin}{os.pathsep}{os.environ['PATH']}")
    made = Shop(pg_server)
    try:
        yield made
    finally:
        made.sql.close()


@contextmanager
def unchanged(shop: Shop) -> Iterator[None]:
    before = shop.everything()
    yield
    after = shop.everything()
    number = "at public.trail_id_seq"  # a number that a script took is gone in every transaction
    assert {**after, number: 0} == {**before, number: 0}


# — everything —


_versions = sorted(installations())


@pytest.mark.parametrize(
    "version", [*(pytest.param(each, marks=pytest.mark.slow) for each in _versions[:-1]), *_versions[-1:]]
)
def test_one_of_everything_comes_back_and_the_damage_too(
    version: int, pg_server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    manager = running(version=version)
    server = pg_server if version == _versions[-1] else request.getfixturevalue("stack").enter_context(manager)
    monkeypatch.setenv("PATH", f"{server.bin}{os.pathsep}{os.environ['PATH']}")
    shop = Shop(server)
    with closing(shop.sql):
        shop.sql.execute(EVERYTHING)
        before = shop.everything()
        taken = shop.checkpoint()
        shop.sql.execute(DAMAGE)
        shop.sql.execute("REFRESH MATERIALIZED VIEW app.counted")
        damaged = shop.everything()
        assert damaged != before
        done = shop.roll_back(taken).unwrap()
        assert done == {"checkpoint_id": taken, "backup_id": done["backup_id"], "status": "completed"}
        assert shop.everything() == before
        shop.sql.execute("INSERT INTO app.orders (customer) VALUES (1)")  # the application goes on
        assert shop.ask("SELECT count(*) FROM app.log WHERE what LIKE 'INSERT%orders'")[0][0] == 3
        assert shop.roll_back(done["backup_id"]).is_success()
        assert shop.everything() == damaged
        assert len(shop.ask("SELECT id FROM db_checkpoints")) == 3


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def test_the_table_of_checkpoints_is_that_of_the_contract(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (7)")
    taken = shop.checkpoint()
    columns = shop.ask(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'db_checkpoints'"
        " ORDER BY ordinal_position"
    )
    assert [row[0] for row in columns] == ["id", "name", "schema_dump", "data_snapshot", "created_at"]
    [(found, name, schema)] = shop.ask("SELECT id, name, schema_dump FROM db_checkpoints")
    assert (found, name) == (taken, "before")
    assert "CREATE TABLE public.t" in schema


def test_the_schema_that_holds_the_checkpoints_comes_back_around_them(shop: Shop) -> None:
    shop.sql.execute("CREATE SCHEMA app; CREATE TABLE app.t (a int); GRANT USAGE ON SCHEMA app TO PUBLIC")
    shop.sql.execute(f"ALTER DATABASE {shop.name} SET search_path = app")
    before = shop.everything()
    taken = shop.checkpoint()
    assert shop.ask("SELECT count(*) FROM app.db_checkpoints") == [(1,)]
    shop.sql.execute("DROP TABLE app.t; GRANT CREATE ON SCHEMA app TO PUBLIC; COMMENT ON SCHEMA app IS 'x'")
    assert shop.roll_back(taken).is_success()
    assert shop.everything() == before


def test_an_extension_that_stays_keeps_its_schema_and_its_objects(shop: Shop) -> None:
    with shop.server.connect(shop.name) as superuser:
        superuser.execute("CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext")
        superuser.execute("GRANT USAGE ON SCHEMA ext TO shop_owner; ALTER SCHEMA ext OWNER TO shop_owner")
    shop.sql.execute("CREATE TABLE t (a ext.vector(2)); INSERT INTO t VALUES ('[1,2]')")
    before = shop.everything()
    taken = shop.checkpoint()
    shop.sql.execute("DROP TABLE t; CREATE TABLE u (a ext.vector(3))")
    assert shop.roll_back(taken).is_success()
    assert shop.everything() == before


# — rows only —


def test_rows_come_back_without_triggers_through_circles_of_keys(shop: Shop) -> None:
    shop.sql.execute(EVERYTHING)
    before = shop.everything()
    taken = shop.checkpoint()
    oid = shop.ask("SELECT 'app.orders'::regclass::oid, 'app.base'::regclass::oid, pg_relation_filenode('app.base')")
    shop.sql.execute("UPDATE app.customer SET parent = NULL; DELETE FROM app.customer; DELETE FROM app.remarks")
    shop.sql.execute("DELETE FROM app.events; SELECT nextval('app.numbers'); UPDATE app.quick SET a = 5")
    assert shop.roll_back(taken).is_success()
    assert shop.everything() == before
    # Neither made anew, nor so much as touched where nothing had changed.
    assert oid == shop.ask(
        "SELECT 'app.orders'::regclass::oid, 'app.base'::regclass::oid, pg_relation_filenode('app.base')"
    )


class Refuses(DatabaseRollbackManager):
    verdict: Any = False

    async def validate_database(self) -> Any:
        if isinstance(self.verdict, Exception):
            raise self.verdict
        # It is the restored state, found by the names that the caller uses.
        assert await self.connection.fetchval("SELECT count(*) FROM t") == 1  # type: ignore[attr-defined]  # asyncpg's, untyped
        return self.verdict


@pytest.mark.parametrize(("verdict", "schema_too"), [(False, True), (ValueError("too few\nrows"), False)])
def test_a_failed_validation_leaves_the_state_before(
    shop: Shop, verdict: Any, schema_too: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Refuses, "verdict", verdict)
    shop.sql.execute("CREATE TABLE t (a serial, b int); INSERT INTO t (b) VALUES (1)")
    taken = shop.checkpoint()
    shop.sql.execute("INSERT INTO t (b) VALUES (2), (3)")
    if schema_too:
        shop.sql.execute("ALTER TABLE t ADD c int DEFAULT 5")
    with unchanged(shop):
        failed = shop.roll_back(taken, kind=Refuses)
    assert failed.error.key == "database.invalid"
    assert shop.ask("SELECT last_value FROM t_a_seq") == [(3,)]
    assert shop.ask("SELECT count(*) FROM db_checkpoints") == [(1,)]
    monkeypatch.setattr(Refuses, "verdict", None)
    assert shop.roll_back(taken, kind=Refuses).is_success()


class Ends(DatabaseRollbackManager):
    words = ""
    fails = False

    async def validate_database(self) -> Any:
        await self.connection.execute(self.words)  # type: ignore[attr-defined]  # an asyncpg connection
        if self.fails:
            raise ValueError
        return True


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("words", ["COMMIT", "ROLLBACK", "COMMIT; BEGIN"])
def test_a_validation_that_ends_the_transaction_is_no_success(
    shop: Shop, words: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ends, "words", words)
    monkeypatch.setattr(Ends, "fails", fails)
    shop.sql.execute("CREATE TABLE t (a int)")
    taken = shop.checkpoint()
    shop.sql.execute("INSERT INTO t VALUES (1)")
    assert shop.roll_back(taken, kind=Ends).error.key == "database.committed"
    assert shop.ask("SELECT count(*) FROM t") == [(0 if "COMMIT" in words else 1,)]
    assert len(shop.ask("SELECT id FROM db_checkpoints")) == (2 if "COMMIT" in words else 1)


@pytest.mark.parametrize("gone", ["_addr", "_params"])
def test_an_asyncpg_that_hides_its_address_is_told_apart(shop: Shop, gone: str) -> None:
    """pg_dump needs what asyncpg has no public name for: where those are gone, that is said, not guessed."""

    async def act(manager: Any) -> Any:
        setattr(manager.connection, gone, None)
        return await manager.create_database_checkpoint("x")

    assert shop.do(act).error.key == "database.address"


def test_what_a_trigger_of_the_database_adds_is_noticed(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE t (a int)")
    taken = shop.checkpoint()
    shop.sql.execute("ALTER TABLE t ADD b int")
    with shop.server.connect(shop.name) as superuser:
        superuser.execute(
            "CREATE FUNCTION public.meddle() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS"
            " 'BEGIN IF to_regclass(''public.extra'') IS NULL THEN CREATE TABLE public.extra (a int); END IF; END';"
            "CREATE EVENT TRIGGER meddling ON ddl_command_end WHEN TAG IN ('ALTER TABLE')"
            " EXECUTE FUNCTION public.meddle()"
        )
        failed = shop.roll_back(taken)
        assert failed.error.key == "database.foreign"
        assert "meddl" in str(failed.error)
        superuser.execute("DROP EVENT TRIGGER meddling; ALTER FUNCTION public.meddle() OWNER TO shop_owner")
    assert shop.roll_back(taken).is_success()


def test_a_restore_that_makes_something_else_is_undone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sql.execute("CREATE TABLE t (a int, b int DEFAULT 7); INSERT INTO t VALUES (1)")
    taken = shop.checkpoint()
    shop.sql.execute("ALTER TABLE t ADD c int")
    run = snapshot.decode

    def forged(*words: Any) -> Any:
        import msgspec

        found = run(*words)
        schema = msgspec.structs.replace(found.schema, before=found.schema.before.replace(" DEFAULT 7", ""))
        return msgspec.structs.replace(found, schema=schema)

    monkeypatch.setattr(snapshot, "decode", forged)
    with unchanged(shop):
        failed = shop.roll_back(taken)
    assert failed.error.key == "database.differs"
    assert "column b of public.t is different" in str(failed.error)


def test_rows_and_sequences_that_came_back_otherwise_are_undone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sql.execute("CREATE TABLE t (a serial); INSERT INTO t VALUES (DEFAULT), (DEFAULT)")
    taken = shop.checkpoint()
    shop.sql.execute("INSERT INTO t VALUES (DEFAULT); SELECT nextval('t_a_seq')")

    async def lost(*_: Any) -> None:
        pass

    for step, said in (("_write_rows", "has other rows"), ("_set_sequence", "a sequence stands elsewhere")):
        with monkeypatch.context() as broken:
            broken.setattr(restore, step, lost)
            with unchanged(shop):
                failed = shop.roll_back(taken)
        assert failed.error.key == "database.differs"
        assert said in str(failed.error)
    assert shop.roll_back(taken).is_success()


# — some tables —


def test_only_the_important_tables_and_what_others_think_of_them(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE a (id serial PRIMARY KEY, x int); INSERT INTO a (x) VALUES (1), (2)")
    shop.sql.execute("CREATE TABLE b (id int REFERENCES a ON DELETE CASCADE); INSERT INTO b VALUES (1)")
    shop.sql.execute("CREATE VIEW v AS SELECT x FROM a")
    taken = shop.checkpoint(tables=["a"])
    shop.sql.execute("UPDATE a SET x = 9; INSERT INTO a (x) VALUES (3); INSERT INTO b VALUES (2)")
    assert shop.roll_back(taken).is_success()
    assert shop.ask("SELECT id, x FROM a ORDER BY id") == [(1, 1), (2, 2)]
    assert shop.ask("SELECT id FROM b ORDER BY id") == [(1,), (2,)]  # not asked for, so not touched
    assert shop.ask("SELECT count(*) FROM pg_constraint WHERE conrelid = 'b'::regclass AND contype = 'f'") == [(1,)]


def test_a_table_that_was_dropped_comes_back_and_goes_again(shop: Shop) -> None:
    shop.sql.execute(
        "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id int REFERENCES a); CREATE TABLE c (a int)"
    )
    shop.sql.execute("INSERT INTO a DEFAULT VALUES; INSERT INTO b VALUES (1)")
    before = shop.everything()
    taken = shop.checkpoint(tables=["a", "public.c"])
    shop.sql.execute("DROP TABLE c; ALTER TABLE a ADD x int")
    damaged = shop.everything()
    done = shop.roll_back(taken).unwrap()
    assert shop.everything() == before
    assert shop.roll_back(done["backup_id"]).is_success()
    assert shop.everything() == damaged


def test_what_a_restricted_rollback_would_change_outside_of_its_tables_is_undone(shop: Shop) -> None:
    """Made anew, the table would be in the publication no longer, which is no part of the checkpoint."""
    shop.sql.execute("CREATE TABLE t (a int); CREATE PUBLICATION p FOR TABLE t")
    taken = shop.checkpoint(tables=["t"])
    shop.sql.execute("ALTER TABLE t ADD b int")
    with unchanged(shop):
        failed = shop.roll_back(taken)
    assert failed.error.key == "database.differs"
    assert "publication" in str(failed.error)


def test_a_table_that_others_depend_on_is_not_made_anew(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE a (x int); CREATE VIEW v AS SELECT x FROM a")
    taken = shop.checkpoint(tables=["a"])
    shop.sql.execute("ALTER TABLE a ADD y int")
    with unchanged(shop):
        failed = shop.roll_back(taken)
    assert failed.error.key == "database.dependents"
    assert "view public.v" in str(failed.error)
    shop.sql.execute("DROP VIEW v")
    assert shop.roll_back(taken).is_success()
    assert shop.ask("SELECT count(*) FROM information_schema.columns WHERE table_name = 'a'") == [(1,)]


def test_rows_that_another_table_needs_are_not_taken_away(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int REFERENCES a)")
    taken = shop.checkpoint(tables=["a"])
    shop.sql.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    with unchanged(shop):
        assert shop.roll_back(taken).error.key == "database.refused"


def test_a_partitioned_table_brings_its_partitions(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)")
    shop.sql.execute("INSERT INTO p VALUES (1)")
    before = shop.everything()
    taken = shop.checkpoint(tables=["p"])
    shop.sql.execute("ALTER TABLE p ADD b int; TRUNCATE p")
    assert shop.roll_back(taken).is_success()
    assert shop.everything() == before


# — refusals and faults —


def test_bad_input_is_refused_with_its_reason(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shop.roll_back("nonsense").error.key == "database.no_checkpoint"
    shop.sql.execute("CREATE TABLE t (a int)")
    taken = shop.checkpoint()
    assert shop.roll_back("nonsense").error.key == "database.no_checkpoint"
    missing = shop.do(lambda m: m.create_database_checkpoint("x"), tables=["t", "nowhere"])
    assert missing.error.key == "database.no_such_table"
    assert "nowhere" in str(missing.error)
    dsn = asyncio.run(DatabaseRollbackManager("postgresql://x", tables=["t"]).create_database_checkpoint("x"))
    assert dsn.error.key == "database.tables"

    async def inside(manager: Any) -> Any:
        async with manager.connection.transaction():
            return await manager.rollback_database(taken)

    assert shop.do(inside).error.key == "database.in_transaction"

    async def closed(manager: Any) -> Any:
        await manager.connection.close()
        return await manager.rollback_database(taken)

    assert shop.do(closed).error.key == "database.closed"
    shop.sql.execute("UPDATE db_checkpoints SET schema_dump = schema_dump || ' '")
    assert shop.roll_back(taken).error.key == "database.damaged"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pg_dump, "_WHERE", ())
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    old.chmod(stat.S_IRWXU)
    failed = shop.roll_back(taken)
    assert failed.error.key == "database.pg_dump"
    assert f"{old} (9)" in str(failed.error)


def test_without_a_schema_there_is_no_place_for_checkpoints(shop: Shop) -> None:
    shop.sql.execute(f"ALTER DATABASE {shop.name} SET search_path = nowhere")
    assert shop.do(lambda m: m.create_database_checkpoint("x")).error.key == "database.no_schema"


def test_another_table_of_that_name_is_left_alone(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE db_checkpoints (id serial, name text)")
    assert shop.do(lambda m: m.create_database_checkpoint("x")).error.key == "database.table"


def test_what_could_not_be_made_again_is_refused_by_name(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sql.execute("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 100000)")
    monkeypatch.setattr(snapshot, "LARGEST", 1000)
    assert shop.do(lambda m: m.create_database_checkpoint("x")).error.key == "database.large"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{shop.server.bin}{os.pathsep}{os.environ['PATH']}")
    shop.sql.execute("SELECT lo_from_bytea(0, 'x')")
    assert shop.do(lambda m: m.create_database_checkpoint("x")).error.key == "database.large_objects"
    assert shop.ask("SELECT to_regclass('db_checkpoints')::text") == [(None,)]
    shop.sql.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    with shop.server.connect(shop.name) as superuser:
        superuser.execute("CREATE TABLE public.theirs (a int); GRANT ALL ON public.theirs TO PUBLIC")
    failed = shop.do(lambda m: m.create_database_checkpoint("x"))
    assert failed.error.key == "database.foreign"
    assert "theirs" in str(failed.error)


@pytest.mark.slow
def test_a_table_that_somebody_writes_to_is_waited_for_and_then_refused(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE t (a int)")
    taken = shop.checkpoint()
    shop.sql.execute("ALTER TABLE t ADD b int")
    with shop.server.connect(shop.name, "shop_owner") as other, unchanged(shop):
        other.autocommit = False
        other.execute("INSERT INTO t VALUES (1)")
        assert shop.checkpoint()  # reading stands in nobody's way
        failed = shop.roll_back(taken)
        assert failed.error.key == "database.locked"
        assert failed.error.retryable
        other.rollback()
    with shop.server.connect(shop.name, "shop_owner") as other:
        other.autocommit = False
        other.execute("SELECT * FROM t")  # a reader is in the way of making the table anew, and of nothing before
        with unchanged(shop):
            assert shop.roll_back(taken).error.key == "database.locked"
        other.rollback()
    assert shop.roll_back(taken).is_success()


def test_a_server_that_goes_is_told_and_nothing_is_half_done(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE t (a int)")
    taken = shop.checkpoint()
    shop.sql.execute("ALTER TABLE t ADD b int")

    class Cut(DatabaseRollbackManager):
        async def validate_database(self) -> bool:
            pid = self.connection.get_server_pid()  # type: ignore[attr-defined]  # asyncpg's, untyped
            with shop.server.connect() as superuser:
                superuser.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            return True

    with unchanged(shop):
        assert shop.roll_back(taken, kind=Cut).error.key == "database.lost"


def test_cancelling_turns_it_back_and_leaves_the_connection_usable(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE t (a int)")
    taken = shop.checkpoint()
    shop.sql.execute("ALTER TABLE t ADD b int")

    class Waits(DatabaseRollbackManager):
        async def validate_database(self) -> bool:
            self.reached.set()
            await asyncio.Event().wait()
            return True

    async def cancel(manager: Any) -> Any:
        manager.reached = asyncio.Event()
        task = asyncio.ensure_future(manager.rollback_database(taken))
        await manager.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await manager.connection.fetchval("SELECT 1")

    with unchanged(shop):
        assert shop.do(cancel, kind=Waits) == 1


def test_the_session_is_left_as_it_was(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE t (a timestamptz); INSERT INTO t VALUES (now())")

    async def act(manager: Any) -> Any:
        query = "SELECT name, setting FROM pg_settings WHERE name !~ 'transaction' ORDER BY name"
        await manager.connection.execute(
            "SET search_path = public; SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Seoul'"
        )
        before = await manager.connection.fetch(query)
        taken = (await manager.create_database_checkpoint("x")).unwrap()
        await manager.connection.execute("ALTER TABLE t ADD b int")
        (await manager.rollback_database(taken)).unwrap()
        assert await manager.connection.fetch(query) == before

    shop.do(act)


@pytest.mark.slow
def test_what_a_script_sets_does_not_outlive_it(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE migration_history (version text, down_script text)")
    shop.sql.execute("INSERT INTO migration_history VALUES ('1', 'SET work_mem = ''8MB''; SET extra_float_digits = 0')")

    async def act(manager: Any) -> Any:
        shown = "SELECT current_setting('work_mem'), current_setting('extra_float_digits')"
        before = tuple(await manager.connection.fetchrow(shown))
        assert (await manager.rollback_migration("0")).is_success()
        return before, tuple(await manager.connection.fetchrow(shown))

    before, after = shop.do(act)
    assert after == before != ("8MB", "0")


def test_a_server_that_is_too_old_is_refused() -> None:
    class Old:
        copy_to_table = None

        def is_closed(self) -> bool:
            return False

        is_in_transaction = is_closed

        def get_server_version(self) -> Any:
            return asyncpg.types.ServerVersion(14, 9, 0, "final", 0)

    failed = asyncio.run(DatabaseRollbackManager(Old()).create_database_checkpoint("x"))
    assert failed.is_failure()
    assert failed.error.key == "database.old_server"


@pytest.mark.slow
def test_every_checkpoint_under_writers_is_of_one_moment(shop: Shop) -> None:
    shop.sql.execute(
        "CREATE TABLE a (n int); CREATE TABLE b (n int); INSERT INTO a VALUES (1000); INSERT INTO b VALUES (0)"
    )

    async def act(manager: Any) -> list[str]:
        others = [
            await asyncpg.connect(host=str(shop.server.socket), database=shop.name, user="shop_owner") for _ in range(3)
        ]
        going = True

        async def write(connection: Any) -> None:
            while going:
                async with connection.transaction():
                    await connection.execute("UPDATE a SET n = n - 1")
                    await connection.execute("UPDATE b SET n = n + 1")

        tasks = [asyncio.ensure_future(write(each)) for each in others]
        taken = [(await manager.create_database_checkpoint("x")).unwrap() for _ in range(4)]
        going = False
        await asyncio.gather(*tasks)
        for each in others:
            await each.close()
        return taken

    for taken in shop.do(act):
        assert shop.roll_back(taken).is_success()
        assert shop.ask("SELECT (SELECT n FROM a) + (SELECT n FROM b)") == [(1000,)]


# — values of all types —

_finite = st.floats(allow_nan=True, allow_infinity=True)
_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_VALUES = {
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "numeric": st.decimals(-(10**30), 10**30, allow_nan=False).map(str)
    | st.sampled_from(["NaN", "Infinity", "-Infinity"]),
    "double precision": _finite.map(repr),
    "real": st.floats(width=32).map(repr),
    "text": _text,
    "bytea": st.binary().map(lambda data: "\\x" + data.hex()),
    "jsonb": st.recursive(st.none() | st.booleans() | st.integers() | _text, st.lists).map(json.dumps),
    "text[]": st.lists(st.none() | _text),
    "timestamptz": st.datetimes().map(lambda at: f"{at.isoformat()}+00" if at.year > 9 else "-infinity"),
    "interval": st.timedeltas().map(lambda took: f"{took.days} days {took.seconds}.{took.microseconds:06} seconds"),
    "nummultirange": st.lists(st.integers(0, 99), max_size=3).map(
        lambda starts: "{" + ",".join(f"[{each},{each}.5]" for each in starts) + "}"
    ),
    "int8range": st.tuples(st.integers(0, 9), st.integers(9, 99)).map(lambda ends: f"[{ends[0]},{ends[1]})"),
    "bit varying": st.text("01"),
    "uuid": st.uuids().map(str),
    "inet": st.ip_addresses().map(str),
    "money": st.decimals(-(10**9), 10**9, places=2).map(str),
    "app.mood": st.sampled_from(["sad", "so 'so'", "happy"]),
    "app.positive": st.integers(1, 2**31 - 1).map(str),
}


@pytest.mark.slow
def test_values_of_every_type_are_exactly_the_same(shop: Shop) -> None:
    shop.sql.execute("CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('sad', 'so ''so''', 'happy')")
    shop.sql.execute("CREATE DOMAIN app.positive AS int CHECK (VALUE > 0)")
    columns = ", ".join(f'"{kind}" {kind}' for kind in _VALUES)
    shop.sql.execute(f"CREATE TABLE v (number serial, {columns})")
    json_safe = {**_VALUES, "jsonb": _VALUES["jsonb"].filter(lambda text: "\\u0000" not in text)}

    @settings(
        max_examples=8,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(st.lists(st.fixed_dictionaries({kind: st.none() | each for kind, each in json_safe.items()}), min_size=1))
    def same(rows: list[dict[str, Any]]) -> None:
        shop.sql.execute("TRUNCATE v")
        names = ", ".join(f'"{kind}"' for kind in _VALUES)
        holes = ", ".join(f"%s::{kind}" for kind in _VALUES)
        with shop.sql.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO v ({names}) VALUES ({holes})", [[row[kind] for kind in _VALUES] for row in rows]
            )
        sent = "SELECT md5(string_agg(md5(v.*::text), '' ORDER BY number)), bool_and(v.* IS NOT NULL) FROM v"
        binary = f"SELECT {', '.join(_send(kind) for kind in _VALUES)} FROM v ORDER BY number"
        before = (shop.ask(sent), shop.ask(binary))
        taken = shop.checkpoint()
        shop.sql.execute("DELETE FROM v WHERE number % 2 = 0; UPDATE v SET text = text || 'x'")
        shop.sql.execute('ALTER TABLE v ADD w int; ALTER TABLE v DROP COLUMN "uuid"')
        shop.roll_back(taken).unwrap()
        assert (shop.ask(sent), shop.ask(binary)) == before
        shop.sql.execute("DELETE FROM db_checkpoints")

    same()


def _send(kind: str) -> str:
    """Return the expression of a column's binary form."""
    functions = {
        "bigint": "int8",
        "double precision": "float8",
        "real": "float4",
        "text[]": "array_",
        "bit varying": "varbit_",
    }
    functions |= {
        "money": "cash_",
        "nummultirange": "multirange_",
        "int8range": "range_",
        "app.mood": "enum_",
        "app.positive": "int4",
        "numeric": "numeric_",
    }
    functions |= {
        "uuid": "uuid_",
        "jsonb": "jsonb_",
        "inet": "inet_",
        "interval": "interval_",
        "timestamptz": "timestamptz_",
    }
    return f'{functions.get(kind, kind)}send("{kind}")'


# — migrations —

HISTORY = """
CREATE TABLE migration_history (version text PRIMARY KEY, down_script text, applied_at timestamptz DEFAULT now());
CREATE TABLE trail (id serial, what text);
CREATE TABLE one (a int); CREATE TABLE two (a int); CREATE TABLE ten (a int);
INSERT INTO migration_history VALUES ('1', 'DROP TABLE one; INSERT INTO trail (what) VALUES (''one'')'),
    ('2', 'BEGIN; DROP TABLE two; INSERT INTO trail (what) VALUES (''two; COMMIT''); COMMIT;'),
    ('10', 'DROP TABLE ten; INSERT INTO trail (what) VALUES (''ten'')');
"""


def test_migrations_go_newest_first_each_with_its_row(shop: Shop) -> None:
    shop.sql.execute(HISTORY)
    assert shop.migrate("1").unwrap() == "2 migrations rolled back to 1"
    assert [row[0] for row in shop.ask("SELECT what FROM trail ORDER BY id")] == ["ten", "two; COMMIT"]
    assert shop.ask("SELECT version FROM migration_history") == [("1",)]
    assert shop.migrate("1").error.key == "migration.nothing"
    assert shop.migrate("0").unwrap() == "1 migration rolled back to 0"


@pytest.mark.parametrize(
    ("script", "key"),
    [
        (None, "migration.no_way"),
        ("  ", "migration.no_way"),
        ("DROP TABLE nonsense", "migration.failed"),
        ("DROP TABLE two; COMMIT; DROP TABLE one", "migration.transaction"),
        ("VACUUM two", "migration.transaction"),
        ("DELETE FROM migration_history", "migration.rows"),
    ],
)
def test_a_way_down_that_cannot_be_gone_is_not_begun(shop: Shop, script: str | None, key: str) -> None:
    shop.sql.execute(HISTORY)
    shop.sql.execute("UPDATE migration_history SET down_script = %s WHERE version = '2'", [script])
    with unchanged(shop):
        assert shop.migrate("1").error.key == key


def test_migrations_that_are_not_there(shop: Shop) -> None:
    assert shop.migrate("1").error.key == "migration.no_history"
    shop.sql.execute(HISTORY)
    with unchanged(shop):
        assert shop.migrate("1O").error.key == "migration.unknown"
        assert shop.migrate("10").error.key == "migration.nothing"


def test_a_checkpoint_covers_a_migration_without_a_way_down(shop: Shop) -> None:
    shop.sql.execute(HISTORY.replace("CREATE TABLE ten (a int);", ""))
    shop.sql.execute("DELETE FROM migration_history WHERE version = '10'")
    shop.checkpoint(tables=["one"])  # it does not cover the whole
    shop.checkpoint()
    shop.sql.execute("CREATE TABLE ten (a int); INSERT INTO migration_history VALUES ('10', NULL)")
    assert shop.migrate("1").unwrap() == "2 migrations rolled back to 1"
    assert [row[0] for row in shop.ask("SELECT what FROM trail ORDER BY id")] == ["two; COMMIT"]
    assert shop.ask("SELECT to_regclass('ten')::text, to_regclass('two')::text, to_regclass('one')::text") == [
        (None, None, "one")
    ]
    assert shop.ask("SELECT count(*) FROM db_checkpoints WHERE name ~ '^before the rollback'") == [(1,)]


def test_a_script_runs_as_the_session_would(shop: Shop) -> None:
    shop.sql.execute("CREATE TABLE migration_history (version int, down_script text); CREATE TABLE d (day date)")
    shop.sql.execute("INSERT INTO migration_history VALUES (1, 'INSERT INTO d VALUES (''01/02/2026'')')")

    async def act(manager: Any) -> Any:
        await manager.connection.execute("SET datestyle = 'ISO, DMY'")
        return await manager.rollback_migration("0")

    assert shop.do(act).is_success()
    assert str(shop.ask("SELECT day FROM d")[0][0]) == "2026-02-01"


def test_a_pool_lends_its_connections(shop: Shop) -> None:
    async def act() -> str:
        async with (
            asyncpg.create_pool(
                host=str(shop.server.socket), database=shop.name, user="shop_owner", min_size=1
            ) as pool,
            pool.acquire() as connection,
        ):
            made: str = (await DatabaseRollbackManager(connection).create_database_checkpoint("x")).unwrap()
            return made

    assert re.fullmatch("[0-9a-f]{12}", asyncio.run(act()))


def test_psycopg_is_refused(shop: Shop) -> None:
    connection: psycopg.Connection[Any] = shop.sql
    failed = asyncio.run(DatabaseRollbackManager(connection).create_database_checkpoint("x"))
    assert failed.is_failure()
    assert "asyncpg" in failed.error.hint


# — by the whole driver —


class Picky(DatabaseRollbackManager):
    """Says no when it is told to; an async hook, as an application's would be."""

    wanted: Any = True

    async def validate_database(self) -> Any:
        await asyncio.sleep(0)  # gives the loop a turn, so that it is one that has to be awaited
        return self.wanted


def whole(given: str, tmp_path: Path, act: Callable[[Any], Coroutine[Any, Any, Any]], *, wanted: Any = True) -> Any:
    manager = Picky(given)
    manager.store, manager.wanted = str(tmp_path / "store"), wanted
    return asyncio.run(act(manager))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


HISTORY_ROWS = """
CREATE TABLE migration_history (version text, down_script text); CREATE TABLE t (a int);
INSERT INTO migration_history VALUES ('1', 'DROP TABLE t')
"""


@pytest.mark.slow
def test_a_dsn_has_the_whole_driver(shop: Shop, home: Path) -> None:
    shop.sql.execute(HISTORY_ROWS)
    dsn = shop.server.dsn(shop.name, "shop_owner", password="hunter2")  # nobody's
    before = shop.everything()
    taken = whole(dsn, home, lambda m: m.create_database_checkpoint("before")).unwrap()
    shop.sql.execute("INSERT INTO t VALUES (1)")
    changed = shop.everything()
    refused = whole(dsn, home, lambda m: m.rollback_database(taken), wanted=False)
    assert (refused.error.key, refused.error.code) == ("rollback.reverted", 30)
    shop.reconnect()
    assert shop.everything() == changed
    done = whole(dsn, home, lambda m: m.rollback_database(taken)).unwrap()
    assert (done["checkpoint_id"], done["status"]) == (taken, "completed")
    shop.reconnect()
    assert shop.everything() == before
    assert whole(dsn, home, lambda m: m.rollback_database(done["backup_id"])).is_success()
    shop.reconnect()
    assert shop.everything() == changed
    assert whole(dsn, home, lambda m: m.rollback_migration("0")).unwrap() == "1 migration rolled back to 0"
    assert whole(dsn, home, lambda m: m.rollback_migration("0")).error.key == "migration.nothing"
    assert shop.ask("SELECT to_regclass('t')::text") == [(None,)]
    whole(dsn, home, lambda m: m.create_database_checkpoint("before 2")).unwrap()
    shop.sql.execute("CREATE TABLE u (id int); INSERT INTO migration_history VALUES ('2', NULL)")
    assert whole(dsn, home, lambda m: m.rollback_migration("0"), wanted=False).error.code == 30
    shop.reconnect()
    assert shop.ask("SELECT to_regclass('u')::text") == [("u",)]
    assert whole(dsn, home, lambda m: m.rollback_migration("0")).unwrap() == "1 migration rolled back to 0"
    shop.reconnect()
    assert shop.ask("SELECT to_regclass('u')::text, (SELECT count(*) FROM migration_history)") == [(None, 0)]
    stored = [path for path in (home / "store").rglob("*") if path.is_file()]
    assert not [path for path in stored if b"hunter2" in path.read_bytes()]


@pytest.mark.slow
def test_a_file_of_sqlite_and_a_component_have_it_as_well(home: Path) -> None:
    def ask(query: str) -> list[Any]:
        with closing(sqlite3.connect(home / "shop.db")) as db, db:
            return db.execute(query).fetchall()

    for statement in HISTORY_ROWS.split(";"):
        ask(statement)
    dsn = f"sqlite:///{home}/shop.db"
    (home / "rfs.toml").write_text(
        '[app]\nname = "shop"\n[components.db]\nkind = "sqlite"\npath = "shop.db"\nmigrations = "."\n'
        '[store]\npath = ".rfs"\nkey = "file:shop.key"\n'
    )
    Application.create(str(home / "rfs.toml")).close()
    for each in (dsn, "db"):
        taken = whole(each, home, lambda m: m.create_database_checkpoint("before")).unwrap()
        ask("INSERT INTO t VALUES (1)")
        assert whole(each, home, lambda m, id_=taken: m.rollback_database(id_), wanted=False).error.code == 30
        assert ask("SELECT count(*) FROM t") == [(1,)]
        assert whole(each, home, lambda m, id_=taken: m.rollback_database(id_)).is_success()
        assert ask("SELECT count(*) FROM t") == [(0,)]
    ask("INSERT INTO migration_history VALUES ('2', NULL)")
    ask("INSERT INTO t VALUES (2)")
    whole("db", home, lambda m: m.create_database_checkpoint("at 2")).unwrap()
    ask("INSERT INTO migration_history VALUES ('3', NULL)")
    ask("INSERT INTO t VALUES (3)")
    assert whole("db", home, lambda m: m.rollback_migration("0")).error.key == "migrate.no_way"
    assert whole("db", home, lambda m: m.rollback_migration("2")).unwrap() == "1 migration rolled back to 2"
    assert ask("SELECT * FROM t") == [(2,)]
    ask("UPDATE migration_history SET down_script = '' WHERE version = '2'")
    assert whole("db", home, lambda m: m.rollback_migration("1")).unwrap() == "1 migration rolled back to 1"
    assert ask("SELECT count(*) FROM t") == [(0,)]
    assert whole("db", home, lambda m: m.rollback_migration("0")).unwrap() == "1 migration rolled back to 0"
    assert whole("other", home, lambda m: m.create_database_checkpoint("x")).error.key == "components.unknown"
    assert whole(f"sqlite:///{home}/none.db", home, lambda m: m.create_database_checkpoint("x")).is_failure()
