"""The outbox is emptied: what happened is put into words for whoever wants to know, sent, and tried again.

At least once: whoever is killed between the answer of an endpoint and its record sends the same message again, with the
same id. Nothing here delays or fails what is told of: it is done by a thread of the daemon, or when a command is over.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from typing import Any

import msgspec

from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import LockedError, NotFoundError, RollbackError
from rfs.production.rollback.lock import exclusive, holder
from rfs.production.rollback.model import new_id, utc_now
from rfs.production.rollback.notifications import Happened, NotifyTable, message, parse_notify, pause
from rfs.production.rollback.operation import DEPLOYMENT, EDIT
from rfs.production.rollback.outbox_table import Delivery
from rfs.production.rollback.scheduled import lock_path
from rfs.production.rollback.sending import NotSentError, send
from rfs.production.rollback.settings import Settings

MOST_WAITING = 1000
# Entries of the log that are no rollbacks: a deployment that stays has an event of its own.
_TOLD_OTHERWISE = frozenset({DEPLOYMENT, EDIT})
_SHORTLY_SECONDS = 3.0
_LOOK_SECONDS = 5.0


class Outbox:
    """Args: settings: of the application. catalog: of its store."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self.tables = parse_notify(settings)

    def meet(self) -> None:
        """Make the endpoints known: what happens from now on is told to them."""
        self._catalog.meet(table.key for table in self.tables)

    def collect(self) -> None:
        """Put what happened into words, for each endpoint that wants to know."""
        for table in self.tables:
            happened = self._catalog.happened(table.key)
            if not happened:
                continue
            wanted = [each for each in happened if each.event in table.on]
            told = [(each, self._facts(each)) for each in wanted]
            bodies = [self._body(*each) for each in told if each[1].get("kind") not in _TOLD_OTHERWISE]
            self._catalog.post(table.key, happened[-1].number, bodies, MOST_WAITING)

    def deliver(self, *, seconds: float | None = None, stopped: threading.Event | None = None) -> int:
        """Send what is due; of each endpoint until the first attempt that fails. Returns how many were sent.

        Args:
            seconds: in all; without it each attempt takes as long as its table says.
            stopped: set when nothing more is to be begun.
        """
        until = None if seconds is None else time.monotonic() + seconds
        sent = 0
        for table in self.tables:
            for delivery in self._catalog.deliveries(table.key):
                if delivery.dead or (delivery.due > utc_now() and not self._clock_went_back(delivery)):
                    continue
                left = None if until is None else until - time.monotonic()
                if (left is not None and left <= 0) or (stopped is not None and stopped.is_set()):
                    return sent
                if not self.attempt(table, delivery, at_most=left):
                    break
                sent += 1
        return sent

    def attempt(self, table: NotifyTable, delivery: Delivery, *, at_most: float | None = None) -> bool:
        """Send one message, and write down what came of it; tell whether it was sent."""
        try:
            send(table, delivery.body, delivery.message, self._settings.home, at_most=at_most)
        except NotSentError as error:
            now = utc_now()
            dead = now - delivery.since >= timedelta(seconds=parse_duration(table.give_up))
            due = now + timedelta(seconds=pause(delivery.attempts + 1))
            self._catalog.failed(delivery, str(error), due, dead=dead)
            return False
        self._catalog.delivered(delivery)
        return True

    @staticmethod
    def _clock_went_back(delivery: Delivery) -> bool:
        return delivery.due - utc_now() > timedelta(seconds=2 * pause(delivery.attempts + 1))

    def test(self, table: NotifyTable) -> str:
        """Send a test message now; return why that failed, or ""."""
        text = "This is a test: rfs can tell you what happens."
        tested = Happened(number=0, event_id=new_id(), at=utc_now(), event="test", text=text)
        told = self._told(tested, {})
        try:
            send(table, msgspec.json.encode(told), told, self._settings.home)
        except NotSentError as error:
            return str(error)
        return ""

    def _body(self, happened: Happened, facts: Mapping[str, Any]) -> bytes:
        return msgspec.json.encode(self._told(happened, facts))

    def _told(self, happened: Happened, facts: Mapping[str, Any]) -> dict[str, Any]:
        return message(happened, facts, app=self._settings.name, host=os.uname().nodename)

    def _facts(self, happened: Happened) -> dict[str, Any]:
        with suppress(NotFoundError):  # it was pruned meanwhile
            return self._facts_of(happened)
        return {}

    def _facts_of(self, happened: Happened) -> dict[str, Any]:
        catalog, subject = self._catalog, happened.subject
        if happened.event in ("rollback", "held"):
            operation = catalog.operation(subject)
            return {
                "kind": operation.kind,
                "checkpoint": operation.plan.target,
                "strategy": str(operation.strategy),
                "components": list(operation.plan.components),
                "reason": operation.reason,
                "actor": operation.actor,
                "error": operation.error,
                "outage": operation.outage,
                "warnings": list(operation.warnings),
            }
        if happened.event == "checkpoint":
            checkpoint = catalog.checkpoint(subject)
            facts = {"type": str(checkpoint.type), "message": checkpoint.message, "version": checkpoint.version}
            return {"checkpoint": subject, **facts, "components": list(checkpoint.captures)}
        if happened.event == "deployment":
            found = catalog.deployment(subject)
            facts = {"kind": found.kind, "checkpoint": found.checkpoint_id, "version": found.version}
            return {**facts, "error": found.why or None, "actor": found.actor}
        if happened.event == "refused":
            later = next((each for each in catalog.deferred() if each.rollback_id == subject), None)
            if later is not None:
                facts = {"checkpoint": later.target, "strategy": str(later.strategy), "reason": later.reason}
                return {**facts, "error": later.why, "actor": later.actor}
        return {}


