"""What the conformance suite cannot know of Redis: writers, expiry, saving, servers that are not right."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from redis_server import RedisServer
from rfs.plugin import Capture, ChangeKind, Component, IntegrityError, RollbackError, UsageError
from rfs.testing import MemoryStore, component, interrupt_at, load_capture
from rfs_redis import RedisDriver, RedisOptions, reading
from rfs_redis.keys import label_of, shown_name
from rfs_redis.options import parse_url
from rfs_redis.server import connected

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def running() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    running.do(("CLIENT", "UNPAUSE"), ("FLUSHALL",), ("CONFIG", "SET", "maxmemory", 0))
    return running


def part(server: RedisServer, tmp: Path, **options: Any) -> Component:
    return component("redis", tmp, name="cache", url=f"unix://{server.socket}", **options)


def restored(c: Component, store: MemoryStore, want: Capture) -> int:
    driver = RedisDriver()
    changed = driver.restore(c, store, want).changed
    assert driver.verify(c, store, want) == []
    return changed


# — what a value is —


def test_the_identity_goes_by_meaning_not_by_how_the_server_stores_it(server: RedisServer, tmp_path: Path) -> None:
    c, seen, dumps = part(server, tmp_path), set(), set()
    names = [f"member {n}" for n in range(2500)]  # three chunks, each
    for order in (names, names[::-1], names[1000:] + names[:1000]):
        server.do(
            ("FLUSHALL",),
            ("SADD", "set", *order),
            ("HSET", "hash", *(word for name in order for word in (name, name[::-1]))),
            ("ZADD", "ranks", *(word for name in order for word in (len(name), name))),
            ("RPUSH", "list", *names),
        )
        dumps.add(server.do(("DUMP", "set"))[0])
        seen.add(RedisDriver().fingerprint(c, rehash=True).digest)
    assert len(seen) == 1
    assert len(dumps) > 1  # else this test shows nothing: the server's own order differs


def test_a_value_that_was_stored_is_not_stored_again_in_another_order(server: RedisServer, tmp_path: Path) -> None:
    names = [f"member {n}" for n in range(500)]
    c, store, driver = part(server, tmp_path), MemoryStore(), RedisDriver()
    server.do(("SADD", "set", *names))
    first, dump = driver.capture(c, store, None), server.do(("DUMP", "set"))
    blobs = len(store.blobs)
    server.do(("DEL", "set"), ("SADD", "set", *names[::-1]))
    assert server.do(("DUMP", "set")) != dump
    assert driver.capture(c, store, first).fingerprint == first.fingerprint
    assert len(store.blobs) == blobs
    other = MemoryStore()  # what another store has is of no use
    want = driver.capture(c, other, None)
    server.do(("FLUSHALL",))
    assert restored(c, other, want) == 1


def test_a_type_that_cannot_be_compared_is_refused(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(reading._LOOKS, "list")  # as a type that a module brings is not among them
    server.do(("RPUSH", "graph", 1), ("SET", "text", 1))
    with pytest.raises(RollbackError, match=r"The key graph .* is of the type list, which a module brings"):
        RedisDriver().capture(part(server, tmp_path), MemoryStore(), None)
    assert RedisDriver().capture(part(server, tmp_path, exclude=["graph"]), MemoryStore(), None).entries == 1


def test_a_value_that_redis_would_not_take_back_is_refused(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGEST", 100_000)
    server.do(("SET", "small", 1), ("SET", "large", os.urandom(200_000)))
    with pytest.raises(RollbackError, match="The key large"):
        RedisDriver().capture(part(server, tmp_path), MemoryStore(), None)
    assert RedisDriver().capture(part(server, tmp_path, exclude=["large"]), MemoryStore(), None).entries == 1


def test_a_prefix_is_text_and_not_a_pattern(server: RedisServer, tmp_path: Path) -> None:
    c, store = part(server, tmp_path, prefix="a*[b]\\", exclude=["*:cache:?"]), MemoryStore()
    server.do(("MSET", "a*[b]\\1", 1, "a*[b]\\:cache:1", 1, "axb\\1", 1, "a*[b]", 1))
    want = RedisDriver().capture(c, store, None)
    assert want.entries == 1
    server.do(("MSET", "a*[b]\\1", 2, "a*[b]\\:cache:1", 2, "axb\\1", 2, "a*[b]", 2))
    assert restored(c, store, want) == 1
    assert server.do(("MGET", "a*[b]\\1", "a*[b]\\:cache:1", "axb\\1", "a*[b]")) == [[b"1", b"2", b"2", b"2"]]


@pytest.mark.parametrize(
    "change",
    [
        ("LSET", "list", 1050, "another"),
        ("HSET", "hash", "member 1040", "another"),
        ("SMOVE", "set", "elsewhere", "member 7"),
        ("ZINCRBY", "ranks", "0.0000001", "member 1020"),
        ("SETRANGE", "text", 700_000, "another"),
        ("PEXPIREAT", "text", 32_503_680_000_000),
        ("XGROUP", "CREATE", "events", "group", "0"),
        ("XDEL", "events", "7-1"),
        ("RENAME", "text", "text2"),
    ],
)
def test_any_change_is_seen_and_undone(change: tuple[Any, ...], server: RedisServer, tmp_path: Path) -> None:
    names = [f"member {n}" for n in range(1100)]
    server.do(
        ("SADD", "set", *names),
        ("HSET", "hash", *(word for name in names for word in (name, name))),
        ("ZADD", "ranks", *(word for rank, name in enumerate(names) for word in (rank, name))),
        ("RPUSH", "list", *names),
        ("SET", "text", "x" * 800_000),
        ("XADD", "events", "7-1", "field", "value"),
        ("XADD", "events", "8-1", "field", "value"),
    )
    c, store, driver = part(server, tmp_path), MemoryStore(), RedisDriver()
    want = driver.capture(c, store, None)
    server.do(change)
    assert driver.verify(c, store, want)
    assert 0 < restored(c, store, want) <= 2
    assert driver.fingerprint(c, rehash=True) == want.fingerprint


def test_fields_that_expire_are_part_of_a_hash(server: RedisServer, tmp_path: Path) -> None:
    if server.do(("COMMAND", "INFO", "HPEXPIRETIME"))[0] == [None]:
        pytest.skip("this server knows no fields that expire: Redis 7.4 and Valkey 9 do")
    server.do(("HSET", "hash", "a", 1, "b", 2), ("HPEXPIREAT", "hash", 4_102_444_800_000, "FIELDS", 1, "a"))
    c, store, driver = part(server, tmp_path), MemoryStore(), RedisDriver()
    want = driver.capture(c, store, None)
    server.do(("HPERSIST", "hash", "FIELDS", 1, "a"))
    assert [change.key for change in driver.verify(c, store, want)] == ["hash"]
    restored(c, store, want)
    assert server.do(("HPEXPIRETIME", "hash", "FIELDS", 2, "a", "b")) == [[4_102_444_800_000, -1]]


def test_what_expired_meanwhile_stays_away_and_what_did_not_keeps_its_time(server: RedisServer, tmp_path: Path) -> None:
    soon, later = int(time.time() * 1000) + 300, int(time.time() * 1000) + 3_600_000
    server.do(("SET", "soon", 1, "PXAT", soon), ("SET", "later", 1, "PXAT", later), ("SET", "always", 1))
    c, store = part(server, tmp_path), MemoryStore()
    want = RedisDriver().capture(c, store, None)
    server.do(("FLUSHALL",))
    while server.do(("TIME",))[0][0] < b"%d" % (soon // 1000 + 1):
        time.sleep(0.02)  # until the server's clock is past it
    assert restored(c, store, want) == 2
    assert server.do(("PEXPIRETIME", "later"), ("PEXPIRETIME", "always"), ("EXISTS", "soon")) == [later, -1, 0]
    changes = list(RedisDriver().changes(c, store, want, None))
    assert changes == []  # its time is over: nobody would call that a change
    server.do(("SET", "soon", "written again"))
    assert [change.key for change in RedisDriver().verify(c, store, want)] == ["soon"]
    restored(c, store, want)
    assert server.do(("EXISTS", "soon")) == [0]


def test_values_larger_than_a_piece_come_back_and_may_be_interrupted(server: RedisServer, tmp_path: Path) -> None:
    value = os.urandom(20_000_000)  # more than is kept in memory before it is written
    server.do(("SET", "large", value))
    c, store = part(server, tmp_path), MemoryStore()
    want = RedisDriver().capture(c, store, None)
    assert len(store.blobs) == 20
    server.do(("FLUSHALL",))
    store.ticks, store.time_out_at = 0, 30
    with pytest.raises(RollbackError):
        RedisDriver().restore(c, store, want)
    store.time_out_at = None
    restored(c, store, want)
    assert server.do(("GET", "large")) == [value]


# — writers —


class Writer:
    """Moves a token between two keys, in one transaction each time, as fast as it can."""

    def __init__(self, server: RedisServer) -> None:
        server.do(("SET", "from", 1000), ("SET", "to", 0))
        self._connection = server.connect()
        self._over = threading.Event()
        self.moved = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            self._connection.ask_all([("MULTI",), ("DECR", "from"), ("INCR", "to"), ("EXEC",)])
            self.moved += 1

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()


def test_held_writers_leave_one_cut_and_go_on_afterwards(server: RedisServer, tmp_path: Path) -> None:
    c, driver, store = part(server, tmp_path), RedisDriver(), MemoryStore()
    with Writer(server) as writer:
        driver.quiesce(c)
        held = writer.moved
        want = driver.capture(c, store, None)
        assert driver.capture(c, store, None).fingerprint == want.fingerprint
        assert writer.moved <= held + 1
        assert want.warnings == ()
        driver.resume(c)
        until = time.monotonic() + 10
        while writer.moved <= held + 10 and time.monotonic() < until:
            time.sleep(0.001)
        assert writer.moved > held + 10
    restored(c, store, want)
    there, here = server.do(("GET", "from"), ("GET", "to"))
    assert int(there) + int(here) == 1000


def test_a_hold_ends_by_itself_and_the_checkpoint_says_so(server: RedisServer, tmp_path: Path) -> None:
    c, driver = part(server, tmp_path, hold="200ms"), RedisDriver()
    driver.quiesce(c)
    server.do(("SET", "written", 1))  # is answered when the hold has ended, though nobody resumed
    capture = driver.capture(c, MemoryStore(), None)
    assert "not held to the end (200ms)" in capture.warnings[0]
    driver.resume(c)


def test_without_a_hold_nobody_is_held(server: RedisServer, tmp_path: Path) -> None:
    c, driver = part(server, tmp_path, hold="0s"), RedisDriver()
    driver.quiesce(c)
    server.do(("SET", "written", 1))
    assert driver.capture(c, MemoryStore(), None).warnings == ()
    driver.resume(c)


def test_resume_lets_a_server_be_that_is_gone(tmp_path: Path) -> None:
    RedisDriver().resume(component("redis", tmp_path, url="redis://127.0.0.1:9"))


def test_a_checkpoint_killed_at_any_call_does_not_leave_writers_waiting(server: RedisServer, tmp_path: Path) -> None:
    server.do(("SET", "a", 1))
    c = part(server, tmp_path)
    for at in itertools.count(1):
        with interrupt_at(at) as fault:
            killed = RedisDriver()
            killed.quiesce(c)
            killed.capture(c, MemoryStore(), None)
        RedisDriver().resume(c)  # as the next command of rfs does, in its own process
        server.do(("SET", "a", at))  # would wait for as long as writers are held
        if not fault.fired:
            break
    assert at > 5


class Meddler(MemoryStore):
    """Is ticked between a look at a key and its DUMP, and changes the key then, `times` over."""

    def __init__(self, meddle: Callable[[], Any], times: int) -> None:
        super().__init__()
        self._meddle = meddle
        self._times = times

    def tick(self, items: int = 0, size: int = 0) -> None:
        super().tick(items, size)
        if self._times and not items:
            self._times -= 1
            self._meddle()


def test_a_value_that_changes_while_it_is_read_is_read_again(server: RedisServer, tmp_path: Path) -> None:
    server.do(("HSET", "hot", "a", 0, "b", 0), ("SET", "cold", 1))
    c = part(server, tmp_path, hold="0s")

    def meddle() -> None:
        server.do(("MULTI",), ("HINCRBY", "hot", "a", 1), ("HINCRBY", "hot", "b", 1), ("EXEC",))

    store = Meddler(meddle, times=12)
    want = RedisDriver().capture(c, store, None)
    assert want.entries == 2
    server.do(("FLUSHALL",))
    restored(c, store, want)
    a, b = server.do(("HGET", "hot", "a"), ("HGET", "hot", "b"))
    assert a == b
    with pytest.raises(RollbackError, match=r"The key hot .* kept changing"):
        RedisDriver().capture(c, Meddler(meddle, times=10_000), None)


# — saving —


@pytest.mark.parametrize("settings", [{"save": "3600 1000000"}, {"appendonly": "yes"}])
def test_what_was_restored_outlives_the_server(settings: dict[str, str], tmp_path: Path) -> None:
    with RedisServer(**settings) as server:
        c, store = part(server, tmp_path), MemoryStore()
        server.do(("SET", "a", 1), ("SADD", "b", 1, 2, 3))
        want = RedisDriver().capture(c, store, None)
        server.do(("SET", "a", 2), ("DEL", "b"), ("SET", "c", 1), ("SAVE",))
        restored(c, store, want)
        if "appendonly" in settings:  # what it wrote itself outlives a kill in any case, but not a loss of power
            assert (server.folder / "appendonlydir" / "appendonly.aof.2.base.rdb").exists()
        server.kill()
        server.start()
        assert RedisDriver().verify(c, store, want) == []


def test_a_save_that_began_too_early_is_waited_for_and_does_not_count(tmp_path: Path) -> None:
    with RedisServer(save="3600 1000000") as server:
        c, store = part(server, tmp_path), MemoryStore()
        want = RedisDriver().capture(c, store, None)
        server.do(("MSET", *"a1b1"), ("CONFIG", "SET", "rdb-key-save-delay", 100_000), ("BGSAVE",))
        restored(c, store, want)
        server.kill()
        server.start()
        assert server.do(("DBSIZE",)) == [0]


def test_a_server_that_cannot_save_is_told(tmp_path: Path) -> None:
    with RedisServer(save="3600 1000000", **{"stop-writes-on-bgsave-error": "no"}) as server:
        c, store = part(server, tmp_path), MemoryStore()
        want = RedisDriver().capture(c, store, None)
        server.do(("SET", "a", 1))
        (server.folder / "dump.rdb").mkdir()  # over a folder nothing can be renamed
        with pytest.raises(RollbackError, match="could not save"):
            RedisDriver().restore(c, store, want)
        assert "could not save" in "".join(finding.text for finding in RedisDriver().examine(c))
        (server.folder / "dump.rdb").rmdir()
        restored(c, store, want)


def test_a_server_without_memory_is_told_and_the_restore_can_be_run_again(server: RedisServer, tmp_path: Path) -> None:
    server.do(*(("SET", f"key {n}", os.urandom(100_000)) for n in range(40)))
    c, store = part(server, tmp_path), MemoryStore()
    want = RedisDriver().capture(c, store, None)
    server.do(("FLUSHALL",), ("CONFIG", "SET", "maxmemory", 3_000_000))
    with pytest.raises(RollbackError, match="no memory left"):
        RedisDriver().restore(c, store, want)
    server.do(("CONFIG", "SET", "maxmemory", 0))
    restored(c, store, want)


# — servers that are not right —


def test_what_an_interrupted_restore_sent_is_not_carried_out_later(server: RedisServer, tmp_path: Path) -> None:
    c = part(server, tmp_path)
    with connected(c, alone=True) as first, connected(c, alone=True) as second:
        assert second.ask("PING") == b"PONG"
        with pytest.raises(Exception, match=r"closed|reset|Broken"):
            first.ask("PING")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"requirepass": "right"}, "redis.password"),
        ({"replicaof": "127.0.0.1 9"}, "redis.replica"),
        ({"cluster-enabled": "yes"}, "redis.mode"),
    ],
)
def test_a_server_that_will_not_do_is_told_by_doctor_and_refused(
    settings: dict[str, str], key: str, tmp_path: Path
) -> None:
    with RedisServer(**settings) as server:
        password = {"password": "wrong, and never shown"} if "requirepass" in settings else {}
        _refused(part(server, tmp_path, **password), key)


@pytest.mark.parametrize("denied", ["-client|pause", "-info", "-watch", "-dump"])
def test_a_user_who_may_not_do_what_is_needed_is_told(denied: str, server: RedisServer, tmp_path: Path) -> None:
    server.do(("SET", "a", 1), ("ACL", "SETUSER", "rfs", "on", ">right", "~*", "+@all", denied))
    c = part(server, tmp_path, username="rfs", password="right")
    with pytest.raises(RollbackError) as caught:
        RedisDriver().quiesce(c) if "pause" in denied else RedisDriver().capture(c, MemoryStore(), None)
    assert caught.value.key == "redis.permission"
    assert denied[1:].partition("|")[0] in str(caught.value)


def _refused(c: Component, key: str) -> None:
    (finding,) = RedisDriver().examine(c)
    assert (finding.level, bool(finding.hint)) == ("error", True)
    assert "never shown" not in finding.text
    with pytest.raises(RollbackError) as caught:
        RedisDriver().capture(c, MemoryStore(), None)
    assert caught.value.key == key


def test_it_speaks_tls_and_trusts_only_what_it_is_told_to(tmp_path: Path) -> None:
    certify(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = {f"tls-{name}-file": str(tmp_path / f"{name}.pem") for name in ("cert", "key")}
    settings = {"tls-port": str(port), "tls-auth-clients": "no", "tls-ca-cert-file": files["tls-cert-file"], **files}
    with RedisServer(**settings) as server:
        server.do(("SET", "a", os.urandom(3_000_000)))
        c = component("redis", tmp_path, url=f"rediss://localhost:{port}", ca="cert.pem")
        store = MemoryStore()
        want = RedisDriver().capture(c, store, None)
        server.do(("SET", "a", 2))
        assert restored(c, store, want) == 1
        (finding,) = RedisDriver().examine(component("redis", tmp_path, url=f"rediss://localhost:{port}"))
        assert "certificate verify failed" in finding.text


def certify(folder: Path) -> None:
    """Make a key and a certificate for localhost that is signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(encoding))
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)


