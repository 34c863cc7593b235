"""From what was done to what the audit log says of it: the debts that acts left in the catalog, paid.

Each is looked up when it is paid, so that an act that was only announced, by a process that was killed just before it,
leaves no entry.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, suppress
from typing import TypeVar

import msgspec

from rfs.production.rollback.approvals import ApprovalRequest
from rfs.production.rollback.audit import Fact
from rfs.production.rollback.auditing import AuditLog
from rfs.production.rollback.catalog import FREEZES, Catalog
from rfs.production.rollback.errors import NotFoundError
from rfs.production.rollback.freezing import Freeze
from rfs.production.rollback.governance import REQUESTS
from rfs.production.rollback.gradual import NOTE, Gradual
from rfs.production.rollback.ledger import OWED, Ledger
from rfs.production.rollback.model import DeploymentCheckpoint, OperationStatus, storable
from rfs.production.rollback.operation import Mark, Operation
from rfs.production.rollback.operationlog import OPERATIONS, SmallOperation
from rfs.production.rollback.store import Store

_LONGEST = 2000

T = TypeVar("T")


class Bookkeeper:
    """Args: catalog, store: of the application. log: its audit log. who: whoever made the debts; "" where unknown."""

    def __init__(self, catalog: Catalog, store: Store, log: AuditLog, who: Callable[[], str]) -> None:
        self._catalog = catalog
        self._store = store
        self._log = log
        self._who = who

    def keep(self) -> None:
        """Write down what is owed; to be called with the application's lock held.

        Raises:
            OSError: the log cannot be written.
            RollbackError: what it is about cannot be read, or the catalog not be written.
        """
        owed = self._catalog.owed()
        small = self._small()
        if not owed and not small:
            return
        who = self._who()
        facts = [fact for key, when in owed if (fact := self._fact(key, when, who)) is not None]
        facts += [_of_small(each, who) for each in small.values() if each is not None]
        reach = self._log.append(sorted(facts, key=lambda fact: fact.when))
        if small:
            self._ledger(lambda ledger: ledger.paid(small))
        self._catalog.paid([key for key, _ in owed], msgspec.json.encode(reach).decode())

    def _fact(self, key: str, when: str, who: str) -> Fact | None:
        kind, subject, word = key.split(" ", 2)
        word = word.partition(".")[0]
        of = {
            "checkpoint": self._of_checkpoint,
            "operation": self._of_operation,
            "deployment": self._of_deployment,
            "deferred": self._of_deferred,
            "request": self._of_request,
            "freeze": self._of_freeze,
            "gradual": self._of_gradual,
        }[kind]
        try:
            fact = of(subject, word, key)
        except NotFoundError:
            return None
        if fact is None:
            return None
        # Who voted or declared a freeze is known as the kernel knew them; of the rest that is so while they are there.
        known = fact.who or who if kind in ("request", "freeze") else who or fact.who
        return msgspec.structs.replace(fact, key=key, when=when, who=known, subject=subject)

    def _of_checkpoint(self, subject: str, word: str, key: str) -> Fact | None:
        found: DeploymentCheckpoint | None = None
        with suppress(NotFoundError):  # it may have been removed since, which has an entry of its own
            found = self._catalog.checkpoint(subject)
        detail = {}
        if found is not None:
            detail = {
                "type": str(found.type),
                "message": found.message,
                "tags": ", ".join(found.tags),
                "pinned": "yes" if found.pinned else "",
                "version": found.version,
                "deployment": found.deployment_id,
                "operation": found.operation_id or "",
            }
        return _fact("checkpoint", word, detail)

    def _of_operation(self, subject: str, word: str, key: str) -> Fact:
        operation = self._catalog.operation(subject)
        what = f"automatic {operation.kind}" if operation.automatic else operation.kind
        if word == "break-glass":
            return _fact(word, "used", {"kind": operation.kind, "reason": operation.reason}, operation.actor)
        if word == "begun":
            return _fact(what, word, _asked(operation), operation.actor)
        if word == "running":
            notes = [entry.note for entry in self._catalog.journal(subject) if entry.mark is Mark.RESUMED]
            return _fact(what, "carried on", {"note": notes[-1] if notes else ""})
        return _fact(what, word, {"error": operation.error or "", "warnings": " ".join(operation.warnings)})

    def _of_deployment(self, subject: str, word: str, key: str) -> Fact:
        found = self._catalog.deployment(subject)
        detail = {
            "version": found.version,
            "deployment": found.deployment_id,
            "checkpoint": found.checkpoint_id,
            "rollback": found.rollback_id or "",
            "why": found.why,
            "deadline": found.deadline.isoformat() if found.deadline is not None else "",
            "break_glass": found.break_glass,
        }
        return _fact(
            "deployment" if found.kind == "guard" else "confirmation", word, detail, _begun_by(word, found.actor)
        )

    def _of_deferred(self, subject: str, word: str, key: str) -> Fact | None:
        found = next((each for each in self._catalog.deferred() if each.rollback_id == subject), None)
        if found is None:
            return None
        detail = {
            "target": found.target,
            "reason": found.reason,
            "at": found.at.isoformat() if found.at is not None else "",
            "condition": found.condition,
            "rule": found.rule,
            "request": found.request or "",
            "operation": found.operation_id or "",
            "why": found.why,
        }
        begins = word in (OperationStatus.SCHEDULED, OperationStatus.ARMED)
        return _fact("later rollback", word, detail, found.actor if begins else "")

    def _of_request(self, subject: str, word: str, key: str) -> Fact | None:
        body = self._ledger(lambda ledger: ledger.find(REQUESTS, subject))
        if body is None:
            return None
        request = msgspec.json.decode(body, type=ApprovalRequest)
        detail = {"kind": request.kind, "target": request.target, "hash": request.hash}
        if word == "asked":
            return _fact("approval", word, {**detail, "reason": request.reason}, request.asked_by)
        number = int(key.rpartition(".")[2])
        if number >= len(request.votes):
            return None
        vote = request.votes[number]
        return _fact(
            "approval", "approved" if vote.approves else "rejected", {**detail, "reason": vote.reason}, vote.by
        )

    def _of_freeze(self, subject: str, word: str, key: str) -> Fact | None:
        noted = self._catalog.noted(FREEZES)
        freezes = msgspec.json.decode(noted, type=list[Freeze]) if noted is not None else []
        found = next((each for each in freezes if each.freeze_id == subject), None)
        if found is None or (word == "lifted" and found.lifted_at is None):
            return None
        if word == "lifted":
            return _fact("freeze", word, {"reason": found.lifted_why}, found.lifted_by)
        until = found.until.isoformat() if found.until is not None else ""
        return _fact("freeze", word, {"reason": found.reason, "until": until}, found.by)

    def _of_gradual(self, subject: str, word: str, key: str) -> Fact | None:
        noted = self._catalog.noted(NOTE)
        found = msgspec.json.decode(noted, type=Gradual) if noted is not None else None
        if found is None or found.gradual_id != subject:
            return None
        detail = {"target": found.target, "reason": found.reason}
        if word != "begun":
            where = ", ".join(f"{instance}: {version}" for instance, version in found.where().items())
            detail |= {"where": where, "why": found.why}
        return _fact("gradual rollback", word, detail, found.actor if word == "begun" else "")

    def _small(self) -> dict[str, SmallOperation | None]:
        """Return the operations without a plan that the log has not, by name; None for one that was pruned since."""

        def found(ledger: Ledger) -> dict[str, SmallOperation | None]:
            bodies = {name: ledger.find(OPERATIONS, name) for name in ledger.names(OWED, "")}
            return {
                name: msgspec.json.decode(body, type=SmallOperation) if body is not None else None
                for name, body in bodies.items()
            }

        return self._ledger(found) or {}

    def _ledger(self, look: Callable[[Ledger], T]) -> T | None:
        if not os.path.exists(os.path.join(self._store.path, "ledger.db")):
            return None
        with closing(Ledger(self._store)) as ledger:
            return look(ledger)


def _fact(what: str, outcome: str, detail: dict[str, str], who: str = "") -> Fact:
    said = {name: storable(text)[:_LONGEST] for name, text in detail.items() if text}
    return Fact(key="", when="", who=storable(who), what=what, outcome=outcome, detail=said)


def _begun_by(word: str, actor: str) -> str:
    return actor if word == "begun" else ""


def _asked(operation: Operation) -> dict[str, str]:
    return {
        "target": operation.destination,
        "components": ", ".join(operation.plan.components),
        "reason": operation.reason,
        "request": operation.request or "",
        "undoes": operation.undoes or "",
        "plan": operation.plan.hash,
        "safety": operation.safety,
    }


def _of_small(operation: SmallOperation, who: str) -> Fact:
    detail = {"component": operation.component, "what": operation.what, "reason": operation.reason}
    fact = _fact(operation.kind, "completed", {**detail, "undoes": operation.undoes or ""}, who or operation.actor)
    when = operation.created_at.isoformat()
    return msgspec.structs.replace(
        fact, key=f"small {operation.operation_id}", when=when, subject=operation.operation_id
    )
