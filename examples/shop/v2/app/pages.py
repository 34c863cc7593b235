"""Templates and the pages made from them."""

from __future__ import annotations

import html
from string import Template

from app import VERSION
from app.cart import Cart
from app.database import Connection
from app.errors import NotFoundError
from app.settings import ROOT, Settings


def money(amount: float, settings: Settings) -> str:
    return f"{amount:.2f} {settings.currency}"


def render(page: str, settings: Settings, **fields: str) -> bytes:
    """Return a whole page: templates/PAGE.html inside templates/layout.html.

    Args:
        fields: values for the template's names, escaped already where they come from outside.
    """
    folder = ROOT / "templates"
    body = Template((folder / f"{page}.html").read_text(encoding="utf-8")).substitute(fields)
    layout = Template((folder / "layout.html").read_text(encoding="utf-8"))
    return layout.substitute(shop=html.escape(settings.name), version=VERSION, body=body).encode()


def product_list(connection: Connection, settings: Settings) -> bytes:
    rows = connection.execute("SELECT * FROM products ORDER BY name").fetchall()
    items = "\n".join(
        f'<li><a href="/product/{row["slug"]}">{html.escape(row["name"])}</a>'
        f" <b>{money(row['price'], settings)}</b></li>"
        for row in rows
    )
    return render("products", settings, items=items, count=str(len(rows)))


def product(connection: Connection, slug: str, settings: Settings) -> bytes:
    """Raises NotFoundError when there is no such product."""
    row = connection.execute("SELECT * FROM products WHERE slug = ?", (slug,)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no product {slug}")
    return render(
        "product",
        settings,
        slug=row["slug"],
        name=html.escape(row["name"]),
        description=html.escape(row["description"]),
        price=money(row["price"], settings),
        stock=str(row["stock"]),
        picture=html.escape(row["picture"] or "none.png"),
    )


def cart(connection: Connection, content: Cart, settings: Settings) -> bytes:
    lines = []
    for slug, quantity in sorted(content.items()):
        row = connection.execute("SELECT name, price FROM products WHERE slug = ?", (slug,)).fetchone()
        if row is not None:
            price = money(quantity * row["price"], settings)
            lines.append(f"<tr><td>{quantity} × {html.escape(row['name'])}</td><td>{price}</td></tr>")
    return render("cart", settings, lines="\n".join(lines) or "<tr><td>empty</td></tr>")
