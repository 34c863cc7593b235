"""The server that the tests of databases stand on starts, survives being killed, and leaves nothing."""

from __future__ import annotations

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
