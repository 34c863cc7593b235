"""`[[notify]]`: who is told of what, in which words, and when it is tried again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec

from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.settings import Settings, Source

SCHEMA = "rfs.notification/1"
Event = Literal["rollback", "held", "refused", "alert", "approval", "checkpoint", "deployment"]
USUAL: tuple[Event, ...] = ("rollback", "held", "refused", "alert", "approval")

PAUSED = "paused"
"""The status that a gradual rollback is told with that waits for a person."""
_FIRST_PAUSE = 10.0
_LONGEST_PAUSE = 3600.0


class NotifyTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[notify]]` table: somebody who is told. Exactly one of `url` and `webhook`.

    Attributes:
        url: of a chat, a pager or a mail account, as Apprise takes it; may be a secret: "env:SLACK_URL".
        webhook: an http(s) address that is sent JSON by POST; may be a secret.
        secret: of a webhook: what its body is signed with; "env:NAME", "file:PATH" or "cmd:PROGRAM".
        on: of what it is told: "rollback", "held", "refused" (a scheduled rollback that is not made), "alert",
            "approval" (asked for, given or refused), "checkpoint", "deployment".
        name: how it is listed, and known again when its address changes.
        timeout: for one attempt.
        give_up: how long it is tried; then it is a dead letter, which `rfs notify retry` tries again.
    """

    url: str = ""
    webhook: str = ""
    secret: str = ""
    on: tuple[Event, ...] = USUAL
    name: str = ""
    timeout: Duration = "10s"
    give_up: Duration = "2d"

    def __post_init__(self) -> None:
        if bool(self.url) == bool(self.webhook):
            raise ValueError("it takes exactly one of url and webhook")
        if self.secret and not self.webhook:
            raise ValueError("secret belongs to a webhook")
        if not self.on:
            why = f"on takes at least one of {', '.join(get_args(Event))}"
            raise ValueError(why)
        for key in ("timeout", "give_up"):
            if parse_duration(getattr(self, key)) == 0:
                why = f"{key} must be longer than nothing"
                raise ValueError(why)

    @property
    def key(self) -> str:
        """What it is known by in the store: nothing of a secret can be read from it."""
        if self.name:
            return self.name
        from hashlib import sha256  # loads OpenSSL, which looking does not need

        return sha256((self.url or self.webhook).encode()).hexdigest()[:12]


def parse_notify(settings: Settings) -> list[NotifyTable]:
    """Return what `[[notify]]` describes.

    Raises:
        UsageError: a key is unknown, a value is not usable, or two are the same.
    """
    source = Source(settings.path)
    found = [source.convert(table, NotifyTable, ("notify", number)) for number, table in enumerate(settings.notify)]
    for number, table in enumerate(found):
        if table.key in (other.key for other in found[:number]):
            source.bad(("notify", number), "it is there twice; give each its own name")
    return found


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened.

    Attributes:
        event_id: by which whoever is told twice knows it.
        subject: the id of what it is about, or "".
        status: of that, at the time.
        text: of an alert, what there is to say.
    """

    number: int
    event_id: str
    at: datetime
    event: str
    subject: str = ""
    status: str = ""
    text: str = ""


def message(happened: Happened, facts: Mapping[str, Any], *, app: str, host: str) -> dict[str, Any]:
    """Return what is sent.

    Args:
        facts: of what it is about, JSON-like.
    """
    return {
        "schema": SCHEMA,
        "id": happened.event_id,
        "event": happened.event,
        "at": happened.at.isoformat(),
        "app": app,
        "host": host,
        "title": _title(happened, facts, app),
        "text": _text(happened, facts),
        "subject": happened.subject or None,
        "status": happened.status or None,
        "facts": dict(facts),
    }


def _title(happened: Happened, facts: Mapping[str, Any], app: str) -> str:
    kind = str(facts.get("kind", "rollback")).capitalize()
    titles = {
        "rollback": f"{kind} {happened.status}",
        "held": "Gradual rollback paused" if happened.status == PAUSED else f"{kind} HELD: it needs attention",
        "refused": "Scheduled rollback not made",
        "alert": "Alert",
        "approval": f"Approval {happened.status}",
        "checkpoint": "Checkpoint taken",
        "deployment": f"Deployment {happened.status}",
        "test": "Test",
    }
    return f"{app}: {titles.get(happened.event, happened.event)}"


def _text(happened: Happened, facts: Mapping[str, Any]) -> str:
    """Return what is told, a line each."""
    if happened.text:
        return happened.text
    words = {
        "to": facts.get("checkpoint"),
        "version": facts.get("version"),
        "reason": facts.get("reason"),
        "message": facts.get("message"),
        "why": facts.get("error"),
        "by": facts.get("actor"),
        "id": happened.subject,
    }
    return "\n".join(f"{name}: {value}" for name, value in words.items() if value)


def pause(attempts: int) -> float:
    """Return the seconds until it is tried again after so many attempts."""
    return min(_FIRST_PAUSE * 2.0 ** min(attempts - 1, 20), _LONGEST_PAUSE)
