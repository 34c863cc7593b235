"""A cart becomes an order: stock, order, lines and ledger in one transaction."""

from __future__ import annotations

import time

from app import stock
from app.cart import Cart
from app.database import Connection, transaction
from app.errors import NotFoundError
from app.settings import Settings


def place(connection: Connection, cart: Cart, email: str, settings: Settings) -> int:
    """Write an order and return its id.

    Raises:
        NotFoundError: the cart is empty, or names a product or customer that does not exist.
        SoldOutError: there is not enough of a product.
    """
    if not cart:
        raise NotFoundError("the cart is empty")
    with transaction(connection):
        customer = connection.execute("SELECT id FROM customers WHERE email = ?", (email,)).fetchone()
        if customer is None:
            raise NotFoundError(f"nobody has registered {email}")
        lines = [_line(connection, slug, quantity) for slug, quantity in sorted(cart.items())]
        goods = sum(quantity * price for _, quantity, price in lines)
        total = goods + (0 if goods >= settings.free_shipping_from else settings.shipping)
        [order] = connection.execute(
            "INSERT INTO orders (customer_id, total_cents, status, created_at)"
            " VALUES (?, ?, 'reserved', ?) RETURNING id",
            (customer["id"], total, int(time.time())),
        ).fetchall()
        connection.executemany(
            "INSERT INTO order_lines (order_id, product_id, quantity, price_cents) VALUES (?, ?, ?, ?)",
            [(order["id"], *line) for line in lines],
        )
        book(connection, order["id"], "receivable", "revenue", total)
    return int(order["id"])


def book(connection: Connection, order: int, debit: str, credit: str, amount: int) -> None:
    """Write both sides of one entry: `amount` cents to `debit`, from `credit`."""
    connection.executemany(
        "INSERT INTO ledger (order_id, account, amount_cents) VALUES (?, ?, ?)",
        [(order, debit, amount), (order, credit, -amount)],
    )


def _line(connection: Connection, slug: str, quantity: int) -> tuple[int, int, int]:
    product = connection.execute("SELECT id, price_cents FROM products WHERE slug = ?", (slug,)).fetchone()
    if product is None:
        raise NotFoundError(f"there is no product {slug}")
    stock.take(connection, product["id"], quantity)
    return product["id"], quantity, product["price_cents"]
