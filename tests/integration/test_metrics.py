"""`[metrics]`: what `rfs watch` says of itself and of the application, to whoever asks over HTTP."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from cli_app import App
from scraped import eventually, needs_prometheus, scraping
from waiting import until

SECRET = "hunter2-in-the-address"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def add(app: App, text: str) -> None:
    app.configure((app.folder / "rfs.toml").read_text() + text)


def get(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def figures(port: int) -> dict[str, float]:
    """Return every sample that is answered."""
    status, text = get(port)
    assert status == 200
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def watching(app: App, port: int) -> Iterator[subprocess.Popen[str]]:
    daemon = app.start("watch", "--json")
    try:
        until(lambda: listens(port))
        yield daemon
    finally:
        daemon.terminate()
        daemon.communicate(timeout=60)


@pytest.fixture
def port(notes_app: App) -> int:
    found = free_port()
    add(notes_app, f'\n[metrics]\nlisten = "127.0.0.1:{found}"\n')
    return found


def test_the_figures_are_those_of_the_store(notes_app: App, port: int) -> None:
    add(notes_app, f'[[notify]]\nname = "ops"\nwebhook = "http://rfs:{SECRET}@127.0.0.1:{free_port()}/"\n')
    notes_app.checkpoint()
    notes_app.json("rollback", "@latest", "--yes", "--reason", "x")
    notes_app.json("undo", "--yes")
    assert notes_app.rfs("rollback", "@latest", "--at", "in 2h", "--yes", "--reason", "x").code == 3
    with watching(notes_app, port) as daemon:
        found = figures(port)
        assert found["rfs_up"] == 1
        assert found['rfs_checkpoints{type="manual"}'] == 1
        assert found['rfs_checkpoints{type="safety"}'] >= 2
        assert found['rfs_rollbacks_total{kind="rollback",outcome="completed",strategy="immediate"}'] == 1
        assert found['rfs_rollbacks_total{kind="undo",outcome="completed",strategy="immediate"}'] == 1
        assert found["rfs_rollback_duration_seconds_count"] == 2
        assert found['rfs_rollback_duration_seconds_bucket{le="+Inf"}'] == 2
        assert found["rfs_rollback_outage_seconds_count"] == 2
        assert found["rfs_store_bytes"] > 1000
        assert 0 <= found["rfs_last_checkpoint_age_seconds"] < 3600
        assert found['rfs_outbox_messages{endpoint="ops",state="waiting"}'] == 2
        assert found['rfs_deferred_rollbacks{status="scheduled"}'] == 1
        assert found['rfs_operation_open{status="held"}'] == found["rfs_trial_open"] == 0
        assert found["rfs_watch_turn_timestamp_seconds"] > 1e9
        # What is done meanwhile counts, and what was counted is not counted twice.
        notes_app.json("redo", "--yes")
        after = figures(port)
        assert after['rfs_rollbacks_total{kind="redo",outcome="completed",strategy="immediate"}'] == 1
        assert after['rfs_rollbacks_total{kind="undo",outcome="completed",strategy="immediate"}'] == 1
        assert SECRET not in get(port)[1]
        assert get(port, "/")[0] == 404
        assert get(port, method="POST")[0] == 501
        # rfs.toml that is wrong: that is said, and the endpoint answers on.
        good = (notes_app.folder / "rfs.toml").read_text()
        notes_app.configure(good + "[[schedules]]\nevry = 1\n[nonsense]\n")
        assert figures(port)["rfs_up"] == 0
        # It moves, and ends, with rfs.toml.
        other = free_port()
        notes_app.configure(good.replace(f":{port}", f":{other}", 1))
        daemon.send_signal(signal.SIGHUP)
        until(lambda: listens(other))
        assert not listens(port)
    assert not listens(other)


CONDITION = """
[[conditions]]
name = "errors"
command = ["echo", "0.5"]
trip = "> 0.05"
action = "alert"
interval = "200ms"
"""


@pytest.mark.slow
def test_conditions_and_what_is_on_trial(notes_app: App, port: int) -> None:
    add(notes_app, CONDITION)
    with watching(notes_app, port):
        until(lambda: figures(port).get('rfs_condition_value{name="errors"}') == 0.5)
        until(lambda: figures(port)['rfs_condition_state{name="errors",state="tripped"}'] == 1)
    notes_app.configure((notes_app.folder / "rfs.toml").read_text().replace(CONDITION, ""))
    guard = notes_app.start("guard", "--confirm-by", "person", "--bake", "10m", "--", "true")
    try:
        until(lambda: "baking until" in notes_app.rfs("status").out)
        with watching(notes_app, port):
            found = figures(port)
        assert found["rfs_trial_open"] == 1
        assert found["rfs_trial_deadline_timestamp_seconds"] > found["rfs_watch_turn_timestamp_seconds"]
    finally:
        guard.terminate()
        guard.communicate(timeout=60)


@pytest.mark.slow
@needs_prometheus
def test_a_real_prometheus_reads_them(notes_app: App, port: int, tmp_path: Path) -> None:
    notes_app.checkpoint()
    notes_app.json("rollback", "@latest", "--yes", "--reason", "x")
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with watching(notes_app, port), scraping(folder, f"127.0.0.1:{port}") as prometheus:
        for query in (
            "rfs_up",
            'sum(rfs_rollbacks_total{outcome="completed"})',
            "histogram_quantile(0.5, rfs_rollback_duration_seconds_bucket) > bool 0",
        ):
            eventually(partial(asked, prometheus.url, query), lambda value: value == 1.0)


def asked(url: str, query: str) -> float | None:
    address = f"{url}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(address, timeout=30) as answer:
        found = json.load(answer)["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def test_nobody_can_listen_there_is_said_once_and_the_rest_is_done(notes_app: App) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        add(notes_app, f'\n[metrics]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n[[schedules]]\nevery = "6h"\n')
        daemon = notes_app.start("watch", "--json")
        try:
            assert daemon.stdout is not None
            told = [json.loads(daemon.stdout.readline()) for _ in range(3)]
        finally:
            daemon.terminate()
            daemon.communicate(timeout=60)
    assert [each["what"] for each in told] == ["started", "error", "checkpoint"]
    assert re.search(r"Nobody can listen on 127.0.0.1:\d+: address already in use", told[1]["text"], re.I)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('listen = "9911"', "HOST:PORT"),
        ('listen = "127.0.0.1:99999"', "HOST:PORT"),
        ('listn = "127.0.0.1:9911"', "listen"),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_name(notes_app: App, table: str, said: str) -> None:
    add(notes_app, f"\n[metrics]\n{table}\n")
    assert said in notes_app.rfs("doctor").out
    done = notes_app.rfs("watch")
    assert done.code == 2
    assert "metrics" in done.err
    assert said in done.err
