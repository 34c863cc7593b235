"""Conditions that ask a real Prometheus and a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from scraped import Prometheus, eventually, needs_prometheus, scraping
from systemd_host import systemctl, write_unit
from waiting import until

from pg_server import Server
from rfs.production.rollback import settings
from rfs.production.rollback.conditions import Sample
from rfs.production.rollback.settings import ComponentTable
from rfs.production.rollback.sources import SourceContext, open_source, parse_source


def measured(home: Path, table: dict[str, Any], *components: ComponentTable, timeout: float = 20) -> Sample:
    spec = parse_source(table, settings.Source("rfs.toml", ""), ("conditions", 0))
    source = open_source(spec, SourceContext(home=str(home), timeout=timeout, components=components))
    with closing(source):
        return source.measure()


class Metrics(BaseHTTPRequestHandler):
    """What the shop shows Prometheus."""

    def do_GET(self) -> None:
        body = self.server.page.encode()  # type: ignore[attr-defined]  # set by `exporter`
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def exporter() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    server.page = 'http_errors{code="500"} 7\nhttp_total{node="a"} 60\nhttp_total{node="b"} 40\nempty NaN\n'
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow  # it waits for scrapes
@needs_prometheus
def test_prometheus_answers_refuses_goes_and_comes_back(tmp_path: Path) -> None:
    with exporter() as shop, scraping(tmp_path, f"127.0.0.1:{shop.server_port}") as prometheus:
        _ask(tmp_path, prometheus, shop)


def _ask(home: Path, prometheus: Prometheus, shop: Any) -> None:
    def ask(query: str, **more: Any) -> Sample:
        return measured(home, {"prometheus": query, "server": prometheus.url, **more})

    rate = "sum(http_errors) / sum(http_total)"
    assert eventually(lambda: ask(rate).measured, lambda value: value > 0) == 0.07
    sample = ask(rate, count="sum(http_total)")
    assert (sample.value, sample.weight, sample.error) == (0.07, 100, "")
    assert ask("scalar(sum(http_total))").value == 100
    assert ask("42").value == 42
    # There is nothing to say: no series, NaN, a division by nothing.
    for nothing in ("sum(not_there)", "empty", "sum(http_errors) / 0 * 0", rate.replace("total", "missing")):
        assert (ask(nothing).measured, ask(nothing).error) == (None, ""), nothing
    assert "gives 2 series" in ask("http_total").error
    assert "gives a matrix" in ask("http_total[1m]").error
    assert "gives a string" in ask('"much"').error
    assert "Prometheus refused the query: invalid parameter" in ask("sum(").error
    assert "answered 404" in measured(home, {"prometheus": "1", "server": f"{prometheus.url}/other"}).error
    not_it = {"prometheus": "1", "server": f"http://127.0.0.1:{shop.server_port}"}
    assert measured(home, not_it).error.endswith("answered 501")
    shop.page = shop.page.replace('errors{code="500"} 7', 'errors{code="500"} 9')
    assert eventually(lambda: ask(rate).measured, lambda value: value != 0.07) == 0.09
    prometheus.stop()
    assert "connection refused" in ask(rate).error
    prometheus.start()
    assert eventually(lambda: ask(rate).measured, lambda value: value > 0) == 0.09


# — PostgreSQL —


@pytest.fixture
def dsn(pg_server: Server, request: pytest.FixtureRequest) -> str:
    name = f"sources_{abs(hash(request.node.name)) % 10**8}"
    return pg_server.create(name)


def test_postgresql_is_asked_and_cannot_be_written(tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE orders(failed numeric)")
        connection.execute(
            "INSERT INTO orders SELECT CASE WHEN i % 4 = 0 THEN 1 ELSE 0 END FROM generate_series(1, 8) i"
        )
    monkeypatch.setenv("SHOP_DATABASE", dsn)
    db = ComponentTable(name="db", kind="postgresql", options={"dsn": "env:SHOP_DATABASE"})

    def ask(sql: str, *, timeout: float = 20) -> Sample:
        return measured(tmp_path, {"sql": sql}, db, timeout=timeout)

    sample = ask("SELECT avg(failed), count(*) FROM orders")
    assert (sample.value, sample.weight, sample.error) == (0.25, 8, "")
    for nothing in ("SELECT NULL::int", "SELECT 1 WHERE false", "SELECT 'NaN'::float", "SELECT 'Infinity'::numeric"):
        assert (ask(nothing).measured, ask(nothing).error) == (None, ""), nothing
    for sql, error in {
        "SELECT failed FROM orders": "several rows",
        "SELECT true": "true or false, not a number",
        "SELECT now()": "datetime, not a number",
        "DELETE FROM orders": "read-only transaction",
        "SET work_mem = '1MB'": "gives no rows",
        "SELECT missing": 'column "missing" does not exist',
    }.items():
        assert error in ask(sql).error, sql
    assert "did not answer within 0.3 s" in ask("SELECT 1 FROM pg_sleep(600)", timeout=0.3).error
    assert ask("SELECT count(*) FROM orders").value == 8


def test_what_stands_in_the_way_is_told_without_the_password(tmp_path: Path, pg_server: Server, dsn: str) -> None:
    def ask(dsn: str) -> str:
        sample = measured(tmp_path, {"sql": "SELECT 1", "dsn": dsn})
        assert sample.measured is None
        return sample.error

    assert 'database "missing" does not exist' in ask(pg_server.dsn("missing", password="hush"))
    for wrong in ("postgresql//user:hush@there/db", "postgresql://user:hush@[there/db", "password=hush host"):
        assert ask(wrong) == "the dsn is no connection string"
    gone = ask(f"host={tmp_path} user=x password=hush dbname=y")
    assert gone
    assert "hush" not in gone
    assert measured(tmp_path, {"sql": "SELECT 1", "dsn": "env:NOT_SET"}).error.startswith("The secret")


# — systemd —


@pytest.mark.slow
@pytest.mark.inside_systemd
def test_what_runs_in_a_unit_is_measured(tmp_path: Path) -> None:
    table = {"unit": "rfs-test-family.service"}
    assert measured(tmp_path, {"process": "memory_mb", **table}).measured is None
    # The second process has another parent by then.
    script = "(sleep 1000 &) ; exec sleep 1000"
    write_unit("rfs-test-family.service", f"[Service]\nType=exec\nExecStart=/bin/sh -c '{script}'\n")
    systemctl("daemon-reload")
    systemctl("start", "rfs-test-family.service")
    until(lambda: measured(tmp_path, {"process": "count", **table}).value == 2)
    memory = measured(tmp_path, {"process": "memory_mb", **table}).measured
    assert memory is not None
    assert 0 < memory < 50
    systemctl("stop", "rfs-test-family.service")
    sample = measured(tmp_path, {"process": "memory_mb", **table})
    assert (sample.measured, sample.error) == (None, "")
