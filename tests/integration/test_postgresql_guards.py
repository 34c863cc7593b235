"""What is particular to a PostgreSQL server or a database of it comes back as it was, or is refused by name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pg_catalogs import facts_of
from postgresql_shop import SCHEMA, Shop, catalog, shop_of
from psycopg import sql

from pg_server import DEADLINE, installations, running


def _superuser(shop: Shop, *statements: str, database: str = "postgres") -> None:
    with shop.server.connect(database) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _made_anew(shop: Shop, words: str) -> None:
    """Let the shop's database be one that was created with these words."""
    shop.remove()
    _superuser(shop, f"CREATE DATABASE {shop.database} OWNER {shop.owner} TEMPLATE template0 {words}")
    shop.do(SCHEMA)


def _of_database(shop: Shop) -> Any:
    with shop.server.connect() as connection:
        query = "SELECT to_jsonb(d) - 'oid' - 'datfrozenxid' - 'datminmxid' FROM pg_database d WHERE datname = %s"
        return connection.execute(query, [shop.database]).fetchone()


def _there_and_back(shop: Shop) -> None:
    before = _of_database(shop), catalog(shop)
    rows = shop.one("SELECT count(*) FROM log")
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new'); DROP TABLE days")
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert (_of_database(shop), catalog(shop)) == before
    shop.json("undo", "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log") == rows + 1


@pytest.mark.slow
def test_a_locale_of_the_server_s_own_provider_comes_back(shop: Shop) -> None:
    _made_anew(shop, "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LC_COLLATE 'C' LC_CTYPE 'C' CONNECTION LIMIT 30")
    _there_and_back(shop)


@pytest.mark.slow
def test_another_encoding_comes_back(shop: Shop) -> None:
    _made_anew(shop, "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    shop.do("INSERT INTO log VALUES (%s)", "caf\u00e9")
    _there_and_back(shop)
    assert shop.one("SELECT count(*) FROM log WHERE line = 'caf\u00e9'") == 1


@pytest.mark.slow
@pytest.mark.skipif(15 not in installations(), reason="only Debian's PostgreSQL 15 is known to be built with ICU")
def test_an_icu_locale_and_a_collation_of_it_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(version=15) as server, shop_of(tmp_path, capsys, monkeypatch, server) as shop:
        _made_anew(shop, "LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'")
        shop.do("CREATE COLLATION numeric (provider = icu, locale = 'en-u-kn', deterministic = false)")
        shop.do('ALTER TABLE orders ALTER note TYPE varchar(80) COLLATE "numeric"')
        _there_and_back(shop)
        query = "SELECT collname, collprovider::text, collisdeterministic FROM pg_collation WHERE collname = 'numeric'"
        with shop.connect() as connection:
            assert connection.execute(query).fetchall() == [("numeric", "i", False)]


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["of-the-database", "of-a-table-in-place"])
def test_tablespaces_come_back(shop: Shop, whole: bool) -> None:
    space = f"space_{shop.database}"
    _superuser(shop, "SET allow_in_place_tablespaces = on", f"CREATE TABLESPACE {space} LOCATION ''")
    _superuser(shop, f"GRANT CREATE ON TABLESPACE {space} TO {shop.owner}")
    if whole:
        _made_anew(shop, f"TABLESPACE {space}")
    else:
        shop.do(f"ALTER TABLE log SET TABLESPACE {space}")
        shop.may_not_create()
    where = "SELECT coalesce((SELECT spcname FROM pg_tablespace WHERE oid = reltablespace), '')"
    where += " FROM pg_class WHERE relname = 'log'"
    before = shop.one(where)
    _there_and_back(shop)
    assert shop.one(where) == before == ("" if whole else space)
    shop.remove()
    _superuser(shop, f"DROP TABLESPACE {space}")


def test_a_wrong_password_is_told_and_not_shown(shop: Shop) -> None:
    rules = shop.server.socket / "data" / "pg_hba.conf"
    before = rules.read_text()
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    with shop.server.connect() as connection:
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD 'correct'").format(sql.Identifier(shop.owner)))
        rules.write_text(f"local all {shop.owner} scram-sha-256\n{before}")
        try:
            connection.execute("SELECT pg_reload_conf()")
            _until_refused(shop)
            for words in (
                ("checkpoint",),
                ("doctor",),
                ("plan", target),
                ("rollback", target, "--yes", "--reason", "a"),
            ):
                ran = shop.rfs(*words)
                assert ran.code != 0
                assert "password authentication failed" in ran.out + ran.err, ran
                assert shop.names() == [shop.database]
                assert "hunter2" not in repr(ran)
        finally:
            rules.write_text(before)
            connection.execute("SELECT pg_reload_conf()")
        _until_refused(shop, refused=False)
    assert shop.one("SELECT count(*) FROM log") == 201
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log") == 200


