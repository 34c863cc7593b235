"""PgBouncer in front of a database: its clients wait for the outage to end and notice nothing else."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from postgresql_shop import Shop

from pg_server import DEADLINE

PROGRAM = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")

INI = """\
[databases]
front = host={socket} dbname={database} user={owner}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
admin_users = admin
pool_mode = transaction
logfile = {folder}/log
"""


@pytest.fixture
def front(shop: Shop) -> Iterator[str]:
    """Run a PgBouncer before the shop's database; yield the words of a connection, but for the database."""
    folder = shop.server.socket / f"bouncer{shop.database}"
    folder.mkdir()
    (folder / "ini").write_text(
        INI.format(socket=shop.server.socket, database=shop.database, owner=shop.owner, folder=folder)
    )
    (folder / "users").write_text('"admin" ""')
    user = {}
    if os.geteuid() == 0:  # it refuses to be root
        entry = pwd.getpwnam("nobody")
        user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        shutil.chown(folder, "nobody")
    assert PROGRAM is not None
    command = ["setpriv", "--pdeathsig", "INT", PROGRAM, "-q", folder / "ini"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user)
    try:
        deadline = time.monotonic() + DEADLINE
        while not (folder / ".s.PGSQL.6432").exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)  # it tells nobody that it is ready
        yield f"host={folder} port=6432 user=admin"
    finally:
        process.kill()
        process.wait()


def test_its_clients_wait_and_none_is_sent_away(shop: Shop, front: str) -> None:
    shop.set_up(more=f'pgbouncer = "{front} dbname=pgbouncer"')
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    over, seen, wrong = threading.Event(), [], []

    def ask() -> None:
        try:
            with psycopg.connect(f"{front} dbname=front", autocommit=True, prepare_threshold=None) as connection:
                while not over.is_set():
                    row = connection.execute("SELECT count(*) FROM log").fetchone()
                    seen.append(row and row[0])
                    over.wait(0.005)
        except psycopg.Error as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        shop.json("rollback", target, "--yes", "--reason", "a test")
        shop.json("undo", "--yes", "--reason", "a test")
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert wrong == []
    assert set(seen) == {200, 201}  # one connection each saw the one database and the other


def test_a_client_that_does_not_let_go_is_refused_and_pools_go_on(shop: Shop, front: str) -> None:
    shop.set_up(wait="0s", more=f'pgbouncer = "{front} dbname=pgbouncer"')
    assert "PgBouncer" not in shop.rfs("doctor").out
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    with psycopg.connect(f"{front} dbname=front", autocommit=True) as client:
        client.execute("BEGIN")
        client.execute("INSERT INTO log VALUES ('not yet')")
        ran = shop.rfs("rollback", target, "--yes", "--reason", "a test")
        assert (ran.code, "PgBouncer could not hold the clients of front" in ran.err) == (30, True), ran
        client.execute("COMMIT")
        assert client.execute("SELECT count(*) FROM log").fetchone() == (202,)
        shop.set_up(more=f'pgbouncer = "{front} dbname=pgbouncer"')
        with psycopg.connect(f"{front} dbname=pgbouncer", autocommit=True) as console:
            console.execute("PAUSE front")  # as a run that was killed leaves it
        shop.json("rollback", target, "--yes", "--reason", "a test")
        assert client.execute("SELECT count(*) FROM log").fetchone() == (200,)
    shop.set_up(more=f'pgbouncer = "host={shop.folder} port=6432 dbname=pgbouncer"')
    assert "cannot be reached" in shop.rfs("doctor").out
