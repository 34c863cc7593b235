"""RESP2, the protocol of Redis, on one connection: what a driver needs of it, and no more.

A client library would do but for two things: reads that are sent together on a connection that watches
keys, and values that are handed on in pieces as they arrive, since one may be larger than the memory.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rfs.plugin import Pulse

Word = bytes | str | int
Reply = Any
"""bytes, int, None, a list of replies, or a ServerError."""

PIECE = 1 << 20
"""Bytes that are sent, and handed on, at a time."""
_ROUND_SECONDS = 0.2


class ServerError(Exception):
    """An error reply. Attributes: code: its first word, such as NOAUTH."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]


class LostError(Exception):
    """The server cannot be reached, went away, or did not answer in time."""


class Address(NamedTuple):
    """Where a server listens. `path` is a socket's; otherwise `host` and `port` count. `ca`: a file, or ""."""

    path: str
    host: str
    port: int
    tls: bool
    ca: str

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class Connection:
    """One connection.

    Args:
        address: of the server.
        seconds: for each wait.
        pulse: asked during each wait, so that a slow server cannot outlast the operation's time.
    """

    def __init__(self, address: Address, seconds: float, pulse: Pulse | None = None) -> None:
        self._seconds = seconds
        self._pulse = pulse
        self._in = bytearray()
        self._at = 0  # how much of it was read
        self._out = bytearray()
        try:
            self._socket = _open(address, self._patience())
        except OSError as error:
            raise LostError(_reason(error)) from error

    def close(self) -> None:
        self._socket.close()

    # — sending —

    def send(self, *words: Word) -> None:
        """Write a command; it goes out with the others, at the latest when a reply is asked for."""
        self._out += b"*%d\r\n" % len(words)
        self._write(words)
        if len(self._out) >= PIECE:
            self.flush()

    def send_with(self, before: Sequence[Word], size: int, pieces: Iterable[bytes], after: Sequence[Word]) -> None:
        """Write a command one of whose words comes in pieces, `size` bytes in all."""
        self._out += b"*%d\r\n" % (len(before) + 1 + len(after))
        self._write(before)
        self._out += b"$%d\r\n" % size
        for piece in pieces:
            self._out += piece
            if len(self._out) >= PIECE:
                self.flush()
        self._out += b"\r\n"
        self._write(after)

    def _write(self, words: Iterable[Word]) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            self._out += b"$%d\r\n%b\r\n" % (len(data), data)

    def flush(self) -> None:
        """Send what was written."""
        if not self._out:
            return
        data, self._out = self._out, bytearray()
        try:
            self._socket.settimeout(self._patience())
            self._socket.sendall(data)
        except OSError as error:
            raise LostError(_reason(error)) from error

    # — replies —

    def ask(self, *words: Word) -> Reply:
        """Send one command and return its reply.

        Raises:
            ServerError: that is the reply.
        """
        self.send(*words)
        return self.right()

    def ask_all(self, commands: Sequence[Sequence[Word]]) -> list[Reply]:
        """Send commands together and return their replies.

        Raises:
            ServerError: one of them is; the others were read.
        """
        for command in commands:
            self.send(*command)
        replies = [self.reply() for _ in commands]
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
        return replies

    def right(self) -> Reply:
        """Return the next reply.

        Raises:
            ServerError: it is one.
        """
        reply = self.reply()
        if isinstance(reply, ServerError):
            raise reply
        return reply

    def reply(self) -> Reply:
        """Return the next reply, also one that is an error."""
        kind, rest = self._head()
        if kind == b"+":
            return rest
        if kind == b"-":
            return ServerError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        size = int(rest)
        if size < 0:
            return None
        if kind == b"*":
            return [self.reply() for _ in range(size)]
        # Nearly always it is there as a whole, and replies come in great numbers.
        return self._take(size, 2) if len(self._in) >= self._at + size + 2 else b"".join(self.pieces(size))

    def size(self) -> int:
        """Begin to read a reply that is bytes or a list: return its length, -1 for none.

        Raises:
            ServerError: the reply is an error.
        """
        kind, rest = self._head()
        if kind == b"-":
            raise ServerError(rest.decode(errors="replace"))
        return int(rest)

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the bytes of a reply whose `size` was read, a piece at a time."""
        left = size
        while left:
            count = min(left, PIECE)
            self._have(count)
            left -= count
            yield self._take(count)
        self._have(2)
        self._take(2)

    def _head(self) -> tuple[bytes, bytes]:
        self.flush()
        while (end := self._in.find(b"\r\n", self._at)) < 0:
            self._have(len(self._in) - self._at + 1)
        line = self._take(end - self._at, 2)
        return line[:1], line[1:]

    def _take(self, count: int, more: int = 0) -> bytes:
        """Return bytes that are there, and pass over some more."""
        data = bytes(self._in[self._at : self._at + count])
        self._at += count + more
        return data

    def _have(self, count: int) -> None:
        """Read until `count` bytes are there."""
        if len(self._in) - self._at >= count:
            return
        del self._in[: self._at]
        self._at = 0
        until = time.monotonic() + self._patience()
        while len(self._in) < count:
            if self._pulse is not None:
                self._pulse.tick()
            self._socket.settimeout(_ROUND_SECONDS)
            try:
                data = self._socket.recv(PIECE)
            except TimeoutError:
                if time.monotonic() < until:
                    continue
                raise LostError(f"it did not answer within {self._seconds:g} s") from None
            except OSError as error:
                raise LostError(_reason(error)) from error
            if not data:
                raise LostError("it closed the connection")
            self._in += data
            until = time.monotonic() + self._patience()

    def _patience(self) -> float:
        """Return how long the next wait may take: never nothing, which a socket takes for "do not wait"."""
        left = self._pulse.remaining() if self._pulse is not None else self._seconds
        return max(0.01, min(self._seconds, left))


def _open(address: Address, seconds: float) -> socket.socket:
    if address.path:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            found.settimeout(seconds)
            found.connect(address.path)
        except BaseException:  # whatever it was, nobody else would close it
            found.close()
            raise
        return found
    found = socket.create_connection((address.host, address.port), timeout=seconds)
    if not address.tls:
        return found
    import ssl  # 20 ms, for those who use it

    try:
        context = ssl.create_default_context(cafile=address.ca or None)
        return context.wrap_socket(found, server_hostname=address.host)
    except BaseException:  # as above
        found.close()
        raise


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).rstrip(".")
