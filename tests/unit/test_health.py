from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import InterruptedByUserError, TimedOutError, UsageError
from rfs.production.rollback.health import Check, parse_checks, run_checks


class Pulse:
    """A pulse whose time is up after `seconds`."""

    def __init__(self, seconds=60.0):
        self.end = time.monotonic() + seconds

    def tick(self, items=0, size=0):
        if time.monotonic() > self.end:
            raise TimedOutError("timeout", seconds=1)

    def remaining(self):
        return max(0.0, self.end - time.monotonic())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        script = self.server.script
        status, body = script.pop(0) if len(script) > 1 else script[0]
        time.sleep(self.server.delay)
        self.send_response(status)
        if status // 100 == 3:
            self.send_header("Location", "/elsewhere")
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for byte in body:
                self.wfile.write(b"1\r\n%c\r\n" % byte)
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def web(*script, delay=0.0, chunked=False, context=None):
    """An HTTP server that gives these answers in turn, the last one for ever."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    server.script, server.delay, server.chunked, server.seen = list(script) or [(200, b"well")], delay, chunked, []
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def talker(say):
    """A server on a bare socket: `say(connection, over)` is called for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    threads = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if over.is_set():
                connection.close()
                return
            threads.append(threading.Thread(target=talk, args=(connection,)))
            threads[-1].start()

    def talk(connection):
        with connection, suppress(OSError):
            say(connection, over)

    main = threading.Thread(target=serve)
    main.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        socket.create_connection(listener.getsockname()).close()
        main.join()
        listener.close()
        for thread in threads:
            thread.join()


def run_one(pulse=None, home=".", once=False, **keys):
    keys = {"name": "it", "retries": 0, "interval": "10ms", **keys}
    (outcome,) = run_checks([Check(**keys)], pulse or Pulse(), home=home, once=once).checks
    return outcome


def refused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# — HTTP —


@pytest.mark.parametrize(
    ("answer", "keys", "healthy"),
    [
        ((200, b""), {}, True),
        ((302, b""), {}, True),
        ((404, b""), {}, False),
        ((500, b""), {}, False),
        ((404, b""), {"status": 404}, True),
        ((200, b""), {"status": [201, "300-399"]}, False),
        ((201, b""), {"status": ("201", "300-399")}, True),
        ((200, b'{"state": "ready"}'), {"body": '"ready"'}, True),
        ((200, b'{"state": "starting"}'), {"body": '"ready"'}, False),
        ((200, b"version 12\n"), {"body_regex": r"version \d+$"}, True),
        ((200, b"version ?\n"), {"body_regex": r"version \d+$"}, False),
        ((200, b"\xff\xfewell"), {"body": "well"}, True),
    ],
)
def test_http_status_and_body(answer, keys, healthy):
    with web(answer) as server:
        outcome = run_one(http=server.url, **keys)
    assert outcome.healthy is healthy, outcome.detail
    assert str(answer[0]) in outcome.detail


def test_http_reads_chunks():
    with web((200, b"all is well"), chunked=True) as server:
        assert run_one(http=server.url, body="all is well").healthy


def test_http_latency():
    with web(delay=0.15) as server:
        assert not run_one(http=server.url, max_latency="50ms").healthy
        assert run_one(http=server.url, max_latency="5s").healthy


def test_redirects_are_not_followed():
    with web((302, b"")) as server:
        run_one(http=server.url + "/here")
        assert [path for path, _ in server.seen] == ["/here"]


def test_headers_and_credentials_are_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("RFS_TEST_TOKEN", "t0ps3cret")
    with web((500, b"t0ps3cret")) as server:
        url = server.url.replace("http://", "http://kim:hunter2@") + "/health?token=qu3ry"
        outcome = run_one(http=url, headers={"X-Token": "env:RFS_TEST_TOKEN"})
        ((path, headers),) = server.seen
    assert path == "/health?token=qu3ry"
    assert headers["Authorization"] == "Basic a2ltOmh1bnRlcjI="
    assert headers["X-Token"] == "t0ps3cret"
    for secret in ("kim", "hunter2", "t0ps3cret", "qu3ry"):
        assert secret not in outcome.detail


def test_a_secret_that_cannot_be_had_fails_the_check():
    outcome = run_one(http="env:RFS_TEST_NOT_SET")
    assert not outcome.healthy
    assert "RFS_TEST_NOT_SET" in outcome.detail


def test_a_url_may_be_a_secret(monkeypatch):
    with web() as server:
        monkeypatch.setenv("RFS_TEST_URL", server.url)
        assert run_one(http="env:RFS_TEST_URL").healthy


def test_nobody_there():
    outcome = run_one(http=f"http://127.0.0.1:{refused_port()}/")
    assert not outcome.healthy
    assert "connection refused" in outcome.detail


