"""The web process: `python -m app.web`."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import mimetypes
import os
import signal
import threading
import time
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from app import VERSION, cart, checkout, database, health, metrics, pages, settings
from app.database import Connection
from app.errors import NotFoundError, SoldOutError
from app.notify import notify

log = logging.getLogger("shop.web")


class Shop(ThreadingHTTPServer):
    """The server; `settings` is replaced as a whole by /-/reload."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        self.settings = settings.load()
        super().__init__((self.settings.host, self.settings.port), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Shop
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, handle: Any) -> None:
        began = time.monotonic()
        self.status = 0
        self._answer_to(unquote(urlsplit(self.path).path), handle)
        if self.path != "/metrics":
            metrics.count(self.status, time.monotonic() - began)

    def _answer_to(self, path: str, handle: Any) -> None:
        try:
            with database.opened(self.server.settings.database) as connection:
                handle(path, connection)
        except NotFoundError as error:
            self._send(404, f"{error}\n".encode(), "text/plain; charset=utf-8")
        except SoldOutError as error:
            self._send(409, f"sold out: {error}\n".encode(), "text/plain; charset=utf-8")
        except ConnectionError:
            self.close_connection = True
        except Exception:  # one request's bug must not take the others' connections along
            log.exception("%s %s", self.command, path)
            self._send(500, b"internal error\n", "text/plain; charset=utf-8")

    def _get(self, path: str, connection: Connection) -> None:
        if path == "/":
            self._page(pages.product_list(connection, self.server.settings))
        elif path.startswith("/product/"):
            self._page(pages.product(connection, path.removeprefix("/product/"), self.server.settings))
        elif path == "/cart":
            self._page(pages.cart(connection, self._cart(), self.server.settings))
        elif path.startswith("/order/"):
            self._order(connection, path.removeprefix("/order/"))
        elif path.startswith("/static/"):
            self._file(settings.ROOT / "static", path.removeprefix("/static/"))
        elif path.startswith("/uploads/"):
            self._file(self.server.settings.uploads, path.removeprefix("/uploads/"))
        elif path == "/health":
            self._health(connection)
        elif path == "/metrics":
            self._send(200, metrics.text().encode(), "text/plain; version=0.0.4")
        else:
            raise NotFoundError("there is no such page")

    def _post(self, path: str, connection: Connection) -> None:
        body = self._body()
        if path == "/cart":
            form = parse_qs(body.decode())
            content = self._cart()
            content[form["slug"][0]] = content.get(form["slug"][0], 0) + int(form.get("quantity", ["1"])[0])
            value = cart.dump(content, self.server.settings.cart_key)
            self._send(303, b"", "text/plain", Location="/cart", Set_Cookie=f"cart={value}; HttpOnly; SameSite=Lax")
        elif path == "/checkout":
            email = parse_qs(body.decode())["email"][0]
            order = checkout.place(connection, self._cart(), email, self.server.settings)
            log.info("order %d reserved", order)
            self._json(201, {"order": order, "status": "reserved"})
        elif path.startswith("/admin/picture/"):
            self._picture(connection, path.removeprefix("/admin/picture/"), body)
        elif path == "/-/reload":
            self.server.settings = settings.load()
            log.info("settings reloaded")
            self._json(200, {"reloaded": True})
        else:
            raise NotFoundError("there is no such page")

    def _order(self, connection: Connection, number: str) -> None:
        row = connection.execute("SELECT id, status, total_cents FROM orders WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise NotFoundError(f"there is no order {number}")
        self._json(200, {"order": row["id"], "status": row["status"], "total_cents": row["total_cents"]})

    def _health(self, connection: Connection) -> None:
        findings = health.checks(connection, self.server.settings)
        healthy = all(finding == "ok" for finding in findings.values())
        answer = {"status": "ok" if healthy else "failing", "version": VERSION, "checks": findings}
        self._json(200 if healthy else 503, answer)

    def _picture(self, connection: Connection, slug: str, body: bytes) -> None:
        token = self.server.settings.secrets["ADMIN_TOKEN"]
        if not hmac.compare_digest(self.headers.get("X-Admin-Token", ""), token):
            self._send(403, b"not allowed\n", "text/plain")
            return
        if not body.startswith(b"\x89PNG\r\n\x1a\n"):
            self._send(415, b"only PNG pictures\n", "text/plain")
            return
        if connection.execute("SELECT 1 FROM products WHERE slug = ?", (slug,)).fetchone() is None:
            raise NotFoundError(f"there is no product {slug}")
        name = f"{slug}-{hashlib.sha256(body).hexdigest()[:8]}.png"
        unfinished = self.server.settings.uploads / f".{name}.part"
        with unfinished.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.server.settings.uploads / name)
        connection.execute("UPDATE products SET picture = ? WHERE slug = ?", (name, slug))
        self._json(201, {"picture": f"/uploads/{name}"})

    def _file(self, folder: Path, name: str) -> None:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise NotFoundError("there is no such file")
        self._send(200, path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream")

    def _cart(self) -> cart.Cart:
        cookie = SimpleCookie(self.headers.get("Cookie", ""))
        value = cookie["cart"].value if "cart" in cookie else ""
        return cart.load(value, self.server.settings.cart_key)

    def _body(self) -> bytes:
        size = int(self.headers.get("Content-Length", "0"))
        if size > self.server.settings.max_upload:
            self.close_connection = True
            raise NotFoundError(f"more than {self.server.settings.max_upload} bytes")
        return self.rfile.read(size)

    def _page(self, body: bytes) -> None:
        self._send(200, body, "text/html; charset=utf-8")

    def _json(self, status: int, value: object) -> None:
        self._send(status, json.dumps(value).encode() + b"\n", "application/json")

    def _send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.status = status
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        log.info(format, *args)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with Shop() as server:
        # shutdown() waits for the loop below to end, so it cannot be called from the handler, which runs inside it.
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        log.info("version %s at %s:%d", VERSION, *server.server_address[:2])
        notify(f"READY=1\nSTATUS=web {VERSION}")
        server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
