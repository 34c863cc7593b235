"""The shop's tables and how to open them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCHEMA = """
CREATE TABLE products (
    id INTEGER PRIMARY KEY, slug TEXT NOT NULL UNIQUE, name TEXT NOT NULL, description TEXT NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents > 0), stock INTEGER NOT NULL CHECK (stock >= 0), picture TEXT
);
CREATE TABLE customers (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, phone TEXT
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers (id),
    total_cents INTEGER NOT NULL, status TEXT NOT NULL CHECK (status IN ('reserved', 'shipped')),
    created_at INTEGER NOT NULL, shipped_at INTEGER
);
CREATE INDEX orders_by_status ON orders (status);
CREATE TABLE order_lines (
    order_id INTEGER NOT NULL REFERENCES orders (id), product_id INTEGER NOT NULL REFERENCES products (id),
    quantity INTEGER NOT NULL CHECK (quantity > 0), price_cents INTEGER NOT NULL,
    PRIMARY KEY (order_id, product_id)
) WITHOUT ROWID;
-- Double entry: what an order adds to one account it takes from another, so the sum of all amounts is always 0.
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders (id),
    account TEXT NOT NULL, amount_cents INTEGER NOT NULL
);
PRAGMA user_version = 1;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection in autocommit mode; a transaction is opened with `transaction`."""
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection and close it."""
    connection = connect(path)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit what the block did, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:  # an interruption too must not leave it open
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def ledger_sum(connection: sqlite3.Connection) -> int:
    """Return the sum of all amounts in the ledger; 0 unless something is wrong."""
    return int(connection.execute("SELECT coalesce(sum(amount_cents), 0) FROM ledger").fetchone()[0])