def test_a_server_that_may_evict_is_a_warning(server: RedisServer, tmp_path: Path) -> None:
    c = part(server, tmp_path)
    assert list(RedisDriver().examine(c)) == []
    server.do(("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"))
    try:
        (finding,) = RedisDriver().examine(c)
    finally:
        server.do(("CONFIG", "SET", "maxmemory-policy", "noeviction"))
    assert finding.level == "warning"
    assert "may evict keys (allkeys-lru" in finding.text


def test_a_server_that_is_down_or_hangs_is_one_sentence(server: RedisServer, tmp_path: Path) -> None:
    (finding,) = RedisDriver().examine(component("redis", tmp_path, url="redis://127.0.0.1:9"))
    assert "127.0.0.1:9/0 (component part) does not answer: Connection refused" in finding.text
    server.do(("CLIENT", "PAUSE", 400, "ALL"))
    with pytest.raises(RollbackError, match=r"did not answer within 0\.1 s"):
        RedisDriver().capture(part(server, tmp_path, timeout="100ms"), MemoryStore(), None)


def test_a_capture_of_a_newer_server_is_refused_before_the_outage(server: RedisServer, tmp_path: Path) -> None:
    c, store = part(server, tmp_path), MemoryStore()
    want = RedisDriver().capture(c, store, None)
    want.meta["redis"] = "99.1.0"
    with pytest.raises(UsageError, match=r"captured from Redis 99\.1\.0"):
        RedisDriver().stage(c, store, want)


