"""Moves money between accounts for as long as standard input is open. The sum never changes.

Each transfer is one transaction and writes one line of the ledger, so that the balances can
be worked out from the ledger: a mixture of two states would not add up. One line on standard
output for each transfer that was acknowledged.
"""

from __future__ import annotations

import random
import select
import sqlite3
import sys

ACCOUNTS, START = 50, 1000


def main(path: str, journal: str) -> None:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("PRAGMA synchronous = off")
    chance = random.Random(7)
    while not select.select([sys.stdin], [], [], 0)[0]:
        one, other = chance.sample(range(ACCOUNTS), 2)
        amount = chance.randrange(1, 50)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, one))
        connection.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, other))
        connection.execute("INSERT INTO ledger VALUES (NULL, ?, ?, ?)", (one, other, amount))
        connection.execute("COMMIT")
        print("done", flush=True)
    print("idle", flush=True)
    sys.stdin.readline()
    while sys.stdin.readline():
        print(connection.execute("SELECT count(*) FROM ledger").fetchone()[0], flush=True)
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