def test_a_name_that_does_not_resolve():
    outcome = run_one(http="http://no-such-host.invalid/", timeout=10)
    assert not outcome.healthy
    assert "no-such-host.invalid" in outcome.detail


def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20) and [])
    try:
        outcome = run_one(http="http://slow.example/", timeout="200ms")
    finally:
        over.set()
    assert not outcome.healthy
    assert outcome.seconds < 2


def say_nothing(connection, over):
    over.wait(20)


def drip_headers(connection, over):
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not over.wait(0.02):
        connection.sendall(b"x")


def drip_body(connection, over):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not over.wait(0.02):
        connection.sendall(b"x")


@pytest.mark.parametrize("say", [say_nothing, drip_headers, drip_body])
def test_a_server_that_does_not_finish_is_cut_at_the_timeout(say):
    with talker(say) as url:
        began = time.monotonic()
        outcome = run_one(http=url, timeout="300ms")
        seconds = time.monotonic() - began
    assert not outcome.healthy
    assert "no whole answer within 0.3 s" in outcome.detail
    assert 0.25 < seconds < 2


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
def test_what_is_no_http_answer_fails(answer):
    def say(connection, over):
        connection.recv(65536)
        connection.sendall(answer)

    with talker(say) as url:
        outcome = run_one(http=url)
    assert not outcome.healthy
    assert "OpenSSH" not in outcome.detail


def test_an_endless_body_is_read_to_its_limit_only():
    def say(connection, over):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nwell")
        while not over.is_set():
            connection.sendall(b"x" * 65536)

    with talker(say) as url:
        assert run_one(http=url, body="well").healthy


def test_tls_certificates_are_verified_unless_told_otherwise(tmp_path):
    with web(context=self_signed(tmp_path)) as server:
        outcome = run_one(http=server.url)
        assert not outcome.healthy
        assert "certificate" in outcome.detail.lower()
        assert run_one(http=server.url, tls_verify=False).healthy


def self_signed(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(1))
        .not_valid_after(now + timedelta(1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "it.pem").write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "it.pem")
    return context


# — TCP and commands —


def test_tcp():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert run_one(tcp=f"127.0.0.1:{listener.getsockname()[1]}").healthy
    outcome = run_one(tcp=f"127.0.0.1:{refused_port()}")
    assert not outcome.healthy
    assert "refused" in outcome.detail


def test_a_command_runs_without_a_shell_in_the_application_s_folder(tmp_path):
    (tmp_path / "check").write_text('#!/bin/sh\necho "$1" > said\necho fine\n')
    (tmp_path / "check").chmod(0o755)
    outcome = run_one(command=("./check", "a b; $HOME"), home=str(tmp_path))
    assert outcome.healthy
    assert outcome.detail.endswith("fine")
    assert (tmp_path / "said").read_text() == "a b; $HOME\n"


def test_a_command_that_fails_says_why_without_secrets():
    outcome = run_one(command=("sh", "-c", "echo connecting; echo no: postgres://kim:hunter2@db/shop; exit 3"))
    assert not outcome.healthy
    assert "status 3" in outcome.detail
    assert "no: postgres://***@db/shop" in outcome.detail


def test_a_command_that_is_not_there_fails():
    outcome = run_one(command=("/no/such/program",))
    assert not outcome.healthy
    assert "/no/such/program" in outcome.detail


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    note = tmp_path / "pids"
    text = f"sleep 1000 & echo $! $$ > {note}; trap '' TERM; sleep 1000"
    began = time.monotonic()
    outcome = run_one(command=("sh", "-c", text), timeout="300ms")
    assert not outcome.healthy
    assert time.monotonic() - began < 3
    for pid in map(int, note.read_text().split()):
        assert not alive(pid)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# — tries —


def test_it_is_tried_until_it_is_well():
    with web((500, b""), (500, b""), (200, b"")) as server:
        outcome = run_one(http=server.url, retries=5)
    assert outcome.healthy
    assert outcome.attempts == 3


def test_by_default_a_service_has_half_a_minute_to_start():
    check = Check(name="it", tcp="localhost:1")
    assert check.retries * parse_duration(check.interval) >= 30


def test_it_fails_when_its_retries_are_used_up():
    with web((500, b"")) as server:
        outcome = run_one(http=server.url, retries=2)
    assert not outcome.healthy
    assert outcome.attempts == 3


def test_successes_count_only_in_a_row():
    good, bad = (200, b""), (500, b"")
    with web(good, good, bad, good, good, good) as server:
        outcome = run_one(http=server.url, retries=1, success_threshold=3)
    assert outcome.healthy
    assert outcome.attempts == 6


def test_once_is_one_try_without_delay():
    with web((500, b""), (200, b"")) as server:
        outcome = run_one(http=server.url, retries=9, initial_delay=30, once=True)
    assert not outcome.healthy
    assert outcome.attempts == 1
    assert outcome.seconds < 5


