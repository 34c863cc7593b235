"""What is missing, too old, others' or full is told in a sentence, and nothing is lost: put right, it goes on."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from disks import mounted
from postgresql_shop import Shop, catalog, shop_of

from pg_server import DEADLINE, running
from rfs.production.rollback.drivers.postgresql import marks, room
from rfs.production.rollback.pg_dump import OLDEST_SERVER

MEGABYTE = 1 << 20


def _refused(shop: Shop, target: str, code: int, *said: str) -> None:
    """Try to roll back; see that it is refused with these words, and that all is as before."""
    before = catalog(shop)
    ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
    assert ran.code == code, ran
    assert all(each in ran.err for each in said), ran.err
    assert shop.names() == [shop.database]
    assert catalog(shop) == before


def test_a_server_that_is_too_old_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with shop.connect() as connection:
        version = connection.info.server_version // 10000
    if version >= OLDEST_SERVER:
        version = OLDEST_SERVER - 1
        number = property(lambda _: version * 10000 + 20)
        monkeypatch.setattr(psycopg.ConnectionInfo, "server_version", number)
    for words in (("checkpoint",), ("doctor",)):
        ran = shop.rfs(*words)
        assert ran.code != 0, ran
        assert f"is PostgreSQL {version}, and rfs knows {OLDEST_SERVER} and newer" in " ".join(
            (ran.out + ran.err).split()
        )


@pytest.mark.slow
def test_a_pg_dump_that_is_gone_or_too_old_by_the_time_of_the_rollback(shop: Shop, tmp_path: Path) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    toml = (shop.folder / "rfs.toml").read_text()
    programs = tmp_path / "programs"
    programs.mkdir()
    shop.configure(toml.replace(str(shop.server.bin), str(programs)))
    _refused(shop, target, 2, "There is no pg_dump", "or name their folder with bin")
    (programs / "pg_dump").write_text('#!/bin/sh\necho "pg_dump (PostgreSQL) 9.6.1"\n')
    (programs / "pg_dump").chmod(0o755)
    for word in ("checkpoint", "doctor"):
        ran = shop.rfs(word)
        assert "is of version 9 and cannot read the server" in " ".join((ran.out + ran.err).split()), ran
    _refused(shop, target, 2, "is of version 9 and cannot read the server", "or name their folder with bin")
    shop.configure(toml)
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log") == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("public.theirs", ["CREATE TABLE theirs (n int)", "GRANT SELECT ON theirs TO PUBLIC"]),
        (
            "large object 4711",
            ["SELECT lo_from_bytea(4711, 'theirs')", "GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC"],
        ),
        ("publication theirs", ["CREATE PUBLICATION theirs"]),
    ],
)
def test_what_belongs_to_another_role_is_named_before_and_when_it_is_refused(
    shop: Shop, what: str, words: list[str]
) -> None:
    with shop.server.connect(shop.database) as admin:
        for each in words:
            admin.execute(each.encode())
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    assert what in shop.rfs("doctor").out
    assert what in repr(shop.json("plan", target)["warnings"])
    _refused(shop, target, 1, what.rpartition(" ")[2], "cannot be made again")
    shop.may_not_create()
    _refused(shop, target, 15, what, "they belong to other roles")


@pytest.mark.slow
def test_an_extension_that_only_a_superuser_may_create_stays_or_is_refused_by_name(shop: Shop) -> None:
    query = "SELECT min(name) FROM pg_available_extension_versions WHERE name IN ('amcheck', 'vector') AND NOT trusted"
    extension = shop.one(query)  # Debian's packages have the one, the wheel the other
    with shop.server.connect(shop.database) as admin:
        admin.execute(f"CREATE EXTENSION {extension}".encode())
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    # Beside the live one it would have to be created; in place it stays.
    assert extension in repr(shop.json("plan", target)["warnings"])
    assert extension in shop.rfs("doctor").out
    _refused(shop, target, 1, f"EXTENSION {extension} of the checkpoint cannot be made again")
    shop.may_not_create()
    shop.json("rollback", target, "--yes", "--reason", "a test")
    assert shop.one("SELECT count(*) FROM log") == 200
    with shop.server.connect(shop.database) as admin:
        admin.execute(f"DROP EXTENSION {extension}".encode())
    _refused(shop, target, 15, extension, "extensions that only a superuser may create")


@pytest.mark.slow
def test_a_database_that_autovacuum_is_working_in_is_dropped() -> None:
    """Its owner may not end that session, and the server does so itself only for those who do not ask for it."""
    slow = ("autovacuum_naptime=1", "autovacuum_vacuum_cost_delay=100", "autovacuum_vacuum_cost_limit=1")
    with running(*(word for each in slow for word in ("-c", each))) as server, server.connect() as admin:
        server.create("busy")
        with server.connect("busy", "busy_owner") as owner:
            owner.execute("CREATE TABLE t AS SELECT generate_series(1, 100000) AS n; DELETE FROM t WHERE n % 2 = 0")
        query = "SELECT backend_type FROM pg_stat_activity WHERE datname = 'busy'"
        deadline = time.monotonic() + DEADLINE
        while admin.execute(query).fetchall() != [("autovacuum worker",)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)  # it tells nobody that it comes
        with server.connect("postgres", "busy_owner") as owner:
            marks.drop(owner, "busy")
        assert admin.execute("SELECT 1 FROM pg_database WHERE datname = 'busy'").fetchone() is None


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 64 MB that a server may use, whoever runs it."""
    folder = Path(tempfile.mkdtemp(prefix="rfs-disk-"))
    folder.chmod(0o755)
    for place in mounted(folder / "small", 64):
        if os.geteuid() == 0:
            shutil.chown(place, "nobody")
        yield place
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("beside", [True, False], ids=["swapped", "in-place"])
def test_a_disk_that_is_too_small_or_runs_full(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    small_disk: Path,
    beside: bool,
) -> None:
    with running() as server, shop_of(tmp_path, capsys, monkeypatch, server) as shop:
        with server.connect() as admin:
            admin.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'".encode())
            admin.execute(f"GRANT CREATE ON TABLESPACE small TO {shop.owner}".encode())
            admin.execute(f"ALTER DATABASE {shop.database} SET TABLESPACE small".encode())
        shop.do("INSERT INTO log SELECT repeat(md5(g::text), 8) FROM generate_series(1, 40000) g")
        rows = shop.one("SELECT count(*) FROM log")
        target = shop.checkpoint()
        shop.do("INSERT INTO log VALUES ('new')")
        if not beside:
            shop.may_not_create()
        _refused(shop, target, 1, "too little room for a second copy", f"MB on {small_disk}", "MB are needed")
        # That of a server on another machine cannot be seen.
        monkeypatch.setattr(room, "_data_folder", lambda *_: None)
        # What makes a new database still fits, and its largest table does not.
        filled = small_disk / "filled"
        state = os.statvfs(small_disk)
        with filled.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - (12 if beside else 4) * MEGABYTE)
        _refused(shop, target, 1 if beside else 30, "No space left on device")
        filled.unlink()
        shop.json("rollback", target, "--yes", "--reason", "a test")
        assert shop.one("SELECT count(*) FROM log") == rows
        shop.json("undo", "--yes", "--reason", "a test")
        assert shop.one("SELECT count(*) FROM log") == rows + 1
