"""`[[notify]]`: what happens is told, at least once, whatever the endpoint does, and never in the way of a rollback."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cli_app import App
from waiting import until

from rfs.production.rollback import RollbackManager
from rfs.production.rollback.application import Application
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.notifications import pause

TOKEN = "T0KEN-in-the-path"
PASSWORD = "hunter2-in-the-address"
SECRET = "the-shared-secret"


class Endpoint:
    """A real HTTP server that does as it is told: answers, answers badly, or hangs."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.go_on = threading.Event()
        self.go_on.set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                endpoint.go_on.wait(30)
                try:
                    self.send_response(endpoint.status)
                    self.end_headers()
                except OSError:
                    pass  # who was kept waiting is gone

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    @property
    def url(self) -> str:
        return f"http://rfs:{PASSWORD}@127.0.0.1:{self.port}/{TOKEN}"

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()
    yield found
    found.close()


@pytest.fixture
def told(notes_app: App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> App:
    """An application that tells an endpoint what it does."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    notify(notes_app, f'webhook = "{endpoint.url}"\nname = "ops"\nsecret = "env:HOOK_SECRET"\ntimeout = "300ms"')
    return notes_app


def notify(app: App, table: str) -> None:
    app.configure((app.folder / "rfs.toml").read_text() + f"\n[[notify]]\n{table}\n")


def rolled_back(app: App) -> str:
    app.checkpoint()
    done: str = app.json("rollback", "@latest", "--yes", "--reason", "orders fail")["rollback_id"]
    return done


def letters(app: App) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = app.json("notify", "list")["letters"]
    return found


def due_now(app: App, *, since: timedelta = timedelta()) -> None:
    """Let what waits be due, and have waited for so long."""
    at = utc_now().isoformat()
    with Application.open(str(app.folder / "rfs.toml")) as opened:
        change = "UPDATE deliveries SET due = ?, since = ?"
        opened.catalog._change(lambda db: db.execute(change, (at, (utc_now() - since).isoformat())) and None)


def test_a_rollback_is_told_at_its_end_signed_and_once(told: App, endpoint: Endpoint) -> None:
    rollback_id = rolled_back(told)
    (message,) = endpoint.messages
    assert message["schema"] == "rfs.notification/1"
    assert (message["event"], message["status"], message["subject"]) == ("rollback", "completed", rollback_id)
    assert (message["app"], message["facts"]["reason"]) == ("notes", "orders fail")
    headers, body = endpoint.got[0]
    signed = f"{headers['x-rfs-timestamp']}.".encode() + body
    assert headers["x-rfs-signature-256"] == "sha256=" + hmac.new(SECRET.encode(), signed, "sha256").hexdigest()
    assert (headers["x-rfs-id"], headers["content-type"]) == (message["id"], "application/json")
    assert told.rfs("status").code == 0
    assert told.rfs("recover").code == 0
    assert len(endpoint.got) == 1
    (listed,) = told.json("notify", "list")["endpoints"]
    assert (listed["name"], listed["sent"], listed["waiting"]) == ("ops", 1, 0)


def test_who_may_approve_is_told_of_what_waits_for_that_and_of_what_came_of_it(told: App, endpoint: Endpoint) -> None:
    rules = '[policy]\napproval_required = true\n[approvals]\nrequired = 1\napprovers = ["kim", "lee"]\n'
    text = (told.folder / "rfs.toml").read_text()
    told.configure(text.replace("[[notify]]", f"{rules}\n[[notify]]"))
    told.checkpoint()
    assert told.rfs("rollback", "@latest", "--yes", "--reason", "orders fail").code == 13

    class Lee(RollbackManager):
        def identity(self) -> str:
            return "lee"

    (asked,) = endpoint.messages
    assert (asked["event"], asked["status"], asked["title"]) == ("approval", "asked for", "notes: Approval asked for")
    assert "reason: orders fail" in asked["text"]
    assert "approvals: 0 of 1, from kim, lee" in asked["text"]
    assert f"rfs approve {asked['subject']}" in asked["text"]
    assert asyncio.run(Lee().reject(asked["subject"], "not now")).is_success()
    assert told.rfs("recover").code == 0
    refused = endpoint.messages[-1]
    assert (refused["subject"], refused["status"]) == (asked["subject"], "refused")
    assert "rejected by: lee\nwhy: not now" in refused["text"]
    assert len(endpoint.messages) == 2


@pytest.mark.slow
def test_what_happened_before_somebody_wanted_to_know_is_not_told(notes_app: App, endpoint: Endpoint) -> None:
    rolled_back(notes_app)
    notify(notes_app, f'webhook = "{endpoint.url}"\non = ["rollback", "checkpoint", "deployment"]')
    notes_app.checkpoint()
    assert [each["event"] for each in endpoint.messages] == ["checkpoint"]
    assert notes_app.rfs("guard", "--version", "v2", "--", "true").code == 0
    assert [each["event"] for each in endpoint.messages[1:]] == ["checkpoint", "deployment"]
    assert endpoint.messages[-1]["status"] == "kept"


@pytest.mark.parametrize("how", ["refuses", "hangs", "answers 500"])
def test_an_endpoint_that_fails_fails_nothing_and_is_told_when_it_is_back(
    told: App, endpoint: Endpoint, how: str
) -> None:
    if how == "hangs":
        endpoint.go_on.clear()
    elif how == "answers 500":
        endpoint.status = 500
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            told.configure(
                (told.folder / "rfs.toml").read_text().replace(f":{endpoint.port}/", f":{free.getsockname()[1]}/")
            )
    rolled_back(told)
    (letter,) = letters(told)
    assert {"hangs": "within", "answers 500": "answered 500", "refuses": "refused"}[how] in letter["error"]
    assert letter["attempts"] == 1
    seen = len(endpoint.got)
    told.rfs("recover")
    assert len(endpoint.got) == seen, "it is not due yet"
    endpoint.go_on.set()
    endpoint.status = 204
    if how == "refuses":
        text = (told.folder / "rfs.toml").read_text()
        head, _, rest = text.partition("@127.0.0.1:")
        told.configure(f"{head}@127.0.0.1:{endpoint.port}/{rest.partition('/')[2]}")
    due_now(told)
    assert told.rfs("watch", "--once").code == 0
    assert letters(told) == []
    assert len({each["id"] for each in endpoint.messages}) == 1, "whoever is told twice knows it by the id"


def test_what_cannot_be_told_for_long_is_a_dead_letter_and_may_be_tried_again(told: App, endpoint: Endpoint) -> None:
    endpoint.status = 500
    rolled_back(told)
    due_now(told, since=timedelta(days=3))
    assert told.rfs("watch", "--once").code == 0
    (letter,) = letters(told)
    assert letter["dead"]
    assert letter["due"] is None
    seen = len(endpoint.got)
    assert told.rfs("watch", "--once").code == 0
    assert len(endpoint.got) == seen
    assert told.rfs("notify", "retry", str(letter["number"])).code == 1
    endpoint.status = 200
    assert told.json("notify", "retry") == {"sent": 1}
    assert letters(told) == []
    assert told.rfs("notify", "retry", "9999").code == 10


@pytest.mark.slow
def test_the_daemon_sends_while_it_does_its_work_and_an_endpoint_that_hangs_does_not_keep_it(
    told: App, endpoint: Endpoint
) -> None:
    endpoint.go_on.clear()
    told.configure((told.folder / "rfs.toml").read_text().replace('"300ms"', '"30s"') + '[[schedules]]\nevery = "6h"\n')
    rolled_back_with_nobody_listening(told)
    daemon = told.start("watch", "--json")
    try:
        until(lambda: len(endpoint.got) == 1)
        # It waits for the endpoint, and takes the checkpoint all the same.
        until(lambda: told.json("checkpoint", "list")[0]["type"] == "scheduled")
        endpoint.go_on.set()
        until(lambda: letters(told) == [])
        before = len(endpoint.got)
        told.json("rollback", "@latest", "--yes", "--reason", "again")
        daemon.send_signal(signal.SIGHUP)
        until(lambda: len(endpoint.got) > before)
    finally:
        daemon.terminate()
        daemon.communicate(timeout=30)
    assert len(endpoint.got) == len({message["id"] for message in endpoint.messages}), "each of them once"


def rolled_back_with_nobody_listening(app: App) -> None:
    with Application.open(str(app.folder / "rfs.toml")) as opened:
        opened.checkpoint()
        opened.rollback("@latest", reason="from a program")


@pytest.mark.slow
def test_what_a_program_does_is_told_by_the_next_who_can(told: App, endpoint: Endpoint) -> None:
    rolled_back_with_nobody_listening(told)
    assert endpoint.got == []
    assert told.rfs("watch", "--once").code == 0
    assert [each["event"] for each in endpoint.messages] == ["rollback"]


@pytest.mark.slow
def test_a_held_operation_and_what_fails_in_the_daemon_are_told(told: App, endpoint: Endpoint) -> None:
    told.checkpoint()
    (told.folder / "refuse-start").touch()
    assert told.rfs("rollback", "@latest", "--yes", "--reason", "x").code == 31
    assert [each["event"] for each in endpoint.messages] == ["held"]
    assert "HELD" in endpoint.messages[0]["title"]
    told.configure((told.folder / "rfs.toml").read_text() + '[[schedules]]\nevery = "6h"\n')
    told.rfs("watch", "--once")
    assert endpoint.messages[-1]["event"] == "alert"


def test_no_secret_is_in_what_is_listed_or_said(told: App, endpoint: Endpoint) -> None:
    endpoint.status = 500
    rolled_back(told)
    said = ""
    for words in (
        ["notify", "list"],
        ["notify", "list", "--json"],
        ["notify", "test"],
        ["notify", "retry"],
        ["doctor"],
    ):
        ran = told.rfs(*words)
        said += ran.out + ran.err
    assert "answered 500" in said
    assert "http://127.0.0.1" in said
    stored = b"".join(path.read_bytes() for path in (told.folder / ".rfs").glob("catalog.db*"))
    for secret in (TOKEN, PASSWORD, SECRET):
        assert secret not in said
        assert secret.encode() not in stored


def test_a_test_message(told: App, endpoint: Endpoint) -> None:
    assert told.json("notify", "test", "ops") == {"sent": ["ops"]}
    assert endpoint.messages[0]["event"] == "test"
    endpoint.status = 403
    failed = told.rfs("notify", "test")
    assert failed.code == 1
    assert "ops: it answered 403" in failed.err
    assert told.rfs("notify", "test", "nobody").code == 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # one of Apprise's plug-ins has it
def test_what_apprise_knows_is_told_by_it(notes_app: App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT", f"json://127.0.0.1:{endpoint.port}/{TOKEN}")
    notify(notes_app, 'url = "env:CHAT"')
    rolled_back(notes_app)
    (message,) = endpoint.messages
    assert message["title"] == "notes: Rollback completed"
    assert "reason: orders fail" in message["message"]
    endpoint.status = 500
    ran = notes_app.rfs("notify", "test")
    assert ran.code == 1
    assert TOKEN not in ran.err
    monkeypatch.setenv("CHAT", "no-such-thing://x")
    assert "does not know" in notes_app.rfs("notify", "test").err
    monkeypatch.delenv("CHAT")
    assert "CHAT" in notes_app.rfs("notify", "test").err


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "exactly one of url and webhook"),
        ('url = "json://x"\nwebhook = "http://x"', "exactly one of url and webhook"),
        ('url = "json://x"\nsecret = "env:X"', "secret belongs to a webhook"),
        ('webhook = "http://x"\non = []', "at least one of"),
        ('webhook = "http://x"\non = ["rolback"]', "rolback"),
        ('webhook = "http://x"\ntimeout = "0s"', "longer than nothing"),
        ('webhok = "http://x"', "webhook"),
        ('webhook = "http://x"\n[[notify]]\nwebhook = "http://x"', "there twice"),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_name(notes_app: App, table: str, said: str) -> None:
    notify(notes_app, table)
    done = notes_app.rfs("notify", "list")
    assert done.code == 2
    assert "notify" in done.err
    assert said in done.err


def test_pauses_grow_and_end() -> None:
    pauses = [pause(attempts) for attempts in range(1, 40)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (10.0, 3600.0)


def test_killed_between_the_answer_and_its_record_it_sends_the_same_message_again(
    told: App, endpoint: Endpoint
) -> None:
    rolled_back_with_nobody_listening(told)
    child = os.fork()
    if not child:
        try:
            Catalog.delivered = lambda *_: os._exit(9)  # type: ignore[method-assign]  # in the forked child alone
            told.rfs("watch", "--once")
        finally:
            os._exit(1)  # the tests must not go on in a second process
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(endpoint.got) == 1
    assert told.rfs("watch", "--once").code == 0
    assert len(endpoint.got) == 2
    assert len({message["id"] for message in endpoint.messages}) == 1


def test_a_rebuilt_catalog_tells_nothing_again(told: App, endpoint: Endpoint) -> None:
    rolled_back(told)
    assert len(endpoint.got) == 1
    assert told.rfs("recover", "--rebuild").code == 0
    assert told.rfs("watch", "--once").code == 0
    assert len(endpoint.got) == 1


@pytest.mark.slow
def test_of_an_endpoint_that_fails_no_more_is_asked_in_a_turn(told: App, endpoint: Endpoint) -> None:
    rolled_back_with_nobody_listening(told)
    rolled_back_with_nobody_listening(told)
    endpoint.status = 500
    assert told.rfs("watch", "--once").code == 0
    assert len(endpoint.got) == 1
    assert [letter["attempts"] for letter in letters(told)] == [1, 0]


def test_a_scheduled_rollback_that_is_not_made_is_told(told: App, endpoint: Endpoint) -> None:
    told.checkpoint()
    words = ("--at", "in 2h", "--yes", "--reason", "at night", "--json")
    rollback_id = told.rfs("rollback", "@latest", *words).data["rollback_id"]
    assert endpoint.got == []
    told.json("cancel", rollback_id, "--reason", "not needed")
    (message,) = endpoint.messages
    assert (message["event"], message["subject"]) == ("refused", rollback_id)
    assert "not needed" in message["text"]
