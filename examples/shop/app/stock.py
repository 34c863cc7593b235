"""Stock is taken in the transaction that writes the order, or the order does not happen."""

from __future__ import annotations

from app.database import Connection
from app.errors import SoldOutError


def take(connection: Connection, product_id: int, quantity: int) -> None:
    """Take `quantity` pieces of a product.

    Raises:
        SoldOutError: there are not as many left.
    """
    taken = connection.execute(
        "UPDATE products SET stock = stock - ? WHERE id = ? AND stock >= ?", (quantity, product_id, quantity)
    )
    if taken.rowcount != 1:
        [product] = connection.execute("SELECT name FROM products WHERE id = ?", (product_id,)).fetchall()
        raise SoldOutError(product["name"])