def test_it_reads_what_version_1_captured_and_refuses_what_a_later_format_is(
    server: RedisServer, tmp_path: Path
) -> None:
    store, want = load_capture(HERE / "captured-1.json")
    c = part(server, tmp_path)
    restored(c, store, want)
    assert RedisDriver().fingerprint(c, rehash=True) == want.fingerprint
    assert server.do(("GET", "text"), ("LRANGE", "list", 0, -1), ("TYPE", "events")) == [b"1", [b"a", b"b"], b"stream"]
    want.meta["format"] = 2
    with pytest.raises(IntegrityError, match="has format 2"):
        RedisDriver().restore(c, store, want)


# — options, and what is shown —


def test_secrets_come_from_outside_and_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer(requirepass="hunter2") as server:
        monkeypatch.setenv("CACHE_URL", f"unix://:hunter2@{server.socket}?db=1")
        c = component("redis", tmp_path, url="env:CACHE_URL")
        assert list(RedisDriver().examine(c)) == []
        (tmp_path / "password").write_text("hunter2\n")
        c = component("redis", tmp_path, url=f"unix://{server.socket}?db=99", password="file:password")
        (finding,) = RedisDriver().examine(c)
        assert "DB index is out of range" in finding.text
    (finding,) = RedisDriver().examine(component("redis", tmp_path, url="env:CACHE_URL"))
    assert "hunter2" not in finding.text + finding.hint


