"""What conditions measure, of real commands, files, processes, servers on loopback and SQLite files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import apsw
import pytest

from rfs.production.rollback import settings
from rfs.production.rollback.conditions import Sample
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.settings import ComponentTable
from rfs.production.rollback.sources import SPECS, Source, SourceContext, open_source, parse_source


@contextmanager
def opened(
    home: Path, table: dict[str, Any], *, timeout: float = 20, components: tuple[ComponentTable, ...] = ()
) -> Iterator[Source]:
    spec = parse_source(table, settings.Source("rfs.toml", ""), ("conditions", 0))
    source = open_source(spec, SourceContext(home=str(home), timeout=timeout, components=components))
    try:
        yield source
    finally:
        source.close()


def measured(home: Path, table: dict[str, Any], **more: Any) -> Sample:
    with opened(home, table, **more) as source:
        return source.measure()


def said(sample: Sample) -> tuple[float | None, int]:
    assert sample.error == ""
    return sample.measured, sample.weight


# — the table —


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "it takes exactly one of prometheus, http, sql, command, python, process, host, log"),
        (
            {"comand": ["true"]},
            "comand",
        ),
        ({"command": ["true"], "sql": "SELECT 1"}, "not sql and command"),
        ({"command": ["true"], "jsonpath": "$"}, "jsonpath"),
        ({"command": []}, "a program and its arguments"),
        ({"command": "true"}, "it takes a list, not text"),
        ({"http": "ftp://there"}, "is not a URL"),
        ({"http": "unix:///run/x"}, "it takes http:// or https://"),
        ({"http": "http://a", "jsonpath": "errors.rate"}, "is no path to one value"),
        ({"http": "http://a", "jsonpath": "$.a[*]"}, "is no path to one value"),
        ({"http": "http://a", "count": "$.n"}, "count belongs to jsonpath"),
        ({"prometheus": " "}, "prometheus takes a query"),
        ({"sql": ""}, "sql takes a query"),
        ({"sql": "SELECT 1", "dsn": "env:D", "path": "x"}, "one of component, dsn and path"),
        ({"python": "os.getpid"}, 'write "module:function"'),
        ({"process": "memory", "pattern": "x"}, "process"),
        ({"process": "memory_mb"}, "exactly one of pid_file, pattern and unit"),
        ({"process": "memory_mb", "pattern": "("}, "is no regular expression"),
        ({"host": "load", "path": "/"}, "path belongs to disk_percent"),
        ({"log": "x", "pattern": "["}, "is no regular expression"),
        ({"log": "x", "pattern": "a", "rate": "per_second", "lines": "b"}, 'lines belongs to rate = "fraction"'),
        ({"log": "x"}, "it is missing"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(table: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_source(table, settings.Source("rfs.toml", ""), ("conditions", 2))
    assert told in str(refused.value) + refused.value.hint
    assert "conditions[3]" in str(refused.value)


# — commands —


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 0.25", (0.25, 1)),
        ("echo noise; echo '0.5 200'", (0.5, 200)),
        ("echo 1e3,7", (1000.0, 7)),
        ("true", (None, 1)),
        ("echo nan", (None, 1)),
        ("echo inf", (None, 1)),
        ("echo warning >&2; echo -3", (-3.0, 1)),
    ],
)
def test_the_last_line_of_a_command_is_the_number(tmp_path: Path, script: str, found: tuple[float | None, int]) -> None:
    assert said(measured(tmp_path, {"command": ["sh", "-c", script]})) == found


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["sh", "-c", "echo much"], "the last line that sh printed is no number: much"),
        (["sh", "-c", "echo 1 2 3"], "is no number: 1 2 3"),
        (["sh", "-c", "echo 5; exit 3"], "sh ended with status 3: 5"),
        (["sh", "-c", "kill -9 $$"], "sh ended with signal 9"),
        (["./not-there"], "not-there"),
    ],
)
def test_a_command_without_a_number_is_an_error(tmp_path: Path, command: list[str], error: str) -> None:
    assert error in measured(tmp_path, {"command": command}).error


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    script = "sleep 600 & echo $! > child; wait"
    sample = measured(tmp_path, {"command": ["sh", "-c", script]}, timeout=0.5)
    assert "0.5" in sample.error
    assert sample.measured is None
    child = int((tmp_path / "child").read_text())
    with suppress(FileNotFoundError):
        while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)  # the signal may need a moment


def test_closing_cuts_a_measurement_short(tmp_path: Path) -> None:
    with opened(tmp_path, {"command": ["sh", "-c", "touch began; exec sleep 600"]}, timeout=600) as source:
        found: list[Sample] = []
        thread = threading.Thread(target=lambda: found.append(source.measure()))
        thread.start()
        while not (tmp_path / "began").exists():
            time.sleep(0.01)  # for the other process to begin
        source.close()
        thread.join(60)
    assert found[0].measured is None
    assert found[0].error


# — Python —


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "figures.py").write_text(
        textwrap.dedent("""\
            import atexit, sys, time
            atexit.register(print, 99)
            print("42 is said at import")
            def plain(): return 0.5
            def loud(): print("7"); print("8", file=sys.stderr); return 3
            async def later(): return 0.75, 30
            def nothing(): return None
            def strange(): return "0.5"
            def truth(): return True
            def broken(): raise ValueError("it broke")
            def hangs(): time.sleep(600)
            class Group:
                @staticmethod
                def inner(): return 2
            """)
    )
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [("plain", (0.5, 1)), ("loud", (3.0, 1)), ("later", (0.75, 30)), ("nothing", (None, 1)), ("Group.inner", (2.0, 1))],
)
def test_a_function_is_called(module: Path, name: str, found: tuple[float | None, int]) -> None:
    assert said(measured(module, {"python": f"figures:{name}"})) == found


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("strange", "figures:strange ended with status 1: TypeError: str is no number"),
        ("truth", "bool is no number"),
        ("broken", "ValueError: it broke"),
        ("missing", "has no attribute 'missing'"),
    ],
)
def test_a_function_without_a_number_is_an_error(module: Path, name: str, error: str) -> None:
    assert error in measured(module, {"python": f"figures:{name}"}).error


def test_a_function_that_hangs_is_ended_and_new_code_counts_at_once(module: Path) -> None:
    assert "figures:hangs" in measured(module, {"python": "figures:hangs"}, timeout=0.7).error
    with opened(module, {"python": "figures:plain", "interpreter": sys.executable}) as source:
        assert source.measure().measured == 0.5
        # As a rollback would; of another length, as the cache of compiled code goes by time and size.
        (module / "figures.py").write_text("def plain():\n    return 0.125\n")
        assert source.measure().measured == 0.125


# — HTTP —


class Handler(BaseHTTPRequestHandler):
    """Answers what the test put there, by path."""

    def do_GET(self) -> None:
        status, body = self.server.pages.get(self.path, (404, b""))  # type: ignore[attr-defined]  # set by `web`
        self.server.seen.append(dict(self.headers))  # type: ignore[attr-defined]  # as above
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def web(server: Any) -> Any:
    server.pages, server.seen = {}, []
    return server


ANSWER = {
    "errors": {"rate": 0.07, "of": 412},
    "nodes": [{"load": 1}, {"load": "2.5"}],
    "with spaces": 3,
    "none": None,
    "nan": "NaN",
    "yes": True,
    "text": "much",
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$.errors.rate", 0.07),
        ("$.nodes[1].load", 2.5),
        ("$.nodes[-1]['load']", 2.5),
        ('$["with spaces"]', 3.0),
        ("$.none", None),
        ("$.nan", None),
    ],
)
def test_a_number_is_found_in_an_answer(tmp_path: Path, web: Any, path: str, found: float | None) -> None:
    web.pages["/figures"] = (200, json.dumps(ANSWER).encode())
    assert said(measured(tmp_path, {"http": f"{web.url}/figures", "jsonpath": path})) == (found, 1)


def test_an_answer_tells_how_much_it_stands_for_and_secrets_are_resolved(
    tmp_path: Path, web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.pages["/figures?key=hush"] = (200, json.dumps(ANSWER).encode())
    monkeypatch.setenv("FIGURES", f"{web.url}/figures?key=hush")
    (tmp_path / "token").write_text("Bearer hush\n")
    table = {"http": "env:FIGURES", "jsonpath": "$.errors.rate", "count": "$.errors.of"}
    assert said(measured(tmp_path, {**table, "headers": {"Authorization": "file:token"}})) == (0.07, 412)
    assert web.seen[0]["Authorization"] == "Bearer hush"
    web.pages.clear()
    error = measured(tmp_path, table).error
    assert "answered 404" in error
    assert "hush" not in error


@pytest.mark.parametrize(
    ("body", "path", "error"),
    [
        (json.dumps(ANSWER).encode(), "$.errors", "$.errors is an object, not a number"),
        (json.dumps(ANSWER).encode(), "$.nodes", "$.nodes is a list, not a number"),
        (json.dumps(ANSWER).encode(), "$.yes", "$.yes is true or false, not a number"),
        (json.dumps(ANSWER).encode(), "$.text", "$.text is text that is no number"),
        (json.dumps(ANSWER).encode(), "$.errors.missing", "there is no $.errors.missing in what it answered"),
        (json.dumps(ANSWER).encode(), "$.nodes[5]", "there is no $.nodes[5] in what it answered"),
        (b"<html>", "$.a", "what it answered is no JSON"),
        (b"\xff\xfe", "$.a", "what it answered is no JSON"),
        (b"[" * 100_000, "$.a", "what it answered is no JSON"),
        (b'"' + b"x" * (2 << 20) + b'"', "$.a", "answered more than 1 MiB"),
    ],
)
def test_an_answer_without_the_number_is_an_error(tmp_path: Path, web: Any, body: bytes, path: str, error: str) -> None:
    web.pages["/"] = (200, body)
    assert error in measured(tmp_path, {"http": web.url, "jsonpath": path}).error


def test_a_bare_number_a_refusal_a_redirect_and_nobody(tmp_path: Path, web: Any) -> None:
    web.pages.update({"/n": (200, b" 12.5\n"), "/e": (200, b""), "/r": (302, b""), "/b": (500, b"12")})
    assert said(measured(tmp_path, {"http": f"{web.url}/n"})) == (12.5, 1)
    assert said(measured(tmp_path, {"http": f"{web.url}/e"})) == (None, 1)
    assert "answered 302" in measured(tmp_path, {"http": f"{web.url}/r"}).error
    assert "answered 500" in measured(tmp_path, {"http": f"{web.url}/b"}).error
    assert "connection refused" in measured(tmp_path, {"http": "http://127.0.0.1:9"}).error


# — SQLite —


def test_a_sqlite_file_is_asked_and_cannot_be_written(tmp_path: Path) -> None:
    db = apsw.Connection(str(tmp_path / "shop.db"))
    db.execute("CREATE TABLE orders(failed); INSERT INTO orders VALUES (0), (1), (0), (0)")
    db.close()
    shop = ComponentTable(name="db", kind="sqlite", options={"path": "shop.db"})
    rate = "SELECT avg(failed), count(*) FROM orders"
    assert said(measured(tmp_path, {"sql": rate}, components=(shop,))) == (0.25, 4)
    assert said(measured(tmp_path, {"sql": rate, "component": "db"}, components=(shop,))) == (0.25, 4)
    table = {"path": "shop.db"}
    assert said(measured(tmp_path, {"sql": "SELECT NULL", **table})) == (None, 1)
    assert said(measured(tmp_path, {"sql": "SELECT 1 WHERE 0", **table})) == (None, 1)
    for sql, error in {
        "SELECT failed FROM orders": "several rows",
        "SELECT 1, 2, 3": "3 columns",
        "SELECT 'much'": "text that is no number",
        "SELECT missing": "no such column",
        "DELETE FROM orders": "readonly",
        "PRAGMA query_only = off; DELETE FROM orders": "readonly",
    }.items():
        assert error in measured(tmp_path, {"sql": sql, **table}).error, sql
    assert said(measured(tmp_path, {"sql": "SELECT count(*) FROM orders", **table})) == (4, 1)
    assert "unable to open" in measured(tmp_path, {"sql": "SELECT 1", "path": "missing.db"}).error
    assert not (tmp_path / "missing.db").exists()


def test_a_query_without_end_is_cut(tmp_path: Path) -> None:
    apsw.Connection(str(tmp_path / "a.db")).execute("CREATE TABLE a(b)")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    assert "did not answer within 0.3 s" in measured(tmp_path, {"sql": endless, "path": "a.db"}, timeout=0.3).error


def test_it_must_be_clear_which_database_is_asked(tmp_path: Path) -> None:
    one, other = (ComponentTable(name=name, kind="sqlite", options={"path": "x"}) for name in ("one", "other"))
    for components, more, key in [
        ((), {}, "source.which_database"),
        ((one, other), {}, "source.which_database"),
        ((one, other), {"component": "files"}, "source.component"),
    ]:
        with (
            pytest.raises(RollbackError) as refused,
            opened(tmp_path, {"sql": "SELECT 1", **more}, components=components),
        ):
            pass
        assert refused.value.key == key


# — processes and the host —


def test_a_process_is_measured_with_its_children_until_it_is_gone(tmp_path: Path) -> None:
    # The child holds memory and files, and its parent little.
    code = textwrap.dedent("""\
        import os, sys, time
        if os.fork():
            os.wait()
        held = b"x" * 60_000_000
        files = [open(os.devnull) for _ in range(40)]
        print("ready", flush=True)
        while True:
            pass
        """)
    process = subprocess.Popen([sys.executable, "-c", code, "a marker 4711"], stdout=subprocess.PIPE, process_group=0)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / "pid").write_text(f"{process.pid}\n")
        for table in ({"pid_file": "pid"}, {"pattern": r"a marker \d{4}"}):
            assert said(measured(tmp_path, {"process": "count", **table}))[0] == 2
            memory, _ = said(measured(tmp_path, {"process": "memory_mb", **table}))
            assert memory is not None
            assert 60 < memory < 200
            files, _ = said(measured(tmp_path, {"process": "open_files", **table}))
            assert files is not None
            assert 43 <= files < 80
        percent, _ = said(measured(tmp_path, {"process": "memory_percent", "pid_file": "pid"}))
        assert percent is not None
        assert 0 < percent < 100
        with opened(tmp_path, {"process": "cpu_percent", "pid_file": "pid"}) as source:
            assert said(source.measure()) == (None, 1)  # there is nothing to compare with yet
            while not (cpu := source.measure().measured):
                time.sleep(0.02)  # the kernel counts in hundredths of a second
            assert cpu > 0
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert said(source.measure()) == (None, 1)
        assert said(measured(tmp_path, {"process": "memory_mb", "pid_file": "pid"})) == (None, 1)
        assert said(measured(tmp_path, {"process": "count", "pattern": "a marker 4711"})) == (0, 1)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]  # it is a pipe


def test_a_pid_file_may_be_missing_and_must_hold_a_number(tmp_path: Path) -> None:
    assert said(measured(tmp_path, {"process": "memory_mb", "pid_file": "pid"})) == (None, 1)
    (tmp_path / "pid").write_text("nginx\n")
    assert "holds no process number" in measured(tmp_path, {"process": "memory_mb", "pid_file": "pid"}).error


def test_figures_of_the_host(tmp_path: Path) -> None:
    for table in ({"host": "memory_percent"}, {"host": "disk_percent"}, {"host": "disk_percent", "path": "/"}):
        value, _ = said(measured(tmp_path, table))
        assert value is not None
        assert 0 < value <= 100
    value, _ = said(measured(tmp_path, {"host": "load"}))
    assert value is not None
    assert value >= 0
    with opened(tmp_path, {"host": "cpu_percent"}) as source:
        assert said(source.measure()) == (None, 1)
        while (cpu := source.measure().measured) is None:
            sum(range(100_000))
        assert 0 <= cpu <= 100
    assert "No such file" in measured(tmp_path, {"host": "disk_percent", "path": "not/there"}).error


# — log files —


def lines(path: Path, *words: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{word}\n" for word in words)


def test_only_new_lines_count_and_rotations_are_followed(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    lines(log, *["ERROR old"] * 100)
    with opened(tmp_path, {"log": "app.log", "pattern": "ERROR"}) as source:
        assert said(source.measure()) == (None, 0)
        lines(log, "ok", "ERROR", "ok", "ok")
        assert said(source.measure()) == (0.25, 4)
        assert said(source.measure()) == (None, 0)
        with log.open("a") as file:
            file.write("half of an ERR")
        assert said(source.measure()) == (None, 0)  # a line counts when it is whole
        lines(log, "OR", "ok")
        # By renaming: what was still written to the old one counts, too.
        log.rename(tmp_path / "app.log.1")
        lines(tmp_path / "app.log.1", "ERROR", "ok")
        assert said(source.measure()) == (0.5, 4)
        lines(tmp_path / "app.log.1", "ERROR")
        lines(log, "ok", "ok", "ok")
        assert said(source.measure()) == (0.25, 4)
        # By truncating.
        log.write_text("ERROR\n")
        assert said(source.measure()) == (1.0, 1)
        log.unlink()
        assert said(source.measure()) == (None, 0)
        lines(log, "ERROR", "ok")
        assert said(source.measure()) == (0.5, 2)


def test_the_lines_that_count_can_be_chosen(tmp_path: Path) -> None:
    table = {"log": "access.log", "pattern": r'" 5\d\d ', "lines": '" [1-5][0-9][0-9] '}
    with opened(tmp_path, table) as source:
        assert said(source.measure()) == (None, 0)
        lines(tmp_path / "access.log", "started", '"GET /" 200 5', '"GET /" 503 5', "stopped")
        assert said(source.measure()) == (0.5, 2)


def test_rates_are_per_second_or_minute_and_missing_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("rfs.production.rollback.sources.log.time.monotonic", lambda: now[0])
    log = tmp_path / "app.log"
    with (
        opened(tmp_path, {"log": "app.log", "pattern": "ERROR", "rate": "per_second"}) as second,
        opened(tmp_path, {"log": "app.log", "pattern": "ERROR", "rate": "per_minute"}) as minute,
    ):
        now[0] += 10
        assert said(second.measure()) == (None, 1) or said(second.measure())[0] is None
        minute.measure()
        lines(log, *["ERROR"] * 30, "ok")
        now[0] += 10
        assert said(second.measure()) == (3.0, 31)
        assert said(minute.measure()) == (180.0, 31)
        now[0] += 10
        assert said(second.measure()) == (0.0, 0)


def test_of_very_much_the_newest_part_stands_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfs.production.rollback.sources.log._MOST", 5000)
    now = [1000.0]
    monkeypatch.setattr("rfs.production.rollback.sources.log.time.monotonic", lambda: now[0])
    log = tmp_path / "app.log"
    log.touch()
    with opened(tmp_path, {"log": "app.log", "pattern": "ERROR", "rate": "per_second"}) as source:
        lines(log, *["ok   ", "ERROR"] * 5000)
        now[0] += 10
        value, weight = said(source.measure())
        assert value == pytest.approx(500, rel=0.02)
        assert 800 < weight < 850


def test_a_line_without_end_and_a_folder(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.touch()
    with opened(tmp_path, {"log": "app.log", "pattern": "ERROR"}) as source:
        with log.open("a") as file:
            file.write("ERROR" + "x" * 5_000_000)
        assert said(source.measure()) == (None, 0)
        lines(log, "", "ok")
        assert said(source.measure()) == (0.5, 2)
    assert re.search("directory", measured(tmp_path, {"log": ".", "pattern": "x"}).error)


# — the documentation —


def test_every_example_of_the_page_is_right_and_every_key_is_on_it() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()
    seen: dict[str, set[str]] = {kind: set() for kind in SPECS}
    for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL):
        (table,) = tomllib.loads(block)["conditions"]
        keys = {key: table[key] for key in table if key not in ("name", "trip", "min_samples", "action")}
        spec = parse_source(keys, settings.Source("docs/sources.md", ""), ("conditions", 0))
        (kind,) = (kind for kind in SPECS if isinstance(spec, SPECS[kind]))
        seen[kind] |= set(keys)
    for kind, keys in seen.items():
        for key in set(SPECS[kind].__struct_fields__) - keys:
            assert f"`{key} = " in page, f"{key} of {kind}"
