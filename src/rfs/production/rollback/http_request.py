"""One HTTP request with one deadline for all of it: name, connection, TLS, headers, body.

A timeout on a socket bounds each read, so that a server that sends one byte a second is
waited for without end; here the time left is set anew before each read. Over TCP or a
Unix socket. Redirects are not followed and proxies are not used: what is asked is asked.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

if TYPE_CHECKING:
    from http.client import HTTPResponse

_DEFAULT_PORTS = {"http": 80, "https": 443}
# As far as the last @: a password that was not quoted may hold a slash.
_CREDENTIALS = re.compile(r"(?<=://)[^\s\"'<>]*@")
_QUERY = re.compile(r"(?<=\?)[^\s\"'<>]+")


class RequestError(Exception):
    """The request came to nothing; the text is a phrase that says why.

    Attributes:
        absent: nobody listens there at all, as opposed to somebody who does not answer.
    """

    def __init__(self, why: str, *, absent: bool = False) -> None:
        super().__init__(why)
        self.absent = absent


class Address(msgspec.Struct, frozen=True):
    """Where a request goes. `str()` of it shows no credentials and no query.

    Attributes:
        scheme: "http", "https" or "unix".
        host: name or number; of a Unix socket, its path.
        target: path and query, as they stand in the request.
    """

    scheme: str
    host: str
    port: int
    target: str
    user: str | None = None
    password: str = ""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        path, mark, _ = self.target.partition("?")
        return f"{self.scheme}://{host}{port}{path}" + ("?…" if mark else "")


class Response(msgspec.Struct, frozen=True):
    """What came back. `body` is cut at the limit that was given; `seconds` is until its last byte."""

    status: int
    body: bytes
    seconds: float


def parse_url(url: str) -> Address:
    """Return the address in "http://…", "https://…" or "unix:///path/to/socket".

    Raises:
        ValueError: it is none of these. The text holds no credentials.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Its text quotes what it took for the port, which may be half of a password.
        raise _no_url(url) from None
    user = None if parts.username is None else unquote(parts.username)
    password = unquote(parts.password or "")
    if parts.scheme == "unix" and parts.path:
        return Address("unix", unquote(parts.path), 0, "/", user, password)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise _no_url(url)
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return Address(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme], target, user, password)


def _no_url(url: str) -> ValueError:
    return ValueError(f'{mask(url)!r} is not a URL; write "http://host:port/path"')


def mask(text: str) -> str:
    """Return `text` with the credentials and the queries of URLs in it hidden."""
    return _QUERY.sub("…", _CREDENTIALS.sub("***@", text))


def request(
    address: Address,
    *,
    timeout: float,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    limit: int = 1 << 20,
    tls_verify: bool = True,
) -> Response:
    """Send one request and return its answer.

    Args:
        timeout: seconds for everything together.
        headers: added to Host, User-Agent and, when the address has a user, Authorization.
        limit: bytes of the body that are read.
        tls_verify: whether the certificate must be valid for the host.

    Raises:
        RequestError: there was no answer.
    """
    began = time.monotonic()
    with wired(address, timeout, tls_verify=tls_verify) as wire:
        try:
            response = _exchange(wire, address, method, dict(headers or {}), body)
            return Response(response.status, _read(response, limit), time.monotonic() - began)
        except ValueError:
            # http.client refuses a header or a target with a line break; its text would quote it.
            raise RequestError("a header or the path holds characters that HTTP does not allow") from None


def reachable(host: str, port: int, *, timeout: float) -> None:
    """Connect over TCP, and close again.

    Raises:
        RequestError: nobody took the connection within `timeout` seconds.
    """
    with wired(Address("http", host, port, "/"), timeout):
        return


@contextlib.contextmanager
def wired(address: Address, timeout: float, *, tls_verify: bool = True) -> Iterator[Wire]:
    """Give a connection whose every use ends `timeout` seconds from now, and close it afterwards.

    Raises:
        RequestError: it could not be made, or what was done with it failed or was late.
    """
    deadline = time.monotonic() + timeout
    sock: socket.socket | None = None
    try:
        sock = _connect(address, deadline)
        if address.scheme == "https":
            sock = _secured(sock, address, deadline, tls_verify)
        yield Wire(sock, deadline)
    except TimeoutError:
        late = f"no whole answer within {timeout:g} s"
        raise RequestError(late) from None
    except OSError as error:
        raise _failed(error) from error
    finally:
        if sock is not None:
            sock.close()