def _until_refused(shop: Shop, *, refused: bool = True) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            psycopg.connect(shop.dsn).close()
        except psycopg.OperationalError:
            if refused:
                return
        else:
            if not refused:
                return
        time.sleep(0.02)  # the server reads its rules when it gets round to it, and tells nobody
    raise AssertionError("the server has not read its rules")


@pytest.mark.slow
def test_a_server_that_is_down_is_told_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running() as server, shop_of(tmp_path, capsys, monkeypatch, server) as shop:
        target = shop.checkpoint()
        shop.do("INSERT INTO log VALUES ('new')")
        server.stop()
        for words in (("checkpoint",), ("plan", target), ("rollback", target, "--yes", "--reason", "a")):
            ran = shop.rfs(*words)
            assert (ran.code, "cannot be reached" in ran.err) == (1, True), ran
        assert "cannot be reached" in shop.rfs("status").out
        server.start()
        assert shop.rfs("recover").code == 0
        shop.json("rollback", target, "--yes", "--reason", "a test")
        assert shop.one("SELECT count(*) FROM log") == 200


def test_objects_of_another_role_are_named_by_doctor_and_plan_and_refused_before_anything(shop: Shop) -> None:
    _superuser(shop, "CREATE TABLE theirs (n int)", "GRANT SELECT ON theirs TO PUBLIC", database=shop.database)
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    assert "public.theirs" in shop.rfs("doctor").out
    assert "public.theirs" in repr(shop.json("plan", target)["warnings"])
    ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
    assert ran.code == 1, ran
    assert shop.names() == [shop.database]
    assert shop.one("SELECT count(*) FROM log") == 201


OBJECTS = """
CREATE SCHEMA apart; COMMENT ON SCHEMA apart IS 'apart'; GRANT USAGE ON SCHEMA apart TO {app};
CREATE TABLE apart.sums (n int, m int, t text); COMMENT ON COLUMN apart.sums.m IS 'a column';
INSERT INTO apart.sums SELECT g % 7, g % 7, 'x' || g % 3 FROM generate_series(1, 500) g;
CREATE INDEX sums_by ON apart.sums ((n + m)); COMMENT ON INDEX apart.sums_by IS 'an index';
ALTER TABLE apart.sums ALTER n SET STATISTICS 500, ALTER t SET (n_distinct = 3);
CREATE STATISTICS apart.together (mcv, dependencies) ON n, m FROM apart.sums;
COMMENT ON STATISTICS apart.together IS 'statistics';
CREATE SEQUENCE apart.numbers INCREMENT 7 CACHE 3; SELECT nextval('apart.numbers');
GRANT USAGE ON apart.numbers TO {app};
CREATE SEQUENCE apart.of_a_column OWNED BY apart.sums.n; SELECT setval('apart.of_a_column', 40, false);
CREATE FUNCTION apart.one() RETURNS int LANGUAGE sql AS 'SELECT 1'; COMMENT ON FUNCTION apart.one() IS 'one';
REVOKE ALL ON FUNCTION apart.one() FROM PUBLIC; GRANT EXECUTE ON FUNCTION apart.one() TO {app};
CREATE TYPE apart.kind AS ENUM ('a'); REVOKE USAGE ON TYPE apart.kind FROM PUBLIC;
GRANT USAGE ON TYPE apart.kind TO {app};
CREATE OPERATOR apart.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE PUBLICATION {db}_out FOR TABLE log;
CREATE COLLATION apart.sorted (provider = libc, locale = 'C');
CREATE TEXT SEARCH CONFIGURATION apart.plain (COPY = simple);
COMMENT ON CONSTRAINT orders_pkey ON orders IS 'a key'; COMMENT ON TRIGGER noted ON orders IS 'a trigger';
GRANT SELECT, INSERT ON orders, log TO {app}; GRANT UPDATE (note) ON orders TO {app};
GRANT USAGE ON SCHEMA public TO {app};
GRANT SELECT ON apart.sums TO {app} WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {app};
ALTER DEFAULT PRIVILEGES IN SCHEMA apart GRANT EXECUTE ON FUNCTIONS TO {app};
ALTER DEFAULT PRIVILEGES FOR ROLE {app} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
SELECT lo_from_bytea(77, 'of the application'); GRANT SELECT ON LARGE OBJECT 77 TO {app};
COMMENT ON LARGE OBJECT 77 IS 'a large one';
CREATE TABLE apart.theirs (n int); GRANT CREATE ON SCHEMA apart TO {app}; ALTER TABLE apart.theirs OWNER TO {app};
REVOKE ALL ON DATABASE {db} FROM PUBLIC; GRANT CONNECT, TEMPORARY ON DATABASE {db} TO {app} WITH GRANT OPTION;
ALTER DATABASE {db} SET search_path = public, apart, "a,b"; ALTER DATABASE {db} SET work_mem = '5MB';
COMMENT ON DATABASE {db} IS 'the shop''s'; ANALYZE
"""
_TABLES = 3  # whose rows a catalog of the shop ends with
CHANGES = """
ALTER DATABASE {db} RESET ALL; ALTER DATABASE {db} SET lock_timeout = '9s'; COMMENT ON DATABASE {db} IS NULL;
GRANT ALL ON DATABASE {db} TO PUBLIC; REVOKE ALL ON DATABASE {db} FROM {app} CASCADE;
GRANT CONNECT ON DATABASE {db} TO {app};
REVOKE ALL ON orders FROM {app}; DROP STATISTICS apart.together; COMMENT ON TRIGGER noted ON orders IS NULL;
COMMENT ON SCHEMA apart IS 'another'; ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM {app};
ALTER TABLE apart.sums ALTER n SET STATISTICS -1; SELECT nextval('apart.numbers'), setval('apart.of_a_column', 99);
SELECT lo_unlink(77); GRANT EXECUTE ON FUNCTION apart.one() TO PUBLIC; ALTER TABLE apart.theirs OWNER TO {owner};
ALTER SEQUENCE apart.of_a_column OWNED BY NONE; INSERT INTO log VALUES ('new'); DROP INDEX apart.sums_by
"""


