"""A PostgreSQL database goes back and forth with its application, and nothing that a user wrote is lost."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from postgresql_shop import Shop, catalog, shop_of

from pg_server import installations, running
from rfs.production.rollback import upkeep
from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.postgresql import PostgresqlDriver, compare, driver, staging, swap
from rfs.production.rollback.model import Capture, Component

MIGRATION = """
ALTER TABLE orders DROP COLUMN data;
ALTER TABLE orders ADD COLUMN total numeric;
UPDATE orders SET note = 'migrated', total = 3;
"""


def test_a_migration_goes_back_a_thousand_orders_are_told_and_come_back_with_undo(shop: Shop) -> None:
    before = shop.one("SELECT array_agg(o ORDER BY id)::text FROM orders o")
    target = shop.checkpoint()
    shop.do(MIGRATION)
    shop.do("INSERT INTO orders (note, total) SELECT 'late ' || g, g FROM generate_series(1, 1000) g")
    after = shop.one("SELECT array_agg(o ORDER BY id)::text FROM orders o")
    plan = shop.json("plan", target)
    losses = {loss["what"]: loss["count"] for loss in plan["losses"]}
    assert losses["rows in table orders"] == 1000
    assert plan["estimate"]["outage"] < 1
    assert losses["changed rows in table orders"] == 200
    assert losses["values in column total of table orders"] == 1200
    assert losses["rows in table log"] == 1000
    shop.json("rollback", target, "--yes", "--reason", "it was wrong")
    assert shop.one("SELECT array_agg(o ORDER BY id)::text FROM orders o") == before
    _, aside = shop.names()  # what was live is kept
    (listed,) = shop.json("db", "list")
    assert (listed["database"], listed["component"]) == (aside, "db")
    assert len(listed["checkpoints"]) == 2  # taken before the stop, and after it
    assert aside in shop.rfs("db", "list").out
    _salvaged(shop)
    shop.json("undo", "--yes", "--reason", "it was right")
    assert shop.one("SELECT array_agg(o ORDER BY id)::text FROM orders o") == after
    with shop.connect() as connection:
        assert connection.execute("INSERT INTO orders (note) VALUES ('next') RETURNING id").fetchone() == (1201,)


@pytest.mark.slow
@pytest.mark.parametrize("version", [version for version in installations() if version != max(installations())])
def test_older_servers(
    version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(version=version) as server, shop_of(tmp_path, capsys, monkeypatch, server) as shop:
        test_a_migration_goes_back_a_thousand_orders_are_told_and_come_back_with_undo(shop)
        # pg_dump of a newer release sets what this server does not know.
        toml = (shop.folder / "rfs.toml").read_text()
        shop.configure(toml.replace(str(server.bin), str(installations()[max(installations())])))
        test_everything_that_a_dump_does_not_hold_is_as_it_was(shop)


def _salvaged(shop: Shop) -> None:
    found = {each["table"]: each for each in shop.json("db", "salvage", "@latest")}
    assert set(found) == {"orders", "log"}
    ids = [row[found["orders"]["columns"].index("id")] for row in found["orders"]["rows"]]
    assert sorted(map(int, ids)) == list(range(201, 1201))
    refused = shop.rfs("db", "salvage")
    assert (refused.code, "--table" in refused.err) == (2, True)
    csv = shop.rfs("db", "salvage", "--table", "orders").out.splitlines()
    assert csv[0].startswith('"id","note","paid"')
    assert any(line.startswith('"201","late 1","1.00",,,,,,') for line in csv)
    assert len(csv) == 1001
    lines = [json.loads(line) for line in shop.rfs("db", "salvage", "--format", "json").out.splitlines()]
    assert len(lines) == 2000
    assert lines[-1]["row"]["mood"] is None
    # What is written as SQL goes into the very database that it is missing in, once its columns are there.
    sql = shop.rfs("db", "salvage", "--table", "orders", "--format", "sql").out
    with shop.connect() as connection:
        connection.execute("BEGIN; ALTER TABLE orders ADD COLUMN total numeric")
        connection.execute(sql)
        assert connection.execute("SELECT sum(total) FROM orders WHERE id > 200").fetchone() == (500500,)
        connection.execute("ROLLBACK")


def test_everything_that_a_dump_does_not_hold_is_as_it_was(shop: Shop) -> None:
    with shop.server.connect() as connection:
        for words in (
            "CREATE ROLE {0}_reader",
            "GRANT {0}_reader TO {0}_owner WITH ADMIN OPTION",
            "COMMENT ON DATABASE {0} IS 'the shop''s'",
            "ALTER DATABASE {0} SET search_path = public, \"a,b\", ''",
            "ALTER DATABASE {0} SET work_mem = '5MB'",
            "ALTER DATABASE {0} CONNECTION LIMIT 40",
        ):
            connection.execute(words.format(shop.database))
        connection.execute(f"REVOKE ALL ON DATABASE {shop.database} FROM PUBLIC")
    reader = f"{shop.database}_reader"
    shop.do(f"GRANT CONNECT ON DATABASE {shop.database} TO {reader} WITH GRANT OPTION")
    shop.do(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {reader}")
    shop.do(f"GRANT SELECT (id, note), UPDATE (note) ON orders TO {reader}")
    before = catalog(shop)
    target = shop.checkpoint()
    shop.do(f"REVOKE ALL ON DATABASE {shop.database} FROM {reader}; ALTER DATABASE {shop.database} RESET ALL")
    shop.do("COMMENT ON TABLE orders IS NULL; DELETE FROM orders; SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    shop.do(f"COMMENT ON DATABASE {shop.database} IS 'another'")
    changed = catalog(shop)
    assert changed != before
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert catalog(shop) == before
    assert shop.one("SELECT count(*) FROM pg_stats WHERE schemaname = 'public'") > 0  # it was analysed
    shop.json("undo", "--yes", "--reason", "a test")
    assert catalog(shop) == changed
    with shop.server.connect() as connection:
        shop.remove()
        connection.execute(f"DROP ROLE {reader}")


def test_what_is_written_until_the_names_change_is_in_the_record(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO orders (note) VALUES ('told')")
    change_names = driver.swap

    def writes_first(*arguments: Any) -> int:
        shop.do("INSERT INTO orders (note) SELECT 'late' FROM generate_series(1, 3)")
        shop.do("UPDATE orders SET note = 'late' WHERE id < 3; DELETE FROM lines WHERE order_id = 7")
        return change_names(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(driver, "swap", writes_first)
        shop.json("rollback", target, "--yes", "--reason", "a test")
    shown = shop.json("show")
    late = {(each["key"], each["kind"]): each["after"]["label"] for each in shown["late"]}
    assert late == {
        ("orders", "added"): "3 rows",
        ("orders", "changed"): "2 rows",
        ("log", "added"): "3 rows",
    }
    assert shown["late_count"] == 3
    assert "+ orders  3 rows" in shop.rfs("show").out
    shop.json("undo", "--yes", "--reason", "a test")
    assert shop.json("show")["late"] == []
    assert shop.one("SELECT count(*) FROM orders WHERE note = 'late'") == 5


def test_a_table_with_too_much_to_compare_is_unknown_and_not_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO orders (note) VALUES ('new')")
    for limit, value in (("MOST_ROWS", 100), ("MOST_BYTES", 100)):
        with monkeypatch.context() as patched:
            patched.setattr(compare, limit, value)
            losses = {loss["what"]: loss["count"] for loss in shop.json("plan", target)["losses"]}
        assert losses["rows in table orders"] is None, limit
    losses = {loss["what"]: loss["count"] for loss in shop.json("plan", target)["losses"]}
    assert losses["rows in table orders"] == 1
    shop.do("UPDATE orders SET note = 'other' WHERE id < 4; DELETE FROM orders WHERE id IN (7, 8)")
    shop.do("INSERT INTO log SELECT line FROM log LIMIT 5; DELETE FROM log WHERE line = 'order 9'")
    found = {(each["key"], each["kind"]): each for each in shop.json("plan", target)["changes"]["db"]}
    counts = {key: (each["after"] or each["before"])["label"] for key, each in found.items()}
    assert counts["orders", "added"] == "1 row"
    assert counts["orders", "changed"] == "3 rows"
    assert counts["orders", "removed"] == "2 rows"
    assert (counts["log", "added"], counts["log", "removed"]) == ("6 rows", "1 row")


# — what stands in the way —


def test_rows_that_another_table_has_or_had_under_other_names_are_counted(shop: Shop) -> None:
    """What the checkpoint knows as a piece of rows may be one of another table by now, or of one with other columns."""
    shop.do("CREATE TABLE one (n int, what text); CREATE TABLE two (n int, what text); CREATE TABLE three (n int)")
    shop.do("INSERT INTO one VALUES (1, 'a'), (2, 'b'); INSERT INTO two VALUES (3, 'c'); INSERT INTO three VALUES (4)")
    target = shop.checkpoint()
    shop.do("INSERT INTO one SELECT * FROM two; DELETE FROM two; INSERT INTO two SELECT * FROM one WHERE n < 3")
    shop.do("ALTER TABLE three RENAME n TO m")
    losses = {loss["what"]: loss["count"] for loss in shop.json("plan", target)["losses"]}
    assert {what: losses.get(what) for what in ("rows in table one", "rows in table two")} == {
        "rows in table one": 1,
        "rows in table two": 2,
    }
    assert losses["values in column m of table three"] == 1


def test_an_open_transaction_is_refused_by_process_and_query_or_waited_for_or_ended(shop: Shop) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    shop.set_up(wait="0s")
    with shop.connect() as idle, shop.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO log VALUES ('not yet')")
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
        assert ran.code == 30, ran
        assert f"process {writer.info.backend_pid} of {shop.owner}" in ran.err
        assert "INSERT INTO log" in ran.err
        idle.execute("SELECT 1")  # nobody was sent away
        shop.set_up(wait="20s")
        waiting = shop.start("rollback", target, "--yes", "--reason", "a test", "--json")
        try:
            # It waits: the name goes on meaning what it meant until the writer has finished.
            _until(lambda: len(shop.names()) == 2)
            writer.execute("COMMIT")
        finally:
            out, _ = waiting.communicate(timeout=60)
        assert waiting.returncode == 3, out  # done, and something was written late
    assert shop.json("show")["late"][0]["after"]["label"] == "1 row"
    assert shop.one("SELECT count(*) FROM log") == 200
    shop.json("undo", "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log WHERE line = 'not yet'") == 1  # what was acknowledged was kept
    shop.set_up(wait="0s", more='on_open_transactions = "terminate"')
    with shop.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO log VALUES ('never')")
        shop.json("rollback", target, "--yes", "--reason", "a test")
        with pytest.raises(psycopg.OperationalError):
            writer.execute("COMMIT")


@pytest.mark.slow
def test_a_transaction_that_begins_when_the_door_is_being_closed_is_waited_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = shop.checkpoint()
    close, last = swap.allow, shop.connect()
    writers, ends = [last], threading.Timer(0.5, last.execute, ["COMMIT"])

    def closing(connection: psycopg.Connection[Any], name: str, *, allowed: bool) -> None:
        for writer in writers:
            writer.execute("BEGIN")
            writer.execute("INSERT INTO log VALUES ('at the last moment')")
        if writers:
            ends.start()
        writers.clear()
        close(connection, name, allowed=allowed)

    monkeypatch.setattr(swap, "allow", closing)
    shop.do("INSERT INTO log VALUES ('new')")
    shop.json("rollback", target, "--yes", "--reason", "a test")
    ends.join()
    last.close()
    assert shop.one("SELECT count(*) FROM log") == 200
    shop.json("undo", "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log WHERE line = 'at the last moment'") == 1


def test_a_transaction_that_begins_when_the_door_is_being_closed_and_does_not_end_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    shop.set_up(wait="0s")
    close = swap.allow
    with shop.connect() as writer:

        def closing(connection: psycopg.Connection[Any], name: str, *, allowed: bool) -> None:
            if not allowed:
                writer.execute("BEGIN")
                writer.execute("INSERT INTO log VALUES ('at the last moment')")
            close(connection, name, allowed=allowed)

        monkeypatch.setattr(swap, "allow", closing)
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
        assert (ran.code, "at the last moment" in ran.err) == (30, True), ran
        writer.execute("COMMIT")
    assert shop.one("SELECT count(*) FROM log") == 202


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a server tells nobody what its other sessions do


def test_a_prepared_transaction_is_refused_by_name(shop: Shop) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    with shop.connect() as connection:
        connection.execute("BEGIN; INSERT INTO log VALUES ('half'); PREPARE TRANSACTION 'of the shop'")
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
        assert ran.code == 30, ran
        assert "of the shop" in ran.err
        assert "of the shop" in shop.rfs("doctor").out
        connection.execute("COMMIT PREPARED 'of the shop'")
    assert shop.one("SELECT count(*) FROM log") == 202
    shop.json("rollback", target, "--yes", "--reason", "a test")


@pytest.mark.slow
def test_slots_and_subscriptions_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        running("-c", "wal_level=logical") as server,
        shop_of(tmp_path, capsys, monkeypatch, server) as shop,
        server.connect(shop.database) as admin,
    ):
        target = shop.checkpoint()
        shop.do("INSERT INTO log VALUES ('new')")
        admin.execute("SELECT pg_create_logical_replication_slot('to_the_copy', 'pgoutput')")
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
        assert (ran.code, "to_the_copy" in ran.err) == (30, True), ran
        assert "to_the_copy" in shop.rfs("doctor").out
        admin.execute("SELECT pg_drop_replication_slot('to_the_copy')")
        admin.execute("CREATE SUBSCRIPTION fed CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false)")
        admin.execute("ALTER SUBSCRIPTION fed ENABLE")
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
        assert (ran.code, "fed" in ran.err) == (30, True), ran
        admin.execute("ALTER SUBSCRIPTION fed DISABLE; ALTER SUBSCRIPTION fed SET (slot_name = NONE)")
        admin.execute("DROP SUBSCRIPTION fed")
        # A session of a role that this one is not a member of: it can be neither looked into nor ended.
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
        assert ran.code == 30, ran
        assert f"process {admin.info.backend_pid} of postgres, of another role" in ran.err
        admin.close()
        shop.json("rollback", target, "--yes", "--reason", "a test")


def test_a_disk_that_is_too_small_for_a_second_copy_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    real, data = os.statvfs, str(shop.server.socket / "data")

    def small(path: str) -> object:
        found = real(path)
        return SimpleNamespace(f_bavail=20_000_000, f_frsize=1, f_flag=0) if path == data else found

    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", small)
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
    assert ran.code == 1, ran
    assert f"20 MB on {data}" in ran.err
    assert shop.names() == [shop.database]
    shop.json("rollback", target, "--yes", "--reason", "a test")


def test_what_was_built_wrongly_is_never_swapped_in(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    whole = staging.load_by_two

    def one_row_is_missing(sessions: Sequence[psycopg.Connection[Any]], *arguments: Any) -> None:
        whole(sessions, *arguments)
        sessions[0].execute("DELETE FROM public.log WHERE ctid = (SELECT min(ctid) FROM public.log)")

    with monkeypatch.context() as patched:
        patched.setattr(staging, "load_by_two", one_row_is_missing)
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
    assert ran.code == 12, ran
    assert "rows of public.log" in ran.err
    assert shop.one("SELECT count(*) FROM log") == 201
    assert shop.names() == [shop.database]


def test_an_undo_whose_database_somebody_dropped_is_refused_before_anything_is_touched(shop: Shop) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    shop.json("rollback", target, "--yes", "--reason", "a test")
    _, aside = shop.names()
    with shop.connect("postgres") as connection:
        connection.execute(f"DROP DATABASE {aside}")
    ran = shop.rfs("undo", "--yes", "--reason", "a test")
    assert ran.code == 15, ran
    assert "somebody dropped it" in ran.err
    assert shop.one("SELECT count(*) FROM log") == 200


def test_what_is_missing_is_said_in_a_sentence_and_the_password_never(shop: Shop, tmp_path: Path) -> None:
    said = []
    dsn = os.environ["SHOP_DATABASE"]
    os.environ["SHOP_DATABASE"] = dsn.replace(str(shop.server.socket), str(tmp_path))
    said += [shop.rfs("checkpoint"), shop.rfs("doctor"), shop.rfs("checkpoint", "--json", "--debug")]
    assert "cannot be reached" in said[0].err
    os.environ["SHOP_DATABASE"] = dsn.replace(shop.owner, "nobody_here")
    said.append(shop.rfs("checkpoint"))
    assert "nobody_here" in said[-1].err
    os.environ["SHOP_DATABASE"] = "postgresql://me:hunter2@[nowhere/shop"
    said.append(shop.rfs("checkpoint"))
    assert said[-1].code == 2
    os.environ["SHOP_DATABASE"] = dsn
    (tmp_path / "empty").mkdir()
    toml = (shop.folder / "rfs.toml").read_text()
    shop.configure(toml.replace(str(shop.server.bin), str(tmp_path / "empty")))
    said.append(shop.rfs("checkpoint"))
    assert "There is no pg_dump" in said[-1].err
    older = [folder for folder in installations().values() if folder.parent.name not in str(shop.server.bin)]
    if older:
        shop.configure(toml.replace(str(shop.server.bin), str(older[0])))
        said.append(shop.rfs("checkpoint"))
        assert "cannot read the server" in said[-1].err
    shop.configure(toml)
    target = shop.checkpoint()
    said += [shop.rfs("plan", target), shop.rfs("status", "--json"), shop.rfs("doctor", "--json")]
    assert "hunter2" not in repr(said)


def test_the_password_is_on_no_command_line(shop: Shop, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    seen = tmp_path / "seen"
    words = f'#!/bin/sh\necho "$@" >> {seen}\necho "given: $PGPASSWORD" >> {seen}\n'
    (programs / "pg_dump").write_text(f'{words}exec {shop.server.bin}/pg_dump "$@"\n')
    (programs / "pg_dump").chmod(0o755)
    shop.configure((shop.folder / "rfs.toml").read_text().replace(str(shop.server.bin), str(programs)))
    shop.checkpoint()
    told = seen.read_text()
    assert "given: hunter2" in told
    assert told.count("hunter2") == told.count("given: hunter2")


@pytest.mark.slow
def test_rows_changed_all_over_a_table_cost_little_and_come_back(shop: Shop) -> None:
    def stored() -> int:
        return sum(path.stat().st_size for path in (shop.folder / ".rfs" / "packs").iterdir())

    shop.do(
        "INSERT INTO lines SELECT o.id, n FROM generate_series(2, 100) n, orders o;"
        "ALTER TABLE lines ADD COLUMN note text; UPDATE lines SET note = md5((order_id * 1000 + n)::text)"
    )
    empty = stored()
    targets, sums, sizes = [], [], [empty]
    for version in range(4):
        shop.do("UPDATE lines SET note = note || %s WHERE (order_id * 100 + n) %% 100 = %s", version, version)
        targets.append(shop.checkpoint())
        sums.append(shop.one("SELECT sum(hashtextextended(l::text, 0)) FROM lines l"))
        sizes.append(stored())
    first, *others = [after - before for before, after in pairwise(sizes)]
    assert max(others) < first * 0.1, sizes
    plan = shop.json("plan", targets[1])
    assert {loss["what"]: loss["count"] for loss in plan["losses"]} == {"changed rows in table lines": 400}
    for number in (1, 3):
        shop.json("rollback", targets[number], "--yes", "--reason", "a test")
        assert shop.one("SELECT sum(hashtextextended(l::text, 0)) FROM lines l") == sums[number]
    assert shop.rfs("verify").code == 0


def test_a_drill_stages_the_database_and_leaves_nothing_beside_the_live_one(shop: Shop) -> None:
    shop.checkpoint()
    shop.do("DELETE FROM lines")
    before = shop.one("SELECT array_agg((oid, datname)::text ORDER BY oid) FROM pg_database")
    drilled = {each["component"]: each for each in shop.json("drill")["components"]}
    assert (drilled["db"]["how"], drilled["db"]["problem"]) == ("staged", "")
    assert shop.one("SELECT array_agg((oid, datname)::text ORDER BY oid) FROM pg_database") == before
    assert shop.one("SELECT count(*) FROM lines") == 0


def test_a_pg_dump_that_says_nothing_more_is_given_up_and_ended(shop: Shop, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "pg_dump").write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec {shop.server.bin}/pg_dump --version\n'
        f"echo $$ > {tmp_path}/pid\nhead -c 3000000 /dev/zero\nexec sleep 60\n"
    )
    (programs / "pg_dump").chmod(0o755)
    shop.configure((shop.folder / "rfs.toml").read_text().replace(str(shop.server.bin), str(programs)))
    threads = threading.active_count()
    began = time.monotonic()
    ran = shop.rfs("checkpoint", "--timeout", "1s")
    assert ran.code == 124, ran
    assert time.monotonic() - began < 20
    assert threading.active_count() == threads
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_names_are_changed_from_the_database_that_rfs_toml_names(shop: Shop) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    shop.set_up(more=f'admin_url = "{shop.dsn.replace(f"dbname={shop.database}", "dbname=nowhere_at_all")}"')
    ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
    assert ran.code == 1, ran
    assert "nowhere_at_all" in ran.err
    assert "hunter2" not in ran.err
    assert shop.one("SELECT count(*) FROM log") == 201
    shop.set_up(more=f'admin_url = "{shop.dsn.replace(f"dbname={shop.database}", "dbname=template1")}"')
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log") == 200


def test_without_psycopg_it_says_what_to_install(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    ran = shop.rfs("checkpoint")
    assert ran.code == 2
    assert "pip install 'rfs-rollback[postgresql]'" in ran.err


# — what was set aside —


@contextmanager
def displaced_component(shop: Shop) -> Iterator[tuple[Component, Capture]]:
    """Yield the component, and the capture of the state before the last operation."""
    with Application.open(shop.folder / "rfs.toml") as app:
        operation = app.catalog.operations()[0]
        yield app.parts["db"].component, app.catalog.checkpoint(operation.state_before).captures["db"]


def test_prune_drops_what_was_set_aside_when_nothing_refers_to_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.json("prune", "--yes")["discarded"] == []
    assert len(shop.names()) == 2  # undo needs it
    with displaced_component(shop) as (c, capture):
        assert PostgresqlDriver().discard(c, [capture], [capture], dry_run=True) == []
        assert len(PostgresqlDriver().discard(c, [], [capture], dry_run=True)) == 1
    monkeypatch.setattr(upkeep, "UNDO_KEPT", timedelta(0))
    monkeypatch.setattr(upkeep, "UNDO_KEPT_AT_LEAST", 0)
    (dry,) = shop.json("prune", "--dry-run")["discarded"]
    assert len(shop.names()) == 2
    (said,) = shop.json("prune", "--yes")["discarded"]
    assert said == dry
    assert "no checkpoint refers to it any longer" in said
    assert shop.names() == [shop.database]
    assert shop.one("SELECT count(*) FROM log") == 200
