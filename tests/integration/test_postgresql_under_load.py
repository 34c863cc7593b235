"""A database that is written to all the while: no state is torn, and the outage does not grow with the data."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from postgresql_shop import Shop

ACCOUNTS = 100
EACH = 100
LONGEST_OUTAGE = 0.5


@contextmanager
def _transferring(shop: Shop, writers: int) -> Iterator[list[int]]:
    """Let writers move money to and fro; they connect again when they are sent away. Yields how often they did."""
    over = threading.Event()
    done = [0] * writers
    wrong: list[BaseException] = []

    def transfer(number: int) -> None:
        while not over.is_set():
            try:
                with shop.connect() as connection:
                    while not over.is_set():
                        with connection.transaction():
                            for account, amount in ((number, -1), (number + 50, 1)):
                                words = "UPDATE accounts SET money = money + %s WHERE id = %s"
                                connection.execute(words, [amount, account])
                        done[number] += 1
            except psycopg.OperationalError:
                over.wait(0.002)  # the door is closed for a moment
            except BaseException as error:  # a thread has nobody to tell but the one that joins it
                wrong.append(error)
                raise

    threads = [threading.Thread(target=transfer, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert not wrong


def _rounds(shop: Shop, rounds: int) -> None:
    # Eight writers on a busy machine: some transaction takes longer than the two seconds that other tests wait.
    shop.set_up(wait="30s")
    shop.do("CREATE TABLE accounts (id int PRIMARY KEY, money int NOT NULL)")
    shop.do(f"INSERT INTO accounts SELECT g, {EACH} FROM generate_series(0, {ACCOUNTS - 1}) g")
    with _transferring(shop, 8) as done:
        for _ in range(rounds):
            target = shop.checkpoint()
            before = sum(done)
            shop.json("rollback", target, "--yes", "--reason", "a test")
            assert shop.one("SELECT sum(money) FROM accounts") == ACCOUNTS * EACH
            shop.json("undo", "--yes", "--reason", "a test")
            assert shop.one("SELECT sum(money) FROM accounts") == ACCOUNTS * EACH
            assert sum(done) > before  # they did write


def test_money_is_conserved_while_eight_writers_transfer_it(shop: Shop) -> None:
    _rounds(shop, 1)


@pytest.mark.slow
def test_money_is_conserved_in_fifty_rounds(shop: Shop) -> None:
    _rounds(shop, int(os.environ.get("SOAK_ROUNDS", "50")) // 2)  # two states are restored in each


def _outage(shop: Shop, *words: str) -> float:
    """Return the longest time for which a client that asks every 5 ms got no answer."""
    over = threading.Event()
    gaps: list[float] = []

    def ask() -> None:
        last = time.monotonic()
        connection: psycopg.Connection | None = None
        while not over.is_set():
            try:
                connection = connection or shop.connect()
                connection.execute("SELECT count(*) FROM log WHERE line = 'none'")
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
            except psycopg.OperationalError:
                if connection is not None:
                    connection.close()
                connection = None
            over.wait(0.005)
        if connection is not None:
            connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        shop.json(*words)
    finally:
        over.set()
        thread.join(30)
    return max(gaps)


def _outages(shop: Shop, rows: int) -> tuple[float, float]:
    shop.do(f"CREATE TABLE ballast AS SELECT g, repeat(md5(g::text), 4) AS text FROM generate_series(1, {rows}) g")
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    found = _outage(shop, "rollback", target, "--yes", "--reason", "a test"), _outage(shop, "undo", "--yes")
    print(f"outage with {shop.one('SELECT pg_database_size(current_database())') / 1e6:.0f} MB: {found}")
    return found


def test_the_outage_of_a_rollback_and_of_its_undo_is_short(shop: Shop) -> None:
    assert max(_outages(shop, 50_000)) < LONGEST_OUTAGE


@pytest.mark.slow
def test_the_outage_does_not_grow_with_the_data(shop: Shop) -> None:
    assert max(_outages(shop, 3_500_000)) < LONGEST_OUTAGE