def _connect(address: Address, deadline: float) -> socket.socket:
    if address.scheme == "unix":
        return _connected(socket.AF_UNIX, address.host, deadline)
    last: OSError | None = None
    for family, where in _resolve(address.host, address.port, deadline):
        try:
            return _connected(family, where, deadline)
        except TimeoutError:
            raise
        except OSError as error:
            last = error
    raise last or OSError(errno.EHOSTUNREACH, "no address")


def _connected(family: int, where: Any, deadline: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(_left(deadline))
        sock.connect(where)
    except BaseException:  # an interruption too must not leave it open
        sock.close()
        raise
    return sock


def _resolve(host: str, port: int, deadline: float) -> list[tuple[int, Any]]:
    """Return the socket addresses of a host. The resolver has no timeout, so it may be left behind in a thread."""
    found: list[tuple[int, Any]] = []
    failed: list[OSError] = []

    def look_up() -> None:
        try:
            for family, _, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found.append((family, where))
        except OSError as error:
            failed.append(error)
        except UnicodeError as error:
            failed.append(OSError(errno.EINVAL, str(error)))

    if host == "localhost" or not any(letter.isalpha() for letter in host) or ":" in host:
        look_up()  # answered without asking a name server
    else:
        thread = threading.Thread(target=look_up, daemon=True, name="rfs-resolve")
        thread.start()
        thread.join(_left(deadline))
        if thread.is_alive():
            raise TimeoutError
    if failed:
        raise failed[0]
    return found


def _secured(sock: socket.socket, address: Address, deadline: float, verify: bool) -> socket.socket:
    import ssl  # with http.client below, 20 ms of start-up that few calls need

    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    sock.settimeout(_left(deadline))
    return context.wrap_socket(sock, server_hostname=address.host)


def _exchange(wire: Wire, address: Address, method: str, headers: dict[str, str], body: bytes | None) -> HTTPResponse:
    import http.client

    host = "localhost" if address.scheme == "unix" else address.host
    connection = http.client.HTTPConnection(host, address.port or None)
    connection.sock = wire
    given = {name.lower() for name in headers}
    defaults = {"User-Agent": "rfs", "Connection": "close", "Accept-Encoding": "identity"}
    if address.user is not None:
        defaults["Authorization"] = authorization(address)
    sent = {name: value for name, value in defaults.items() if name.lower() not in given} | headers
    try:
        connection.request(method, address.target, body=body, headers=sent)
        return connection.getresponse()
    except http.client.HTTPException as error:
        raise _broken(error) from error


def _read(response: HTTPResponse, limit: int) -> bytes:
    import http.client

    try:
        body = response.read(limit)
        # With a limit, http.client takes an early end for the end.
        if response.length and len(body) < limit:
            raise http.client.IncompleteRead(b"", response.length)
    except http.client.HTTPException as error:
        raise _broken(error) from error
    return body


def _broken(error: Exception) -> RequestError:
    # Never the exception's own text: it may quote what the server sent.
    return RequestError(f"what it answered is no whole HTTP response ({type(error).__name__})")


def _failed(error: OSError) -> RequestError:
    absent = error.errno in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTDIR)
    if error.errno == errno.ECONNREFUSED:
        return RequestError("connection refused", absent=absent)
    why = error.strerror or str(error) or type(error).__name__
    return RequestError(why[:1].lower() + why[1:], absent=absent)


def authorization(address: Address) -> str:
    """Return the value of the Authorization header for the address's user and password."""
    from base64 import b64encode  # only who logs in needs it

    return "Basic " + b64encode(f"{address.user}:{address.password}".encode()).decode()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class Wire:
    """As much of a socket as http.client uses, with the time left set before each call.

    Args: sock: connected. deadline: on the monotonic clock.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        """Send all of it. Raises OSError; TimeoutError after the deadline."""
        self._sock.settimeout(_left(self._deadline))
        # Who refuses a request may answer and close before the whole of it was sent; reading tells.
        with contextlib.suppress(BrokenPipeError):
            self._sock.sendall(data)

    def makefile(self, mode: str = "rb") -> io.BufferedReader:
        """Return what reads from it; a read after the deadline raises TimeoutError."""
        return io.BufferedReader(_Reader(self._sock, self._deadline))

    def close(self) -> None:
        """http.client closes before it has read the body; `wired` closes the socket itself."""


class _Reader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_left(self._deadline))
        return self._sock.recv_into(buffer)
