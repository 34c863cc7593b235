"""Moving requests away from instances and back, through the runtime socket of HAProxy.

The commands: HAProxy's Management Guide, 9.3 "Unix Socket commands" (`set server`, `show stat`).
"""

from __future__ import annotations

import csv
import io
import socket
import time
from collections.abc import Callable

from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.instances import TrafficTable, filled
from rfs.production.rollback.secret import absolute

_ANSWER_SECONDS = 5.0
_POLL_SECONDS = 0.05
# How long a server that is ready again may need until HAProxy's own checks have noticed.
_UP_SECONDS = 30.0
_MOST = 16 << 20


class Traffic:
    """Args: table: of rfs.toml. home: its folder. tick: called while it waits; may raise."""

    def __init__(self, table: TrafficTable, home: str, tick: Callable[[], object]) -> None:
        self._path = absolute(table.haproxy, home)
        self._backend, self._server = table.backend, table.server
        self._patience = parse_duration(table.drain)
        self._tick = tick

    def drain(self, instance: str) -> str:
        """Send an instance no more requests, and wait until those under way have ended.

        Returns:
            A sentence when some had not after `drain`, or "".

        Raises:
            RollbackError: HAProxy does not answer, or knows no such server.
        """
        self._set(instance, "drain")
        until = time.monotonic() + self._patience
        while (under_way := int(self._row(instance)["scur"] or 0)) and time.monotonic() < until:
            self._tick()
            time.sleep(_POLL_SECONDS)  # HAProxy tells of no event
        if not under_way:
            return ""
        return f"{under_way} requests to {instance} had not ended after {self._patience:g} s, and were cut off."

    def ready(self, instance: str) -> None:
        """Send an instance requests again, and wait until it gets them.

        Raises:
            RollbackError: HAProxy does not answer, or holds it for down.
        """
        self._set(instance, "ready")
        until = time.monotonic() + _UP_SECONDS
        while not (status := self._row(instance)["status"]).startswith(("UP", "no check")):
            if time.monotonic() >= until:
                raise RollbackError("traffic.down", server=self._name(instance), status=status)
            self._tick()
            time.sleep(_POLL_SECONDS)  # as above

    def check(self, instances: tuple[str, ...]) -> None:
        """Refuse what could not be drained, before anything is done. Raises RollbackError."""
        for instance in instances:
            self._row(instance)

    def _name(self, instance: str) -> str:
        return f"{self._backend}/{filled(self._server, instance)}"

    def _set(self, instance: str, state: str) -> None:
        answer = self._ask(f"set server {self._name(instance)} state {state}").strip()
        if answer:  # what it does it does in silence
            raise RollbackError("traffic.refused", server=self._name(instance), why=answer.splitlines()[0].rstrip("."))

    def _row(self, instance: str) -> dict[str, str]:
        text = self._ask("show stat").removeprefix("# ")
        wanted = (self._backend, filled(self._server, instance))
        for row in csv.DictReader(io.StringIO(text)):
            if (row.get("pxname"), row.get("svname")) == wanted:
                return row
        raise RollbackError("traffic.refused", server=self._name(instance), why="there is no such server")

    def _ask(self, command: str) -> str:
        pieces: list[bytes] = []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(_ANSWER_SECONDS)
                sock.connect(self._path)
                sock.sendall(command.encode() + b"\n")
                while sum(map(len, pieces)) < _MOST and (piece := sock.recv(1 << 16)):
                    pieces.append(piece)
        except OSError as error:
            raise RollbackError("traffic.silent", path=self._path, why=error.strerror or str(error)) from error
        return b"".join(pieces).decode(errors="replace")
