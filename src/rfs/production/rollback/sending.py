"""One message to one endpoint, once: a webhook, or what Apprise knows. Errors tell of no address and no secret."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.http_request import RequestError, parse_url, request
from rfs.production.rollback.notifications import NotifyTable
from rfs.production.rollback.secret import resolve_secret

_SENT = range(200, 300)


class NotSentError(Exception):
    """It was not sent; the text is a phrase that says why."""


def send(table: NotifyTable, body: bytes, message: dict[str, Any], home: str, *, at_most: float | None = None) -> None:
    """Send a message.

    Args:
        body: what a webhook is sent: `message` as JSON.
        home: the folder of rfs.toml, for what its secrets name.
        at_most: seconds, where there are fewer than the table's timeout.

    Raises:
        NotSentError: it was not sent, or nobody knows whether it was.
    """
    seconds = parse_duration(table.timeout)
    seconds = seconds if at_most is None else min(seconds, at_most)
    try:
        address = resolve_secret(table.webhook or table.url, home)
        secret = resolve_secret(table.secret, home) if table.secret else ""
    except RollbackError as error:
        why = str(error).rstrip(".")
        raise NotSentError(why) from error
    if table.webhook:
        _post(address, secret, body, message, seconds)
    else:
        _with_apprise(address, message, seconds)


def shown(table: NotifyTable) -> str:
    """Return an endpoint as any eye may see it: a path may hold a token, and so may all of Apprise's addresses."""
    written = table.webhook or table.url
    scheme, mark, rest = written.partition("://")
    kind = "webhook" if table.webhook else "url"
    if not mark:
        source, colon, name = written.partition(":")
        return f"{kind} {written}" if colon and source in ("env", "file") and name else f"{kind} …"
    host = rest.partition("/")[0].rpartition("@")[2].partition("?")[0]
    return f"{kind} {scheme}://{host}/…" if table.webhook else f"{kind} {scheme}://…"


def signature(secret: str, stamp: str, body: bytes) -> str:
    """Return the value of X-Rfs-Signature-256: of the time stamp, a full stop and the body."""
    import hmac  # only a webhook with a secret needs it

    return "sha256=" + hmac.new(secret.encode(), f"{stamp}.".encode() + body, "sha256").hexdigest()


def _post(address: str, secret: str, body: bytes, message: dict[str, Any], seconds: float) -> None:
    try:
        url = parse_url(address)
    except ValueError:
        why = "its webhook is no URL"
        raise NotSentError(why) from None
    stamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "X-Rfs-Id": str(message["id"]),
        "X-Rfs-Event": str(message["event"]),
        "X-Rfs-Timestamp": stamp,
    }
    if secret:
        headers["X-Rfs-Signature-256"] = signature(secret, stamp, body)
    try:
        answer = request(url, timeout=seconds, method="POST", headers=headers, body=body, limit=1 << 16)
    except RequestError as error:
        raise NotSentError(str(error)) from error
    if answer.status not in _SENT:
        why = f"it answered {answer.status}"
        raise NotSentError(why)


def _with_apprise(address: str, message: dict[str, Any], seconds: float) -> None:
    said: list[str] = []
    # Its timeouts are those of single reads; one that takes too long is left behind.
    thread = threading.Thread(
        target=lambda: said.append(_asked_of_apprise(address, message)), daemon=True, name="rfs-notify"
    )
    thread.start()
    thread.join(seconds)
    why = said[0] if said else f"no whole answer within {seconds:g} s"
    if why:
        raise NotSentError(why)


def _asked_of_apprise(address: str, message: dict[str, Any]) -> str:
    """Have Apprise send a message; return why it was not sent, or ""."""
    try:
        import apprise
    except ImportError:
        return "Apprise is missing: pip install 'rfs-rollback[notify]'"
    # What it logs may hold the address; nobody is listening who needs it.
    logging.getLogger("apprise").disabled = True
    try:
        sender = apprise.Apprise()
        if not sender.add(address):
            return "Apprise does not know such a URL"
        sent = sender.notify(title=message["title"], body=message["text"] or message["title"])
    except Exception as error:  # one of very many plug-ins: whatever it was, it was not sent
        return f"Apprise failed ({type(error).__name__})"
    return "" if sent else "the service did not take it"