def outbox_lock(settings: Settings) -> str:
    """Return the path of the lock of whoever empties the outbox."""
    return os.path.join(settings.store.path, "outbox.lock")


def shortly(settings: Settings) -> None:
    """Try, for a few seconds, to send what is due, unless the daemon does; what cannot be sent stays for later.

    Raises:
        RollbackError: the catalog cannot be used.
    """
    if holder(lock_path(settings)):
        return
    with suppress(LockedError), _held(settings) as catalog:
        outbox = Outbox(settings, catalog)
        outbox.collect()
        outbox.deliver(seconds=_SHORTLY_SECONDS)


@contextmanager
def _held(settings: Settings) -> Iterator[Catalog]:
    """Be the only one who empties the outbox; yields the catalog, opened for this thread."""
    with exclusive(outbox_lock(settings), "notifications"), closing(_catalog(settings)) as catalog:
        yield catalog


def _catalog(settings: Settings) -> Catalog:
    return Catalog(os.path.join(settings.store.path, "catalog.db"))


class Postman:
    """A thread of the daemon that empties the outbox, so that no endpoint keeps it from its work."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def turn(self, *, once: bool) -> None:
        """Have sent what is due, by the thread, which is started when there is somebody to tell; with `once`, here."""
        if self.settings is None or not self.settings.notify:
            return
        if once:
            self._empty()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rfs-postman", daemon=True)
            self._thread.start()
        self._woken.set()

    def alert(self, text: str) -> None:
        """Write down something that people are to be told, as far as that can be done."""
        if self.settings is None or not self.settings.notify:
            return
        # It is told on the daemon's output in any case.
        with suppress(RollbackError), closing(_catalog(self.settings)) as catalog:
            catalog.tell("alert", text)

    def close(self) -> None:
        """End soon: an attempt that is being made is not waited for any longer than a few seconds."""
        self._stopped.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(_SHORTLY_SECONDS)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._empty()
            self._woken.wait(_LOOK_SECONDS)
            self._woken.clear()

    def _empty(self) -> None:
        settings = self.settings
        if settings is None or not settings.notify:
            return
        # A catalog that cannot be used now can be later, and the daemon's own turn says what is wrong with it.
        with suppress(RollbackError), _held(settings) as catalog:
            outbox = Outbox(settings, catalog)
            outbox.meet()
            outbox.collect()
            outbox.deliver(stopped=self._stopped)