@pytest.mark.slow
@pytest.mark.parametrize("beside", [True, False], ids=["swapped", "in-place"])
def test_the_application_s_role_works_on_after_its_own_retry(shop: Shop, beside: bool) -> None:
    """It is neither superuser nor owner: what it may do is in privileges alone, and all of them come back.

    The role of rfs is no superuser either.
    """
    app = f"{shop.database}_app"
    names = {"app": app, "db": shop.database, "owner": shop.owner}
    _superuser(shop, f"CREATE ROLE {app} LOGIN", f"GRANT {app} TO {shop.owner} WITH ADMIN OPTION")
    try:
        shop.do(OBJECTS.format(**names))
        _superuser(shop, f"ALTER ROLE {app} IN DATABASE {shop.database} SET statement_timeout = '7s'")
        before, rows = _facts(shop), catalog(shop)[-_TABLES:]
        assert [kind for kind, found in before.items() if not found] == []  # each has something to lose
        target = shop.checkpoint()
        assert app in shop.rfs("doctor").out  # it takes more than owning the database to set what another role has set
        _superuser(shop, f"ALTER ROLE {shop.owner} CREATEROLE")
        shop.do(CHANGES.format(**names))
        _superuser(shop, f"ALTER ROLE {app} IN DATABASE {shop.database} SET statement_timeout = '8s'")
        changed = _facts(shop)
        if not beside:
            shop.may_not_create()
        with shop.server.connect(shop.database, app) as working:
            assert working.execute("SELECT current_setting('lock_timeout')").fetchone() == ("9s",)
            shop.json("rollback", target, "--yes", "--reason", "a test")
            assert _facts(shop) == before
            assert catalog(shop)[-_TABLES:] == rows
            with pytest.raises(psycopg.OperationalError):
                working.execute("INSERT INTO orders (note) VALUES ('lost')")
        with shop.server.connect(shop.database, app) as again:
            again.execute("INSERT INTO orders (note) VALUES ('once more')")
            assert again.execute("SHOW statement_timeout").fetchone() == ("7s",)
            assert again.execute("SELECT encode(lo_get(77), 'escape'), apart.one()").fetchone() == (
                "of the application",
                1,
            )
        shop.json("undo", "--yes", "--reason", "a test")
        found = _facts(shop)
        for each in ("statistics of columns", "statistics objects", "numbers of rows"):
            if not beside:  # what was made anew was looked at, whether it had been or not
                del found[each], changed[each]
        assert found == changed
    finally:
        shop.remove()
        _superuser(shop, f"DROP ROLE {app}")


def _facts(shop: Shop) -> dict[str, Any]:
    with shop.server.connect(shop.database) as connection:
        return facts_of(connection)
