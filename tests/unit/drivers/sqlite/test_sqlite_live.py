"""The database under fire: a writer that never stops, and processes that die in mid-restore."""

from __future__ import annotations

import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import transfers
from sqlite_shop import Shop

from rfs.production.rollback.drivers.sqlite import SqliteDriver, apart
from rfs.production.rollback.errors import LockedError, RollbackError
from rfs.production.rollback.model import Capture
from rfs.testing import MemoryStore, component

# Newer Pythons warn of a fork beside other threads, such as the test runner's own.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

ADDS_UP = """
SELECT count(*) FROM accounts WHERE balance <> ?
  - (SELECT coalesce(sum(amount), 0) FROM ledger WHERE source = accounts.id)
  + (SELECT coalesce(sum(amount), 0) FROM ledger WHERE target = accounts.id)
"""


class Bank:
    def __init__(self, home: Path, journal: str) -> None:
        self.path, self.journal = home / "bank.db", journal
        self.driver, self.store = SqliteDriver(), MemoryStore()
        self.component = component("sqlite", home, path="bank.db")
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.execute("CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER)")
            connection.execute("CREATE TABLE ledger(id INTEGER PRIMARY KEY, source INT, target INT, amount INT)")
            rows = [(number, transfers.START) for number in range(transfers.ACCOUNTS)]
            connection.executemany("INSERT INTO accounts VALUES (?, ?)", rows)
            connection.commit()

    def check(self) -> int:
        """Assert that the database is a state that existed; return how many transfers it knows."""
        with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            total = connection.execute("SELECT sum(balance) FROM accounts").fetchone()[0]
            assert total == transfers.ACCOUNTS * transfers.START
            assert connection.execute(ADDS_UP, (transfers.START,)).fetchone() == (0,)
            count, last = connection.execute("SELECT count(*), coalesce(max(id), 0) FROM ledger").fetchone()
            assert count == last
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(count)


