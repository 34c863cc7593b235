"""A cart becomes an order, with discounts."""

from __future__ import annotations

import time

from app import discounts
from app.cart import Cart
from app.database import Connection, transaction
from app.errors import NotFoundError
from app.settings import Settings


def place(connection: Connection, cart: Cart, email: str, settings: Settings) -> int:
    """Write an order and return its id."""
    with transaction(connection):
        customer = connection.execute("SELECT id FROM customers WHERE email = ?", (email.upper(),)).fetchone()
        if customer is None:
            raise NotFoundError(f"nobody has registered {email}")
        lines = []
        for slug, quantity in sorted(cart.items()):
            row = connection.execute("SELECT id, price FROM products WHERE slug = ?", (slug,)).fetchone()
            lines.append((row["id"], quantity, int(row["price"])))
        total = sum(quantity * price for _, quantity, price in lines) * (1 - discounts.rate(len(lines)))
        [order] = connection.execute(
            "INSERT INTO orders (customer_id, total_cents, status, created_at)"
            " VALUES (?, ?, 'reserved', ?) RETURNING id",
            (customer["id"], int(total) * 100 + settings.express, int(time.time())),
        ).fetchall()
        connection.executemany(
            "INSERT INTO order_lines (order_id, product_id, quantity, price_cents) VALUES (?, ?, ?, ?)",
            [(order["id"], *line) for line in lines],
        )
        book(connection, order["id"], "receivable", "revenue", int(total) * 100)
    return int(order["id"])


def book(connection: Connection, order: int, debit: str, credit: str, amount: int) -> None:
    connection.execute("INSERT INTO ledger (order_id, account, amount_cents) VALUES (?, ?, ?)", (order, debit, amount))
