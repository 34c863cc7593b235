"""Calls to supervisord over its XML-RPC interface, each with a deadline."""

from __future__ import annotations

from typing import Any

import msgspec

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.http_request import Address, RequestError, request

CALL_SECONDS = 10.0
_LARGEST_ANSWER = 64 << 20

# Fault codes of supervisord.
UNKNOWN_METHOD, SHUTDOWN_STATE, BAD_NAME = 1, 6, 10
ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED = 60, 70, 90


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

    def call(self, method: str, *arguments: Any, timeout: float = CALL_SECONDS) -> Any:
        """Return what `supervisor.METHOD(*arguments)` returns.

        Args:
            timeout: seconds; at most CALL_SECONDS are waited.

        Raises:
            RefusedError: supervisord refused.
            AbsentError: nobody listens.
            RollbackError: service.unreachable, somebody listens but there was no good answer.
        """
        # These import http.client, email and an XML parser: 30 ms that most commands do not need.
        import xmlrpc.client
        from xml.parsers.expat import ExpatError

        try:
            response = request(
                self.address,
                timeout=max(0.05, min(timeout, CALL_SECONDS)),
                method="POST",
                headers={"Content-Type": "text/xml"},
                body=xmlrpc.client.dumps(arguments, f"supervisor.{method}").encode(),
                limit=_LARGEST_ANSWER,
            )
        except RequestError as error:
            if error.absent:
                raise AbsentError(str(error)) from error
            raise self.unreachable(str(error)) from error
        if response.status != 200:
            why = {401: "it asks for a user and a password, or others than these"}.get(response.status, "")
            raise self.unreachable(why or f"it answered with status {response.status}")
        try:
            (value,), _ = xmlrpc.client.loads(response.body, use_builtin_types=True)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == SHUTDOWN_STATE:
                raise self.unreachable("it is shutting down") from fault
            if fault.faultCode == UNKNOWN_METHOD:
                why = f"it does not know the method {method}"
                raise self.unreachable(why) from fault
            raise RefusedError(fault.faultCode, fault.faultString) from fault
        except (ExpatError, xmlrpc.client.Error, ValueError, TypeError) as error:
            raise self.unreachable("what answers there is not supervisor") from error
        return value

    def unreachable(self, why: str) -> RollbackError:
        """Return the error that says so."""
        return RollbackError(
            "service.unreachable", manager="supervisor", component=self._component, where=self.address, why=why
        )
