"""A plug-in's wheel beside that of rfs: its driver is found by its entry point, works, and is missed clearly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fresh import ROOT, Environment, build, run

from flags import serving
from redis_server import RedisServer

TOML = """
[app]
name = "shop"

[components.flags]
kind = "document"
url = "{url}"
token = "file:token"
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("plugin")
    environment = Environment(folder / "venv")
    examples = [build(ROOT / "examples" / name, folder / name) for name in ("rfs-document", "rfs-redis")]
    environment.install(build(ROOT, folder / "rfs"), *examples)
    return environment


REDIS = """
[app]
name = "shop"

[components.code]
kind = "files"
path = "app"

[components.cache]
kind = "redis"
url = "env:CACHE_URL"
files = ["app/redis"]
"""


@pytest.mark.slow
def test_the_keys_of_a_redis_go_with_the_rest(fresh: Environment, tmp_path: Path) -> None:
    """Through the whole command line: held, planned, rolled back, undone; and its own files are left alone."""
    (tmp_path / "app" / "redis").mkdir(parents=True)
    (tmp_path / "app" / "main.py").write_text("1")
    (tmp_path / "rfs.toml").write_text(REDIS)
    with RedisServer(requirepass="hunter2") as server:
        url = f"unix://:hunter2@{server.socket}"
        server.do(("MSET", "cart:1", "apples", "cart:2", "pears"))

        def rfs(*words: str) -> str:
            said = run(fresh.bin / "rfs", *words, cwd=tmp_path, HOME=str(tmp_path), XDG_CONFIG_HOME="", CACHE_URL=url)
            assert "hunter2" not in said
            return said

        rfs("init")
        rfs("doctor")
        rfs("checkpoint", "--tag", "v1")
        server.do(("SET", "cart:1", "plums"), ("DEL", "cart:2"), ("SET", "cart:3", "nuts"))
        (tmp_path / "app" / "main.py").write_text("2")
        (tmp_path / "app" / "redis" / "dump.rdb").write_text("the server's own")
        plan = rfs("plan", "v1")
        assert "cart:1  plums → apples" in plan
        assert "cache: 1 new key" in plan
        rfs("rollback", "v1", "--yes", "--reason", "a test")
        assert server.do(("MGET", "cart:1", "cart:2", "cart:3")) == [[b"apples", b"pears", None]]
        assert (tmp_path / "app" / "main.py").read_text() == "1"
        assert (tmp_path / "app" / "redis" / "dump.rdb").read_text() == "the server's own"
        rfs("undo", "--yes")
        assert server.do(("MGET", "cart:1", "cart:2", "cart:3")) == [[b"plums", None, b"nuts"]]


@pytest.mark.slow
def test_a_driver_is_found_works_and_is_missed(fresh: Environment, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()

    def rfs(*words: str, status: int = 0) -> str:
        return run(fresh.bin / "rfs", *words, cwd=app, status=status, HOME=str(tmp_path), XDG_CONFIG_HOME="")

    with serving() as flags:
        flags.token = "hunter2"
        first = json.loads(flags.text)
        (app / "rfs.toml").write_text(TOML.format(url=flags.url))
        (app / "token").write_text("hunter2\n")
        rfs("init")
        rfs("doctor")
        rfs("checkpoint", "--tag", "v1")
        flags.text = b'{"checkout": {"express": false, "token": "another"}, "limits": [1, 2]}'
        plan = rfs("plan", "v1")
        assert "/checkout/express  false → true" in plan
        assert "/checkout/token\n" in plan
        assert "hunter2" not in plan
        rfs("rollback", "v1", "--yes", "--reason", "a test")
        assert json.loads(flags.text) == first
        (app / "token").write_text("wrong\n")
        doctor = rfs("doctor", status=1)
        assert "401" in doctor
    module = fresh.packages / "rfs_document"
    shutil.move(module, tmp_path / "aside")
    half = rfs("checkpoint", status=2)
    assert "The kind document is offered by rfs-document, but its driver" in half
    assert "Install rfs-document anew" in half
    (info,) = fresh.packages.glob("rfs_document-*.dist-info")
    shutil.move(info, tmp_path / "aside")
    gone = rfs("checkpoint", status=10)
    assert "unknown kind: document" in gone
    assert "config, environment, files, postgresql, redis, service, sqlite" in gone