def test_delay_and_interval_are_waited():
    with web((500, b""), (200, b"")) as server:
        outcome = run_one(http=server.url, retries=1, initial_delay="100ms", interval="150ms")
    assert outcome.healthy
    assert outcome.seconds >= 0.25


def test_when_time_is_up_what_is_left_fails_at_once():
    with talker(say_nothing) as url:
        checks = [Check(name="hangs", http=url, timeout=20), Check(name="next", http=url, timeout=20)]
        began = time.monotonic()
        report = run_checks(checks, Pulse(0.4))
        assert time.monotonic() - began < 3
    assert not report
    assert [(check.name, check.healthy, check.attempts) for check in report.checks] == [
        ("hangs", False, 1),
        ("next", False, 0),
    ]
    assert "no time left" in report.checks[1].detail


def test_a_user_who_says_stop_is_obeyed():
    class Stopped(Pulse):
        def tick(self, items=0, size=0):
            raise InterruptedByUserError("interrupted")

    with pytest.raises(InterruptedByUserError):
        run_one(Stopped(), tcp="127.0.0.1:1")


def test_an_interrupted_command_is_ended(tmp_path):
    note = tmp_path / "pid"

    class Stopped(Pulse):
        def tick(self, items=0, size=0):
            if note.exists() and note.read_text().strip():
                raise InterruptedByUserError("interrupted")

    with pytest.raises(InterruptedByUserError):
        run_one(Stopped(), command=("sh", "-c", f"echo $$ > {note}; exec sleep 1000"), timeout=30)
    assert not alive(int(note.read_text()))


def test_only_required_checks_gate():
    dead = f"127.0.0.1:{refused_port()}"
    wanted = Check(name="wanted", tcp=dead, required=False, retries=0)
    assert run_checks([wanted], Pulse())
    assert not run_checks([wanted, Check(name="required", tcp=dead, retries=0)], Pulse())


# — settings —


def parse(*tables):
    return parse_checks(tables, "/srv/shop/rfs.toml")


def test_a_table_becomes_a_check():
    (check,) = parse(
        {"name": "http", "http": "http://127.0.0.1:8000/health", "status": [200, "300-399"], "timeout": "2s"}
    )
    assert check.required
    assert check.status == (200, "300-399")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"http": "http://a/"}, "name"),
        ({"name": "x"}, "exactly one"),
        ({"name": "x", "http": "http://a/", "tcp": "a:1"}, "exactly one"),
        ({"name": "x", "http": "ftp://a/"}, "not a URL"),
        ({"name": "x", "http": "unix:///run/x.sock"}, "http://"),
        ({"name": "x", "http": "http://a:port/"}, "not a URL"),
        ({"name": "x", "http": "http://a/", "status": 99}, "status"),
        ({"name": "x", "http": "http://a/", "status": []}, "status"),
        ({"name": "x", "http": "http://a/", "body_regex": "("}, "regular expression"),
        ({"name": "x", "http": "http://a/", "timeout": "soon"}, "duration"),
        ({"name": "x", "http": "http://a/", "timeout": 0}, "timeout"),
        ({"name": "x", "http": "http://a/", "retries": -1}, "retries"),
        ({"name": "x", "http": "http://a/", "success_threshold": 0}, "success_threshold"),
        ({"name": "x", "tcp": "8000"}, "host:port"),
        ({"name": "x", "tcp": "a:99999"}, "host:port"),
        ({"name": "x", "tcp": "a:80", "status": 200}, "status belongs to an http check"),
        ({"name": "x", "tcp": "a:80", "headers": {"a": "b"}}, "headers belongs to an http check"),
        ({"name": "x", "command": []}, "command"),
        ({"name": "x", "command": "curl a"}, "list"),
        ({"name": "x", "http": "http://a/", "retires": 3}, "retires"),
    ],
)
def test_a_table_that_is_wrong_is_refused(table, said):
    with pytest.raises(UsageError) as raised:
        parse(table)
    assert said in str(raised.value)
    assert "health[1]" in str(raised.value)


def test_a_misspelt_key_is_suggested():
    with pytest.raises(UsageError) as raised:
        parse({"name": "x", "http": "http://a/", "retires": 3})
    assert "retries" in raised.value.hint


def test_two_of_one_name_are_refused():
    with pytest.raises(UsageError, match="another check"):
        parse({"name": "x", "tcp": "a:1"}, {"name": "x", "tcp": "a:2"})


def test_complaints_hold_no_credentials():
    for url in (
        "http://kim:hunter2@",
        "http://kim:hun/ter2@a:b/",
        "ftp://kim:hunter2@a/",
        "http://kim:hunter2@a:99999999/",
    ):
        with pytest.raises(UsageError) as raised:
            parse({"name": "x", "http": url})
        assert not re.search("hun|ter2|kim", str(raised.value))
