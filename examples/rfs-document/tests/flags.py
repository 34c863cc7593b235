"""A server of one document, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Flags(ThreadingHTTPServer):
    """Attributes: text: the document. token: what a request has to bring."""

    daemon_threads = True
    text = b'{"checkout": {"express": true, "token": "hunter2"}, "limits": [1, 2]}'
    token = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/flags"


class _Handler(BaseHTTPRequestHandler):
    server: Flags

    def do_GET(self) -> None:
        self.answer(self.server.text)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if len(body) == int(self.headers["Content-Length"]):  # else its sender died
            self.server.text = body
            self.answer(b"")

    def answer(self, body: bytes) -> None:
        right = self.headers.get("Authorization", "Bearer ") == f"Bearer {self.server.token}"
        self.send_response(200 if right else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def serving() -> Iterator[Flags]:
    """Yield a server that runs, on a port of its own."""
    with Flags(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
