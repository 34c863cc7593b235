"""A checkpoint is built beside the live database by two sessions, and comes out as by one."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import pytest
from pg_catalogs import facts_of
from postgresql_shop import Shop

from rfs.production.rollback.drivers.postgresql import driver, inplace, loading

# Without partitions: what is built for those is built by one session.
TABLES = """
DROP TABLE days;
CREATE TABLE one (n int PRIMARY KEY, m int UNIQUE, t text,
    CONSTRAINT apart EXCLUDE USING gist (int4range(n, n + 1) WITH &&));
CREATE INDEX one_lower ON one (lower(t)) WHERE n > 3; CREATE UNIQUE INDEX one_same ON one (n, m);
ALTER TABLE one CLUSTER ON one_same;
CREATE TABLE "odd ON "" name" (a int NOT NULL, b int REFERENCES one); CREATE UNIQUE INDEX odd ON "odd ON "" name" (a);
ALTER TABLE "odd ON "" name" REPLICA IDENTITY USING INDEX odd; COMMENT ON INDEX odd IS 'odd';
CREATE TABLE three (n int); CREATE INDEX ON three (n DESC); CREATE TABLE nothing ();
INSERT INTO one SELECT g, -g, 'T' || g FROM generate_series(1, 5000) g;
INSERT INTO "odd ON "" name" SELECT g, g FROM generate_series(1, 4000) g;
INSERT INTO three SELECT generate_series(1, 3000);
ANALYZE
"""
# It works where the name is the live one's, and not where it is built.
FAILS = """
CREATE FUNCTION told(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$BEGIN IF current_database() LIKE '%%_rfs_%%' THEN {} END IF; RETURN n; END$$;
CREATE INDEX on_told ON one (told(n))
"""
_INDEXES = """
SELECT c.oid::regclass::text, pg_get_indexdef(c.oid), coalesce(spcname, ''), indisclustered, indisreplident, indisvalid
FROM pg_index i JOIN pg_class c ON c.oid = indexrelid LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1
"""


def _looked_at(shop: Shop) -> dict[str, Any]:
    with shop.server.connect(shop.database) as connection:
        rows = {
            name: connection.execute(f"SELECT t::text FROM {name} t ORDER BY 1".encode()).fetchall()
            for name in ("one", '"odd ON "" name"', "three", "orders", "lines", "log")
        }
        return {"indexes": connection.execute(_INDEXES).fetchall(), "rows": rows, **facts_of(connection)}


def test_tables_and_indexes_that_two_sessions_made_are_the_same(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.do(TABLES)
    before = _looked_at(shop)
    target = shop.checkpoint()
    shop.do(
        "DROP INDEX one_lower; DELETE FROM three; UPDATE one SET t = 'other'; ALTER TABLE one DROP CONSTRAINT apart"
    )
    ran: list[str] = []
    run, copy = loading._run, loading._copy

    def noted(*arguments: Any) -> None:
        ran.append(threading.current_thread().name)
        (run if len(arguments) == 3 else copy)(*arguments)

    monkeypatch.setattr(loading, "_run", noted)
    monkeypatch.setattr(loading, "_copy", noted)
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert len(set(ran)) >= 4, ran  # beside the main thread two for rows, and two for indexes
    assert _looked_at(shop) == before


@pytest.mark.slow
def test_indexes_come_back_in_their_tablespaces(shop: Shop) -> None:
    space = f"space_{shop.database}"
    with shop.server.connect() as admin:
        admin.execute("SET allow_in_place_tablespaces = on")
        admin.execute(f"CREATE TABLESPACE {space} LOCATION ''".encode())
        admin.execute(f"GRANT CREATE ON TABLESPACE {space} TO {shop.owner}".encode())
    shop.do(TABLES)
    shop.do(f"ALTER INDEX one_pkey SET TABLESPACE {space}; ALTER INDEX one_lower SET TABLESPACE {space}")
    shop.do(f"ALTER INDEX three_n_idx SET TABLESPACE {space}; ALTER TABLE three SET TABLESPACE {space}; ANALYZE")
    before = _looked_at(shop)
    assert [name for name, _, where, *_ in before["indexes"] if where] == ["one_lower", "one_pkey", "three_n_idx"]
    target = shop.checkpoint()
    shop.do("DROP INDEX odd; DELETE FROM three; INSERT INTO one VALUES (0, 0, 'new')")
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert _looked_at(shop) == before
    shop.remove()
    with shop.server.connect() as admin:
        admin.execute(f"DROP TABLESPACE {space}".encode())


@pytest.mark.slow
def test_an_index_that_cannot_be_built_is_named_and_ends_the_other_session_s_work(shop: Shop) -> None:
    shop.do(TABLES)
    shop.do(FAILS.format("n := n / 0;"))
    # This one would take all day: it is the other session's.
    shop.do(FAILS.format("PERFORM pg_sleep(86400);").replace("told", "slow").replace("ON one", "ON three"))
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    threads = threading.active_count()
    ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
    assert (ran.code, "INDEX public.on_told of the checkpoint cannot be made again" in ran.err) == (1, True), ran
    assert "division by zero" in ran.err
    assert threading.active_count() == threads
    assert shop.names() == [shop.database]
    assert shop.one("SELECT count(*) FROM log") == 201


@pytest.mark.slow
def test_what_takes_too_long_in_the_other_session_is_given_up(shop: Shop) -> None:
    shop.do(TABLES)
    shop.do(FAILS.format("PERFORM pg_sleep(86400);"))
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    threads = threading.active_count()
    ran = shop.rfs("rollback", target, "--yes", "--reason", "a test", "--timeout", "3s")
    assert ran.code == 124, ran
    assert threading.active_count() == threads
    shop.rfs("recover")
    assert shop.names() == [shop.database]
    assert shop.one("SELECT count(*) FROM log") == 201


@pytest.mark.parametrize(("beside", "module"), [(True, driver), (False, inplace)], ids=["swapped", "in-place"])
def test_what_was_read_to_tell_the_losses_is_not_read_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, beside: bool, module: ModuleType
) -> None:
    if not beside:
        shop.may_not_create()
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    read: list[str] = []
    compare = module.differing  # type: ignore[attr-defined]  # a module's name

    def noted(*arguments: Any) -> list[str]:
        read.append("the live database")
        return compare(*arguments)

    monkeypatch.setattr(module, "differing", noted)
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert read == []
    assert shop.one("SELECT count(*) FROM log") == 200
    # Equal again, whoever did it: nothing is built.
    names = shop.names()
    shop.do("INSERT INTO log VALUES ('new')")
    assert shop.json("plan", target)["changes"]
    shop.do("DELETE FROM log WHERE line = 'new'")
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.names() == names
    assert shop.one("SELECT count(*) FROM log") == 200
