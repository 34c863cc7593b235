"""A role that may not create databases: the live one is restored in a transaction, from and to copies in the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgresql_shop import Shop, catalog, shop_of

from pg_server import Server
from rfs.production.rollback.drivers.postgresql import inplace


@pytest.fixture
def shop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pg_server: Server
) -> Iterator[Shop]:
    with shop_of(tmp_path, capsys, monkeypatch, pg_server) as found:
        found.may_not_create()
        yield found


# What a dump takes for granted, what is left over, and what is not emptied with the tables.
ALL_KINDS = """
CREATE SCHEMA apart;
CREATE TABLE apart.t (id serial PRIMARY KEY, v mood);
INSERT INTO apart.t (v) VALUES ('sad');
CREATE MATERIALIZED VIEW apart.seen AS SELECT count(*) FROM orders;
CREATE FUNCTION apart.twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';
CREATE AGGREGATE apart.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE AGGREGATE apart.number(*) (SFUNC = int8inc, STYPE = int8, INITCOND = '0');
CREATE OPERATOR public.<<<< (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
CREATE COLLATION apart.c (LOCALE = 'C');
CREATE TEXT SEARCH CONFIGURATION apart.words (COPY = simple);
CREATE STATISTICS apart.together ON note, status FROM orders;
CREATE TYPE apart.pair AS (a int, b text);
CREATE SEQUENCE apart.steps START 7;
SELECT nextval('apart.steps');
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA apart GRANT SELECT ON TABLES TO PUBLIC;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON orders USING (true);
CREATE PUBLICATION told FOR TABLE log;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
COMMENT ON SCHEMA public IS 'ours';
"""
CHANGES = """
DROP PUBLICATION told;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON SEQUENCES TO PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC;
COMMENT ON SCHEMA public IS NULL;
DROP SCHEMA apart CASCADE;
CREATE SCHEMA later;
CREATE TABLE later.t AS SELECT 1 AS n;
CREATE VIEW later.v AS SELECT * FROM later.t;
ALTER TABLE orders DROP COLUMN data;
SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
SELECT lo_from_bytea(0, 'another');
"""


def test_everything_goes_back_and_forth_and_the_plan_says_how(shop: Shop) -> None:
    shop.do(ALL_KINDS)
    shop.do(f"ALTER DATABASE {shop.database} SET work_mem = '5MB'; COMMENT ON DATABASE {shop.database} IS 'a shop'")
    before = catalog(shop)
    target = shop.checkpoint()
    shop.do(CHANGES)
    shop.do("INSERT INTO orders (note) VALUES ('late 1'), ('late 2')")
    shop.do(f"ALTER DATABASE {shop.database} RESET ALL; REVOKE CONNECT ON DATABASE {shop.database} FROM PUBLIC")
    changed = catalog(shop)
    plan = shop.json("plan", target)
    (said,) = [warning for warning in plan["warnings"] if "in place" in warning]
    assert "the outage grows with the data: about " in said
    assert plan["estimate"]["outage"] > 0.3
    assert {loss["what"]: loss["count"] for loss in plan["losses"]}["rows in table orders"] == 2
    assert "in place" in shop.rfs("doctor").out
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert catalog(shop) == before
    assert shop.names() == [shop.database]
    (salvaged,) = [each for each in shop.json("db", "salvage", "@latest") if each["table"] == "orders"]
    assert [row[1] for row in salvaged["rows"]] == ["late 1", "late 2"]
    # Unknown, when the server itself has written something since, to clean up.
    assert shop.json("status")["drift"][0]["equal"] is not False
    shop.json("undo", "--yes", "--reason", "a test")
    assert catalog(shop) == changed


def test_a_restore_that_fails_is_taken_back_by_the_server(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new'); ALTER TABLE orders DROP COLUMN data")
    before = catalog(shop)
    give = inplace.give_again

    def fails(*arguments: Any) -> None:
        give(*arguments)
        arguments[0].execute("SELECT 1 / 0")

    with monkeypatch.context() as patched:
        patched.setattr(inplace, "give_again", fails)
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
    assert (ran.code, "division by zero" in ran.err) == (30, True), ran
    assert catalog(shop) == before
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log") == 200


@pytest.mark.slow
def test_what_is_written_after_the_copy_was_taken_is_not_written_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    before = inplace.restore

    def writes_first(*arguments: Any) -> Any:
        shop.do("INSERT INTO log SELECT 'at the last moment' WHERE NOT EXISTS (SELECT FROM log WHERE line LIKE 'at%')")
        return before(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(inplace, "restore", writes_first)
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
    assert (ran.code, "written to after its copy" in ran.err) == (30, True), ran
    assert shop.one("SELECT count(*) FROM log") == 202
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log") == 200
    shop.json("undo", "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log") == 202


NO_WRITES = [
    "SELECT nextval('counter') FROM generate_series(1, 100)",
    "ANALYZE",
    "VACUUM",
    "VACUUM (FREEZE, ANALYZE) log",
    "SELECT count(*) FROM log",
    "CREATE TEMPORARY TABLE mine AS SELECT generate_series(1, 500) AS n",
    "BEGIN; INSERT INTO log VALUES ('taken back'); ROLLBACK",
]


@pytest.mark.parametrize("statement", NO_WRITES, ids=lambda each: "_".join(each.split()[:2]).lower())
def test_what_changes_no_row_after_the_copy_was_taken_is_no_late_write(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """Sequences, statistics, what cleaning up and reading leave on pages, and what a session has for itself."""
    shop.do("CREATE SEQUENCE counter; CREATE STATISTICS together ON note, status FROM orders")
    target = shop.checkpoint()
    shop.do("INSERT INTO log SELECT 'new' FROM generate_series(1, 300); DELETE FROM log WHERE line = 'order 1'")
    before = inplace.restore

    def touches_first(*arguments: Any) -> Any:
        with shop.connect() as connection:
            connection.autocommit = True
            connection.execute(statement.encode())
        return before(*arguments)

    monkeypatch.setattr(inplace, "restore", touches_first)
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log") == 200


def test_a_session_that_ends_with_temporary_tables_is_no_late_write(shop: Shop) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    with shop.connect() as idle:
        idle.autocommit = True
        idle.execute("CREATE TEMPORARY TABLE mine (n serial PRIMARY KEY, what text DEFAULT 'x')")
        idle.execute("INSERT INTO mine SELECT FROM generate_series(1, 50)")
        shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log") == 200


LATE_WRITES = [
    "INSERT INTO log VALUES ('late')",
    "UPDATE log SET line = line WHERE line = 'order 2'",
    "TRUNCATE lines",
    "CREATE TABLE later (n int)",
    "ALTER TABLE orders ALTER COLUMN note SET DEFAULT 'x'",
    "DROP VIEW glad",
    "COMMENT ON TABLE lines IS 'late'",
    "GRANT SELECT ON lines TO PUBLIC",
    "SELECT lo_from_bytea(0, 'late')",
    "ALTER SEQUENCE counter OWNED BY log.line",
]


@pytest.mark.slow
@pytest.mark.parametrize("statement", LATE_WRITES, ids=lambda each: "_".join(each.split()[:3]).lower())
def test_whatever_is_written_after_the_copy_was_taken_is_seen(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    shop.do("CREATE SEQUENCE counter")
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    before, once = inplace.restore, [statement]

    def writes_first(*arguments: Any) -> Any:
        if once:
            shop.do(once.pop())
        return before(*arguments)

    monkeypatch.setattr(inplace, "restore", writes_first)
    ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
    assert (ran.code, "written to after its copy" in ran.err) == (30, True), ran


@pytest.mark.slow
def test_extensions_of_others_stay_and_other_objects_are_refused_by_name(shop: Shop) -> None:
    _as_superuser(shop, "CREATE EXTENSION vector")
    shop.do("CREATE TABLE ours (n vector(3)); INSERT INTO ours VALUES ('[1,2,3]')")
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new'); DROP TABLE ours")
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.one("SELECT n::text FROM ours") == "[1,2,3]"
    _as_superuser(shop, "CREATE TABLE theirs (n int)", "GRANT SELECT ON theirs TO PUBLIC")
    shop.do("INSERT INTO log VALUES ('new')")
    assert "public.theirs" in repr(shop.json("plan", target)["warnings"])
    assert "public.theirs" in shop.rfs("doctor").out
    ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
    assert (ran.code, "public.theirs" in ran.err) == (15, True), ran
    assert shop.one("SELECT count(*) FROM log") == 201


def _as_superuser(shop: Shop, *statements: str) -> None:
    with shop.server.connect(shop.database) as admin:
        for statement in statements:
            admin.execute(statement)


def test_grants_on_other_databases_are_not_touched(shop: Shop) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    with shop.server.connect() as admin:
        admin.execute(f"GRANT TEMPORARY ON DATABASE template1 TO {shop.owner}")
        shop.json("rollback", target, "--yes", "--reason", "a test")
        acl = admin.execute("SELECT datacl::text FROM pg_database WHERE datname = 'template1'").fetchone()
        assert acl is not None
        assert shop.owner in acl[0]
        admin.execute(f"REVOKE TEMPORARY ON DATABASE template1 FROM {shop.owner}")