@pytest.mark.parametrize(
    "url", ["http://localhost", "redis://", "redis://host:port/0", "redis://host/zero", "unix://", "localhost:6379"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="url"):
        msgspec.convert({"url": url}, RedisOptions)


def test_a_url_is_read_as_others_read_it() -> None:
    url = parse_url("rediss://shop:p%40ss@cache.example:7000/2")
    assert (url.host, url.port, url.tls, url.database, url.username, url.password) == (
        "cache.example", 7000, True, 2, "shop", "p@ss",
    )  # fmt: skip
    assert parse_url("redis://cache").port == 6379


def test_what_is_shown_of_keys_and_values() -> None:
    assert label_of(b"feature:express", b"on") == "on"
    assert label_of(b"feature:text", b"long" * 100) == "400 bytes"
    assert label_of(b"user:1:password", b"on") == label_of(b"dsn", b"x") == "••••"
    assert shown_name("주문:1".encode()) == "주문:1"
    assert shown_name(b"order:550e8400-e29b-41d4-a716-446655440000").startswith("order:550e8400-")
    first, second = shown_name(b"sess:9f86d081884c7d659a2feaa0"), shown_name(b"sess:9f86d081884c7d659a2feaa1")
    assert "9f86d081" not in first
    assert first.startswith("sess:••••")
    assert first != second


def test_losses_are_what_was_written_since(server: RedisServer, tmp_path: Path) -> None:
    c, store, driver = part(server, tmp_path), MemoryStore(), RedisDriver()
    server.do(("SET", "a", 1), ("SET", "b", 1))
    want = driver.capture(c, store, None)
    server.do(("SET", "a", 2), ("DEL", "b"), ("MSET", *"u1v1w1x1y1"))
    changes = list(driver.changes(c, store, want, None))
    assert [change.kind for change in changes] == [ChangeKind.CHANGED, ChangeKind.REMOVED, *[ChangeKind.ADDED] * 5]
    assert (changes[0].before, changes[0].after) != (None, None)
    losses = list(driver.losses(c, store, want, changes))
    assert [(loss.what, loss.count) for loss in losses] == [("new keys", 5), ("keys changed since", 1)]


def test_the_servers_own_files_belong_to_it(tmp_path: Path) -> None:
    c = component("redis", tmp_path, files=["redis/dump.rdb", "redis/appendonlydir"])
    assert RedisDriver().owns(c) == (f"{tmp_path}/redis/dump.rdb", f"{tmp_path}/redis/appendonlydir")
