"""The example shop under load, deployed with versions that turn bad in one way each, and with a good one."""

from __future__ import annotations

import http.client
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from scraped import eventually, needs_prometheus, scraping
from test_guard_shop import rfs

from rfs.demo.shop import Shop, source
from rfs.production.rollback import settings
from rfs.production.rollback.sources import SourceContext, open_source, parse_source

pytestmark = [pytest.mark.slow, needs_prometheus]

# The same for every version: each must be found by its own fault, and the good one by none.
CONDITIONS = """
[[health]]
name = "http"
http = "http://127.0.0.1:{port}/health"
[[conditions]]
name = "error_rate"
prometheus = 'sum(rate(shop_requests_total{{status="500"}}[3s])) / sum(rate(shop_requests_total[3s]))'
count = 'sum(increase(shop_requests_total[3s]))'
server = "{server}"
trip = "> 0.03"
min_samples = 100
for = "1s"
interval = "250ms"
[[conditions]]
name = "p99_seconds"
prometheus = 'histogram_quantile(0.99, sum by (le) (rate(shop_request_seconds_bucket[3s])))'
server = "{server}"
trip = "> 0.3"
for = "1s"
interval = "250ms"
[[conditions]]
name = "memory"
prometheus = 'process_resident_memory_bytes / 1e6'
server = "{server}"
trip = "> 200"
interval = "250ms"
[[conditions]]
name = "waiting_orders"
sql = "SELECT count(*) FROM orders WHERE status = 'reserved'"
trip = "> 25"
for = "1s"
interval = "250ms"
"""


@contextmanager
def load(shop: Shop) -> Iterator[None]:
    """Visit the shop all the while, as customers do: most look around, some order. It may be gone for a moment."""
    over = threading.Event()
    with closing(sqlite3.connect(shop.database)) as database:
        ((product,),) = database.execute("SELECT slug FROM products ORDER BY stock DESC LIMIT 1")

    def visit(number: int) -> None:
        while not over.is_set():
            try:
                if number == 0:
                    shop.checkout(product)
                    over.wait(0.02)
                else:
                    shop.request("GET", "/")
            except (OSError, http.client.HTTPException, KeyError):
                over.wait(0.01)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """The shop under load with a Prometheus that scrapes it; every bad version is rolled back from it."""
    with tempfile.TemporaryDirectory(prefix="rfs-shop-") as folder:
        base = Path(folder) / "one"
        (base / "prometheus").mkdir(parents=True)
        shop = Shop(base)
        shop.install()
        try:
            shop.start()
            assert rfs(shop, "init", "--store", str(base / "store")).returncode == 0
            with scraping(base / "prometheus", f"127.0.0.1:{shop.port}") as prometheus, load(shop):
                config = shop.folder / "rfs.toml"
                added = CONDITIONS.format(port=shop.port, server=prometheus.url)
                config.write_text(config.read_text() + added)
                table = {"prometheus": "sum(rate(shop_requests_total[3s]))", "server": prometheus.url}
                source = open_source(
                    parse_source(table, settings.Source("rfs.toml", ""), ()), SourceContext(home=str(base))
                )
                eventually(lambda: source.measure().measured, lambda rate: rate > 20)
                yield shop
        finally:
            assert shop.stop() == []
            assert list(shop.running()) == []


def deployed(shop: Shop, kind: str, bake: str, version: str = "") -> subprocess.CompletedProcess[str]:
    deploy = [sys.executable, str(source() / "deploy_version.py"), str(shop.folder), kind]
    return rfs(shop, "guard", "--version", version or kind, "--bake", bake, "--", *deploy)


@pytest.mark.parametrize(
    ("kind", "condition"),
    [("fails", "error_rate"), ("slow", "p99_seconds"), ("leaks", "memory"), ("worker", "waiting_orders")],
)
def test_a_version_that_turns_bad_is_found_by_its_fault_and_goes(shop: Shop, kind: str, condition: str) -> None:
    ran = deployed(shop, kind, "60s")
    assert ran.returncode == 20, ran.stderr
    assert "is back at" in ran.stderr
    assert f": {condition} is " in ran.stderr
    assert shop.health()["version"] == "1.4.2"
    assert deployed(shop, kind, "1s").returncode == 21


def test_health_alone_would_have_kept_it_and_a_good_one_is_kept(shop: Shop) -> None:
    config = shop.folder / "rfs.toml"
    whole = config.read_text()
    config.write_text(whole[: whole.index("[[conditions]]")])
    ran = deployed(shop, "fails", "5s", version="unwatched")
    assert ran.returncode == 0, ran.stderr
    assert shop.health()["version"] == "1.5.0"
    config.write_text(whole)
    assert rfs(shop, "undo", "--yes", "--reason", "it fails").returncode in (0, 3)  # orders came in meanwhile
    assert shop.health()["version"] == "1.4.2"
    ran = deployed(shop, "good", "8s")
    assert ran.returncode == 0, ran.stderr
    assert shop.health()["version"] == "1.6.0"
