"""The shop of examples/ as a visitor meets it, on both of its versions, under a real supervisor."""

from __future__ import annotations

import ast
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from waiting import until

from rfs.demo import witness
from rfs.demo.shop import Shop, ShopError, source
from rfs.demo.story import CUP, KETTLE


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    # pytest's own folders have paths too long for the socket in the shop's folder.
    with tempfile.TemporaryDirectory(prefix="rfs-shop-") as folder:
        yield Path(folder)


@contextmanager
def running(base: Path) -> Iterator[Shop]:
    base.mkdir()
    shop = Shop(base)
    shop.install()
    try:
        shop.start()
        yield shop
    finally:
        assert shop.stop() == []
        assert list(shop.running()) == []


@pytest.fixture(scope="module")
def shop(base: Path) -> Iterator[Shop]:
    """One shop for all tests that leave it as it was."""
    with running(base / "one") as shop:
        yield shop


def ledger(shop: Shop) -> int:
    return sum(row[3] for row in witness.rows(shop.database)["ledger"])


def test_it_needs_the_standard_library_alone() -> None:
    for path in source().rglob("*.py"):
        allowed = sys.stdlib_module_names | {"app", "install", "deploy_v2"}
        if path.name == "in_postgresql.py":
            allowed |= {"psycopg"}
        if path.name == "night_shift.py":
            allowed |= {"rfs"}  # it tells rfs what it changes
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path


@pytest.mark.slow
def test_version_1_sells_and_version_2_breaks_it(base: Path) -> None:
    with running(base / "two") as shop:
        sell(shop)
        break_it(shop)


def sell(shop: Shop) -> None:
    assert shop.health()["version"] == "1.4.2"
    status, headers, page = shop.request("GET", f"/product/{KETTLE}")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"Glass kettle No. 1" in page
    for path, wanted in (("/", 200), ("/static/icon.svg", 200), ("/static/../.env", 404), ("/product/none", 404)):
        assert shop.request("GET", path)[0] == wanted, path

    number = shop.order(KETTLE, CUP)
    assert b'"shipped"' in shop.request("GET", f"/order/{number}")[2]
    assert (shop.folder / "log" / "orders.log").read_text().endswith(f"shipped {number}\n")
    assert ledger(shop) == 0

    picture = shop.upload(CUP, (shop.folder / "uploads" / f"{KETTLE}.png").read_bytes())
    assert (shop.folder / picture).is_file()
    with pytest.raises(ShopError, match="415"):
        shop.upload(CUP, b"not a picture")
    assert shop.request("POST", "/admin/picture/" + CUP, b"x", {"X-Admin-Token": "guessed"})[0] == 403


def break_it(shop: Shop) -> None:
    shop.deploy_v2()
    assert shop.health() == {"http": 200, "status": "ok", "version": "2.0.0", "checks": {"process": "ok"}}
    assert shop.order(KETTLE) == 1002
    assert ledger(shop) != 0
    assert shop.checkout(KETTLE, CUP)[0] == 500
    # What a program prints reaches the log through its supervisor.
    until(lambda: b"KeyError" in (shop.folder / "log" / "web.log").read_bytes())


def test_nothing_is_sold_that_is_not_there(shop: Shop) -> None:
    before = witness.rows(shop.database)
    with closing(sqlite3.connect(shop.database, isolation_level=None)) as connection:
        connection.execute("UPDATE products SET stock = 0 WHERE slug = ?", (CUP,))
        status, body = shop.checkout(KETTLE, CUP)
        connection.execute("UPDATE products SET stock = 5000 WHERE slug = ?", (CUP,))
    assert (status, body) == (409, b"sold out: Porcelain cup No. 2\n")
    assert witness.rows(shop.database) == before


def test_settings_are_read_again_on_reload(shop: Shop) -> None:
    path = shop.folder / "config" / "settings.toml"
    path.write_text(path.read_text().replace("Teapot & Sons", "Teapot & Daughters"))
    assert b"Daughters" not in shop.request("GET", "/")[2]
    assert shop.request("POST", "/-/reload")[0] == 200
    assert b"Teapot &amp; Daughters" in shop.request("GET", "/")[2]


def test_health_looks(shop: Shop) -> None:
    env = shop.folder / ".env"
    text = env.read_text()
    env.write_text(text.replace("PAYMENT_TOKEN", "PAYMENT_TOKEN_OLD"))
    shop.request("POST", "/-/reload")
    health = shop.health()
    env.write_text(text)
    shop.request("POST", "/-/reload")
    assert shop.health()["status"] == "ok"
    assert (health["http"], health["status"]) == (503, "failing")
    assert health["checks"]["secrets"] == "PAYMENT_TOKEN is missing"


def test_it_is_not_installed_over_something(base: Path) -> None:
    shop = Shop(base / "three")
    shop.folder.mkdir(parents=True)
    (shop.folder / "thesis.txt").write_text("x")
    with pytest.raises(ShopError, match=r"is not empty; choose another folder\.$"):
        shop.install()
    assert os.listdir(shop.folder) == ["thesis.txt"]


def test_a_path_too_long_for_a_socket_is_said_before_anything_is_made(base: Path) -> None:
    deep = base / ("a" * 90)
    done = subprocess.run(
        [sys.executable, source() / "install.py", deep], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert "too long a path" in done.stderr
    assert not deep.exists()


def test_what_ignores_being_asked_is_killed_and_told(base: Path) -> None:
    shop = Shop(base)
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    child = subprocess.Popen(
        [sys.executable, "-c", script], env=shop.environment, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    with child.stdout as said:
        assert said.readline() == b"ready\n"
        (told,) = shop.stop()
    assert told.startswith(f"{child.pid}: ")
    assert child.wait(5) == -9
