"""The server that the tests of databases stand on starts, survives being killed, and leaves nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pg_server import installations, running


@pytest.mark.parametrize("version", installations())
def test_a_server_runs_is_killed_runs_again_and_leaves_nothing(version: int) -> None:
    with running(version=version) as server:
        server.create("shop")
        with server.connect("shop", "shop_owner") as c:
            assert c.info.server_version // 10000 == version
            c.execute("CREATE TABLE t (a int)")
            c.execute("INSERT INTO t VALUES (1)")
        server.kill()
        server.start()
        with server.connect("shop", "shop_owner") as c:
            assert c.execute("SELECT a FROM t").fetchall() == [(1,)]
        pid, folder = server.pid, server.socket
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_a_run_prints_what_ran_on_which_version() -> None:
    words = ["-q", "-n", "2", "-p", "no:cacheprovider", "-k", "leaves_nothing", __file__]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    _, _, table = done.stdout.partition("tests on PostgreSQL, by version")
    head, line = table.splitlines()[1:3]
    assert sorted(int(each.split(".")[0]) for each in head.split()) == sorted(installations())
    assert re.split(" +", line.strip()) == ["test_pg_server.py", *["1"] * len(installations())]
