"""Calls to supervisord over its XML-RPC interface, each with a deadline.

The little of XML-RPC that supervisord speaks is written here, over HTTP/1.0: the standard
library's client costs every `rfs status` 20 ms of start-up for http.client and email, which
is a fifth of what `rfs status` may take, and its transports know no deadline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from xml.parsers.expat import ExpatError, ParserCreate

import msgspec

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.http_request import Address, RequestError, authorization, wired

CALL_SECONDS = 10.0
_LARGEST_ANSWER = 64 << 20

# Fault codes of supervisord.
UNKNOWN_METHOD, SHUTDOWN_STATE, BAD_NAME = 1, 6, 10
SPAWN_ERROR, ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED = 50, 60, 70, 90

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class RefusedError(Exception):
    """supervisord answered that it will not. `code` is one of its fault codes."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class AbsentError(Exception):
    """No supervisord listens there."""


class Rpc:
    """Args: address: of supervisord's server. component: for the errors' texts."""

    def __init__(self, address: Address, component: str) -> None:
        self.address = msgspec.structs.replace(address, target="/RPC2")
        self._component = component

    @property
    def local(self) -> bool:
        """Whether supervisord runs on this machine, so that its process ids mean something here."""
        return self.address.scheme == "unix" or self.address.host in ("localhost", "127.0.0.1", "::1")

    def call(self, method: str, *arguments: str | bool, timeout: float = CALL_SECONDS) -> Any:
        """Return what `supervisor.METHOD(*arguments)` returns.

        Args:
            timeout: seconds; at most CALL_SECONDS are waited.

        Raises:
            RefusedError: supervisord refused.
            AbsentError: nobody listens.
            RollbackError: service.unreachable, somebody listens but there was no good answer.
        """
        try:
            status, body = self._post(encode(method, arguments), min(timeout, CALL_SECONDS))
            if status == 200:
                return decode(body)
        except RequestError as error:
            if error.absent:
                raise AbsentError(str(error)) from error
            raise self.unreachable(str(error)) from error
        except ValueError as error:
            raise self.unreachable("what answers there is not supervisor") from error
        except RefusedError as error:
            if error.code == SHUTDOWN_STATE:
                raise self.unreachable("it is shutting down") from error
            if error.code == UNKNOWN_METHOD:
                why = f"it does not know the method {method}"
                raise self.unreachable(why) from error
            raise
        if status == 401:
            raise self.unreachable("it asks for a user and a password, or others than these")
        why = f"it answered with status {status}"
        raise self.unreachable(why)

    def _post(self, body: bytes, timeout: float) -> tuple[int, bytes]:
        lines = ["POST /RPC2 HTTP/1.0", f"Host: {self.address.host if self.address.port else 'localhost'}"]
        lines += ["Content-Type: text/xml", f"Content-Length: {len(body)}"]
        if self.address.user is not None:
            lines.append(f"Authorization: {authorization(self.address)}")
        with wired(self.address, timeout) as wire:
            wire.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            answer = wire.makefile().read(_LARGEST_ANSWER)
        head, _, content = answer.partition(b"\r\n\r\n")
        status, length = _STATUS_LINE.match(head), _LENGTH.search(head)
        if status is None or (length is not None and len(content) < int(length[1])):
            raise RequestError("its answer broke off")
        return int(status[1]), content

    def unreachable(self, why: str) -> RollbackError:
        """Return the error that says so."""
        return RollbackError(
            "service.unreachable", manager="supervisor", component=self._component, where=self.address, why=why
        )


def encode(method: str, arguments: Sequence[str | bool]) -> bytes:
    """Return the body of a call of `supervisor.METHOD`."""
    params = "".join(f"<param><value>{_encoded(each)}</value></param>" for each in arguments)
    return f"<methodCall><methodName>supervisor.{method}</methodName><params>{params}</params></methodCall>".encode()


def _encoded(value: str | bool) -> str:
    if isinstance(value, bool):
        return f"<boolean>{int(value)}</boolean>"
    text = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<string>{text}</string>"


def decode(body: bytes) -> Any:
    """Return the value that the body of an answer holds.

    Raises:
        RefusedError: it holds a fault.
        ValueError: it is no such answer.
    """
    decoder = _Decoder()
    try:
        decoder.parser.Parse(body, True)
    except (ExpatError, IndexError) as error:
        raise ValueError("no XML-RPC") from error
    if len(decoder.values) != 1:
        raise ValueError("no XML-RPC answer")
    (value,) = decoder.values
    if decoder.is_fault:
        raise RefusedError(int(value["faultCode"]), str(value["faultString"]))
    return value


class _Decoder:
    """Builds values bottom up: `values` is a stack, `marks` says where each open array or struct began on it."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.is_fault = False
        self._marks: list[int] = []
        self._text: list[str] = []
        self._bare = False
        self.parser = ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append
        self.parser.StartDoctypeDeclHandler = self._refuse

    def _refuse(self, *_: object) -> None:
        raise ValueError("XML-RPC has no document type, and its entities could be made to grow without end")

    def _start(self, tag: str, _: object) -> None:
        if tag in ("array", "struct"):
            self._marks.append(len(self.values))
        self._text.clear()
        self._bare = tag == "value"

    def _end(self, tag: str) -> None:
        text = "".join(self._text)
        if tag in ("int", "i4"):
            self.values.append(int(text))
        elif tag == "boolean":
            self.values.append(text.strip() == "1")
        elif tag in ("string", "name") or (tag == "value" and self._bare):
            self.values.append(text)
        elif tag == "array":
            self._gather(list)
        elif tag == "struct":
            self._gather(lambda items: dict(zip(items[::2], items[1::2], strict=True)))
        elif tag == "fault":
            self.is_fault = True
        elif tag not in ("value", "data", "member", "param", "params", "methodResponse"):
            why = f"{tag} is nothing that supervisord sends"
            raise ValueError(why)
        self._bare = False

    def _gather(self, build: Callable[[list[Any]], Any]) -> None:
        mark = self._marks.pop()
        self.values[mark:] = [build(self.values[mark:])]
