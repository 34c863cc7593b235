"""Whoever is killed at whichever word to the server: the name means a database, and that is the old or the new one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgresql_shop import Shop, shop_of

from pg_server import Server, running
from rfs.cli.main import main
from rfs.production.rollback.drivers.postgresql import PostgresqlDriver

# How often each word is met in the sweep that takes long; how many words at the end matter most, and how many of these
# the short one meets.
TIMES = int(os.environ.get("SOAK_KILLS", "3"))
LAST = 9
IN_PLACE_LAST = 60
IN_PLACE_SAMPLE = 2
SAMPLE = 5
SERVER_SAMPLE = 2


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as found:
        yield found


@pytest.fixture
def shop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: Server
) -> Iterator[Shop]:
    with shop_of(tmp_path, capsys, monkeypatch, server) as found:
        yield found


def _in_a_child(words: tuple[str, ...], at: int, what: Callable[[], None]) -> tuple[int, int]:
    """Run a command in a child; `what` is done before the nth word to the server within a restore.

    Returns:
        How it ended (the negative number of the signal, if it was one), and how many words there were.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            said = 0
            inside = False
            wait, restore = psycopg.Connection.wait, PostgresqlDriver.restore

            def counted(self: Any, gen: Any, interval: float = 0.1) -> Any:
                nonlocal said
                if inside:
                    said += 1
                    os.write(writing, b".")
                    if said == at:
                        what()
                return wait(self, gen, interval)

            def restoring(self: Any, c: Any, source: Any, want: Any) -> Any:
                nonlocal inside
                inside = True
                try:
                    return restore(self, c, source, want)
                finally:
                    inside = False

            psycopg.Connection.wait = counted  # type: ignore[method-assign]  # it is put in its place, in a child of its own
            PostgresqlDriver.restore = restoring  # type: ignore[method-assign]  # likewise
            code = main(words)
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        count = len(pipe.read())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), count


def _state(shop: Shop) -> int:
    """Return how many lines the log has; that the name resolves is the first thing to be seen."""
    found: int = shop.one("SELECT count(*) FROM log")
    return found


OLD, NEW = 200, 201


def _kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _prepared(shop: Shop, *more: str) -> tuple[str, ...]:
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    return ("rollback", target, *more, "--yes", "--reason", "a test", "-q")


def _points(words: int, whole: bool, sample: int, last: int = LAST) -> list[int]:
    """Return at which words to kill. The door is closed, the names are changed and it is opened by the last ones."""
    every = list(range(1, words + 1))
    return every * TIMES if whole else every[-last :: -(-last // sample)]


def _client_killed(
    shop: Shop, whole: bool, last: int = LAST, sample: int = SAMPLE, more: Sequence[str] = ()
) -> set[int]:
    command = _prepared(shop, *more)
    seen = set()
    code, words = _in_a_child(command, 0, _kill_myself)
    assert code == 0
    shop.json("undo", "--yes")
    points = _points(words, whole, sample, last)
    for number, at in enumerate(points):
        code, _ = _in_a_child(command, at, _kill_myself)
        assert code == -signal.SIGKILL, at
        time_round, place = divmod(number, len(set(points)))
        settled = shop.rfs("abort" if (time_round + place) % 2 else "recover", "--yes")
        assert settled.code in (0, 30), (at, settled)
        seen.add(_state(shop))
        if _state(shop) == OLD:
            shop.json("undo", "--yes")
        assert _state(shop) == NEW, at
        assert shop.one("SELECT count(*) FROM log WHERE line = 'new'") == 1
    assert _leftovers(shop) == []
    return seen


def _leftovers(shop: Shop) -> list[str]:
    """Return the databases beside the live one that are neither it nor set aside."""
    with shop.server.connect() as connection:
        found = connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE %s AND datname <> %s"
            " AND coalesce(shobj_description(oid, 'pg_database'), '') NOT LIKE %s",
            [f"{shop.database}%", shop.database, '%"state":"displaced"%'],
        )
        return [name for (name,) in found]


@pytest.mark.slow
def test_the_client_is_killed_at_some_words(shop: Shop) -> None:
    assert _client_killed(shop, whole=False) == {OLD, NEW}


@pytest.mark.slow
def test_the_client_is_killed_at_some_words_while_one_table_goes_back(shop: Shop) -> None:
    assert _client_killed(shop, whole=False, more=("--table", "log")) == {OLD, NEW}


@pytest.mark.slow
def test_the_client_is_killed_at_every_word(shop: Shop) -> None:
    assert _client_killed(shop, whole=True) == {OLD, NEW}  # recover goes forward, abort back


@pytest.mark.slow
@pytest.mark.soak
def test_the_client_is_killed_at_every_word_of_a_restore_in_place(shop: Shop) -> None:
    shop.may_not_create()
    assert _client_killed(shop, whole=True) == {OLD, NEW}


@pytest.mark.slow
def test_the_client_is_killed_at_some_words_of_a_restore_in_place(shop: Shop) -> None:
    shop.may_not_create()
    assert _client_killed(shop, whole=False, last=IN_PLACE_LAST, sample=IN_PLACE_SAMPLE) == {OLD, NEW}


def _server_killed(shop: Shop, server: Server, whole: bool, last: int = LAST) -> None:
    command = _prepared(shop)
    _, words = _in_a_child(command, 0, _kill_myself)
    shop.json("undo", "--yes")
    for at in _points(words, whole, SERVER_SAMPLE, last):
        code, _ = _in_a_child(command, at, lambda: _killed_for_good(server))
        assert code == 31, (at, code)  # neither way can be gone without a server
        server.kill()
        server.start()
        settled = shop.rfs("resume", "--yes", "--reason", "the server is back")
        assert settled.code in (0, 30), (at, settled)
        if _state(shop) == OLD:
            shop.json("undo", "--yes")
        assert _state(shop) == NEW, at
        assert shop.one("SELECT count(*) FROM log WHERE line = 'new'") == 1


def _killed_for_good(server: Server) -> None:
    os.kill(server.pid, signal.SIGKILL)
    time.sleep(0.05)  # its children notice by themselves, and no later than at the next word


@pytest.mark.slow
def test_the_server_is_killed_at_some_words(shop: Shop, server: Server) -> None:
    _server_killed(shop, server, whole=False)


@pytest.mark.slow
def test_the_server_is_killed_at_every_word(shop: Shop, server: Server) -> None:
    _server_killed(shop, server, whole=True)


@pytest.mark.slow
def test_the_server_is_killed_at_some_words_of_a_restore_in_place(shop: Shop, server: Server) -> None:
    shop.may_not_create()
    _server_killed(shop, server, whole=False, last=IN_PLACE_LAST)


@pytest.mark.slow
@pytest.mark.soak
def test_the_server_is_killed_at_every_word_of_a_restore_in_place(shop: Shop, server: Server) -> None:
    shop.may_not_create()
    _server_killed(shop, server, whole=True)
