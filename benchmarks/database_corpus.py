"""Databases made from nothing but numbers: equal at every run, with text of few words as people's data is."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

# At this scale PostgreSQL's takes about 755 MB and SQLite's about 430 MB.
ROWS = 1_130_000
# fmt: off
_WORDS = (
    "copper", "kettle", "glass", "cup", "porcelain", "teapot", "strainer", "steel", "clay", "lid", "handle",
    "spout", "blue", "green", "small", "large", "express", "parcel", "street", "garden", "north", "south",
    "market", "river", "corner", "office", "invoice", "paid", "open", "note", "left", "with", "neighbour",
    "please", "ring", "twice", "gift", "wrap", "thank", "you", "order", "again", "before", "noon", "fragile",
    "heavy",
)
# fmt: on
_SQL_WORDS = "'{" + ",".join(_WORDS) + "}'::text[]"


def _sentence(words: int) -> str:
    """Return an SQL expression of so many words that depend on the number g."""
    one = f"(w)[1 + (hashint8(g * 31 + i) & 2147483647) % {len(_WORDS)}]"
    return f"(SELECT string_agg({one}, ' ' ORDER BY i) FROM generate_series(1, {words}) i)"


def schema(rows: int) -> list[str]:
    """Return the statements that make and fill the tables of a PostgreSQL database.

    Args:
        rows: of the largest; five times as many are in all tables together.
    """
    fill = f"FROM (SELECT {_SQL_WORDS} AS w) words, generate_series(1, %d) g"
    return [
        """CREATE TABLE accounts (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE,
            balance numeric(12,2) NOT NULL, note text, changed timestamptz NOT NULL)""",
        f"""INSERT INTO accounts SELECT g, {_sentence(2)}, 'customer' || g || '@example.org',
            (hashint8(g) & 1048575) / 100.0, {_sentence(5)}, timestamptz '2026-01-01' + g * interval '7 seconds'
            {fill % rows}""",
        """CREATE TABLE orders (id bigint PRIMARY KEY, account bigint NOT NULL REFERENCES accounts,
            status text NOT NULL, total numeric(10,2) NOT NULL, placed timestamptz NOT NULL)""",
        f"""INSERT INTO orders SELECT g, 1 + (hashint8(g) & 2147483647) % {rows},
            (ARRAY['new', 'paid', 'shipped', 'shipped'])[1 + (hashint8(g) & 3)], (hashint8(g) & 65535) / 100.0,
            timestamptz '2026-02-01' + g * interval '3 seconds' FROM generate_series(1, {2 * rows}) g""",
        """CREATE TABLE lines (order_id bigint REFERENCES orders, n int, product int NOT NULL, price numeric(10,2),
            PRIMARY KEY (order_id, n))""",
        f"""INSERT INTO lines SELECT g, 1, (hashint8(g) & 2147483647) % 5000, (hashint8(g) & 8191) / 100.0
            FROM generate_series(1, {2 * rows}) g""",
        "CREATE TABLE documents (id bigint PRIMARY KEY, title text, body text)",
        f"INSERT INTO documents SELECT g, 'document ' || g, {_sentence(600)} {fill % (rows // 100)}",
        "CREATE INDEX ON orders (account)",
    ]


# What "1 % of one table" means: rows side by side, as the newest are, or all over it.
CLUSTERED = "UPDATE accounts SET balance = balance + 1 WHERE id > (SELECT max(id) * 0.99 FROM accounts)"
SPREAD = "UPDATE accounts SET balance = balance + 1 WHERE hashint8(id) % 100 = 0"
ALL = "UPDATE accounts SET name = reverse(name), email = reverse(email), note = reverse(note), balance = -balance"
SUM = "SELECT count(*), sum(hashtextextended(a::text, 0)) FROM accounts a"


def make_file(path: Path, rows: int) -> None:
    """Make a SQLite database with rows of accounts, and of orders twice as many."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT, email TEXT UNIQUE, note TEXT, n INT)"
        )
        connection.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, account INT, status TEXT, total INT, note TEXT)"
        )
        accounts = ((n, _text(n, 2), f"customer{n}@example.org", _text(n, 14), n * 7919) for n in range(1, rows + 1))
        connection.executemany("INSERT INTO accounts VALUES (?, ?, ?, ?, ?)", accounts)
        orders = ((n, n * 7919 % rows, "paid", n * 31 % 65_536, _text(n * 3, 10)) for n in range(1, 2 * rows + 1))
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", orders)
        connection.execute("CREATE INDEX by_account ON orders (account)")
    connection.close()
    os.sync()


def change_file(path: Path) -> None:
    """Change one account in a hundred, all over the table."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE accounts SET n = n + 1 WHERE id % 100 = 7")
    connection.close()


def _text(number: int, words: int) -> str:
    return " ".join(_WORDS[(number * 31 + each * 7919 + number // 977) % len(_WORDS)] for each in range(words))