class Writer:
    def __init__(self, bank: Bank) -> None:
        script = str(Path(__file__).with_name("transfers.py"))
        self._process = subprocess.Popen(
            [sys.executable, script, str(bank.path), bank.journal],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def wait_for(self, transfers_done: int) -> None:
        """Wait for transfers that are yet to be made; what it said before now does not count."""
        assert self._process.stdout
        while select.select([self._process.stdout], [], [], 0)[0]:
            assert self._process.stdout.read1(), "the writer died"
        while transfers_done > 0:
            said = self._process.stdout.read1()
            assert said, "the writer died"
            transfers_done -= said.count(b"\n")

    def idle(self) -> None:
        """Let it stop writing; its connection stays open."""
        self._say("stop")
        assert self._process.stdout
        while not (line := self._process.stdout.readline()).endswith(b"idle\n"):
            assert line, "the writer died"

    def count(self) -> int:
        """Return how many transfers its own connection sees."""
        self._say("count")
        assert self._process.stdout
        return int(self._process.stdout.readline())

    def _say(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.communicate(timeout=60)
        assert self._process.returncode == 0


@pytest.fixture(params=["wal", "delete"])
def bank(tmp_path: Path, request: pytest.FixtureRequest) -> Bank:
    return Bank(tmp_path, request.param)


@pytest.fixture
def writer(bank: Bank) -> Iterator[Writer]:
    running = Writer(bank)
    yield running
    running.close()


def test_checkpoints_and_rollbacks_under_a_writer(bank: Bank, writer: Writer) -> None:
    taken: list[Capture] = []
    for _ in range(6):
        writer.wait_for(40)
        taken.append(bank.driver.capture(bank.component, bank.store, taken[-1] if taken else None))
    assert len({capture.fingerprint.digest for capture in taken}) == 6
    for want in (taken[3], taken[0], taken[5]):
        bank.driver.restore(bank.component, bank.store, want)
        bank.check()
        writer.wait_for(60)
        bank.check()
    writer.idle()
    seen = []
    for want in taken:
        bank.driver.restore(bank.component, bank.store, want)
        assert bank.driver.verify(bank.component, bank.store, want) == []
        assert bank.driver.fingerprint(bank.component, rehash=True) == want.fingerprint
        seen.append(bank.check())
        assert writer.count() == seen[-1]
    assert seen == sorted(set(seen))
    assert seen[0] >= 40


def die_in_restore(shop: Shop, want: Capture, ticks: int) -> None:
    """Restore in a child process that is killed, for good, at the given call of the store's tick."""
    child = os.fork()
    if child == 0:
        left = ticks

        def tick(items: int = 0, size: int = 0) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        shop.store.tick = tick
        shop.restore(want)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("ticks", [1, 3, 10, 25, 60])
def test_killed_in_mid_restore(shop: Shop, monkeypatch: pytest.MonkeyPatch, ticks: int) -> None:
    monkeypatch.setattr("rfs.production.rollback.drivers.sqlite.direct.PAGES_PER_STEP", 1)
    want = shop.capture()
    shop.run("UPDATE orders SET item = 'late', total = -total")
    later = shop.capture()
    die_in_restore(shop, want, ticks)
    assert shop.rows("SELECT DISTINCT item FROM orders") == [("late",)]
    shop.assert_is(later)
    die_in_restore(shop, want, ticks)
    shop.restore(want)
    shop.assert_is(want)
    assert not [name for name in os.listdir(shop.component.work) if name.startswith("tmp-")]


def test_killed_at_any_moment(shop: Shop) -> None:
    """A process goes to and fro between two states and is killed; it is always one of them, and then the other."""
    one = shop.capture()
    shop.run("UPDATE orders SET item = 'late', total = -total", "DROP TABLE notes")
    other = shop.capture()
    chance = random.Random(11)
    found: set[str] = set()
    for number in range(15):
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(told, b"!")
            while True:
                shop.restore(one)
                shop.restore(other)
        os.read(ready, 1)
        os.close(ready)
        os.close(told)
        signal.sigtimedwait([], chance.uniform(0.001, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        live = shop.driver.fingerprint(shop.component, rehash=True)
        assert live in (one.fingerprint, other.fingerprint), number
        found.add(live.digest)
        want = other if live == one.fingerprint else one
        shop.restore(want)
        shop.assert_is(want)
    assert len(found) == 2


def test_the_application_itself_has_the_database_open(shop: Shop) -> None:
    """Python's sqlite3 is another copy of SQLite in this process: its locks and its log must survive ours."""
    with closing(sqlite3.connect(shop.path, isolation_level=None)) as own:
        own.execute("INSERT INTO notes VALUES ('first')")
        first = shop.capture()
        own.execute("INSERT INTO notes VALUES ('second')")
        shop.driver.fingerprint(shop.component, rehash=True)
        own.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError), closing(sqlite3.connect(shop.path, timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LockedError):
            shop.restore(first)
        own.execute("INSERT INTO notes VALUES ('third')")
        own.execute("COMMIT")
        assert said_elsewhere(shop) == "first second third"
        shop.restore(first)
        assert own.execute("SELECT text FROM notes").fetchall() == [("first",)]
        own.execute("INSERT INTO notes VALUES ('fourth')")
        assert said_elsewhere(shop) == "first fourth"
    assert shop.rows("SELECT text FROM notes") == [("first",), ("fourth",)]
    assert shop.rows("PRAGMA integrity_check") == [("ok",)]


def said_elsewhere(shop: Shop) -> str:
    """Return what another process finds in the notes."""
    script = "import sqlite3, sys; print(*(r[0] for r in sqlite3.connect(sys.argv[1]).execute('SELECT * FROM notes')))"
    done = subprocess.run([sys.executable, "-c", script, shop.path], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_thread_may_open_the_database_meanwhile(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    # Taken in this process, it would be a KeyError; the child has its own table.
    monkeypatch.setattr(apart, "_OPERATIONS", {})
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    try:
        want = shop.capture()
        shop.orders(501, 600)
        shop.restore(want)
        assert shop.driver.fingerprint(shop.component, rehash=True) == want.fingerprint
    finally:
        waiting.set()
        thread.join()


def test_a_child_that_fails_says_why(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "needed", lambda path: True)
    want = shop.capture()
    shop.path.write_bytes(b"no database" * 1000)
    with pytest.raises(RollbackError) as caught:
        shop.capture()
    assert caught.value.key == "sqlite.not_a_database"
    shop.restore(want)
    shop.assert_is(want)
    monkeypatch.setattr(apart, "_CHILD", "import sys; sys.exit('no such thing')")
    with pytest.raises(RollbackError) as caught:
        shop.capture()
    assert caught.value.key == "command.failed"
    assert "no such thing" in str(caught.value)
