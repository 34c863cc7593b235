"""What the policy asks of people, kept in the store: requests for approval and their votes, and freezes.

What is decided, and what the words mean, stands in approvals.py and freezing.py; here it is read and written. Requests
are in the ledger, declared freezes in the catalog, where `rfs status` finds them without opening another file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NoReturn

import msgspec

from rfs.production.rollback.approvals import (
    ApprovalRequest,
    ApprovalsTable,
    Stands,
    Vote,
    binding,
    changed,
    lean,
    newest_waiting,
    refusal,
    stands,
    told,
)
from rfs.production.rollback.catalog import FREEZES, Catalog
from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import (
    ApprovalNeededError,
    ConflictError,
    FrozenError,
    NotFoundError,
    UsageError,
)
from rfs.production.rollback.freezing import Freeze, FreezeTable, InForce, in_force
from rfs.production.rollback.identity import person
from rfs.production.rollback.ledger import Ledger, Put
from rfs.production.rollback.model import Consent, Downgrade, new_id, storable, utc_now
from rfs.production.rollback.plan import Plan
from rfs.production.rollback.settings import Settings, Source
from rfs.production.rollback.store import Store

REQUESTS = "requests"
# Requests expire, so that those further back are of interest to nobody but the audit log.
_LOOKED_BACK = 200
_FREEZES_KEPT = 200


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to do.

    Attributes:
        kind: of the operation.
        target: where it goes, in a word or two.
        plan, downgrade: one of the two.
        undoes: the operation that it takes back.
    """

    kind: str
    target: str
    components: tuple[str, ...]
    reason: str = ""
    plan: Plan | None = None
    downgrade: Downgrade | None = None
    undoes: str | None = None

    @property
    def hash(self) -> str:
        return binding(self.kind, self.plan, self.downgrade, self.undoes)


class Governance:
    """Args: settings, catalog, store: of the application. The ledger is not opened until it is needed.

    Attributes:
        table: `[approvals]`; None without it.
        windows: `[[freeze]]`.

    Raises:
        UsageError: `[approvals]` or `[[freeze]]` is not right, or what `[policy]` asks for is missing.
    """

    def __init__(self, settings: Settings, catalog: Catalog, store: Store) -> None:
        self._catalog = catalog
        self._store = store
        source = Source(settings.path)
        self.needed = settings.policy.approval_required
        self.table: ApprovalsTable | None = None
        if settings.approvals is not None:
            self.table = source.convert(settings.approvals, ApprovalsTable, ("approvals",))
        elif self.needed:
            source.bad(("policy", "approval_required"), 'it needs [approvals] with approvers = ["…"]')
        tables = enumerate(settings.freeze)
        self.windows = tuple(source.convert(table, FreezeTable, ("freeze", number)) for number, table in tables)

    # — approvals —

    def require(self, asked: Asked, consent: Consent) -> str | None:
        """Return the id of the approved request that something may be done with; None where it needs none.

        Args:
            asked: what is to be done.
            consent: whose wish it is, and what they have for it.

        Raises:
            ApprovalNeededError: approvals are missing; the request is written down. Or it was rejected, or expired.
            ConflictError: the request is for something else, or was used.
            NotFoundError, UsageError: there is no such request, or none is needed.
            RollbackError: a new request cannot be written down.
        """
        if consent.break_glass or consent.automatic:
            return None
        if not self.needed or self.table is None:
            if consent.request is not None:
                raise UsageError("approval.unneeded", request=consent.request)
            return None
        if consent.request is not None:
            request, stand = self.find(consent.request)
        else:
            known = newest_waiting(self.requests(), asked.hash)
            request, stand = known or (self._ask(asked, consent, self.table), Stands.WAITING)
        if request.hash != asked.hash:
            what = changed(request, asked.kind, asked.plan, asked.undoes)
            raise ConflictError("approval.changed", request=request.request_id, what=what)
        if stand is not Stands.APPROVED:
            self._refuse(request, stand, self.table)
        return request.request_id

    def _ask(self, asked: Asked, consent: Consent, table: ApprovalsTable) -> ApprovalRequest:
        now = utc_now()
        request = ApprovalRequest(
            request_id=new_id(),
            kind=asked.kind,
            hash=asked.hash,
            target=storable(asked.target),
            components=asked.components,
            plan=lean(asked.plan) if asked.plan is not None else None,
            downgrade=asked.downgrade,
            undoes=asked.undoes,
            reason=storable(asked.reason),
            asked_by=consent.person or person(),
            asked_at=now,
            expires_at=now + timedelta(seconds=parse_duration(table.expire)),
        )
        self._put(request, "asked")
        return request

    def _refuse(self, request: ApprovalRequest, stand: Stands, table: ApprovalsTable) -> NoReturn:
        facts: dict[str, Any] = {"request": request.request_id, "until": _clock(request.expires_at)}
        if stand is Stands.USED:
            raise ConflictError("approval.used", operation=self._uses(request), **facts)
        if stand is Stands.EXPIRED:
            raise ApprovalNeededError("approval.expired", **facts)
        if request.rejection is not None:
            why = request.rejection.reason or "no reason was given"
            raise ApprovalNeededError("approval.rejected", by=request.rejection.by, why=why, **facts)
        facts |= {"kind": request.kind, "target": request.target, **self._tally(request, table)}
        raise ApprovalNeededError("approval.needed", **facts)

    @staticmethod
    def _tally(request: ApprovalRequest, table: ApprovalsTable) -> dict[str, Any]:
        given = request.votes_of(table)
        told = f"{len(given)} ({', '.join(given)})" if given else "none"
        return {"required": table.required, "approvers": ", ".join(table.approvers), "given": told}

    def vote(self, selector: str, who: str, *, approves: bool, reason: str = "") -> tuple[ApprovalRequest, Stands]:
        """Approve or reject a request; to be called with the application's lock held. Returns what came of it.

        Raises:
            NotFoundError: there is no such request.
            ConflictError: it is over, or this person has said so already.
            UsageError: this person may not; or there is no `[approvals]`.
            RollbackError: it cannot be written down.
        """
        if self.table is None:
            raise NotFoundError("approval.none", selector=selector)
        request, stand = self.find(selector)
        facts = {"request": request.request_id, "person": who, **self._tally(request, self.table)}
        if stand not in (Stands.WAITING, Stands.APPROVED):
            raise ConflictError("approval.over", stands=stand, verb="approve" if approves else "reject", **facts)
        if key := refusal(request, self.table, who, approves=approves):
            raise (ConflictError if key == "approval.twice" else UsageError)(key, **facts)
        said = Vote(storable(who), utc_now(), approves, storable(reason))
        request = msgspec.structs.replace(request, votes=(*request.votes, said))
        self._put(request, f"vote.{len(request.votes) - 1}")
        return request, stands(request, self.table, utc_now(), used=False)

    def find(self, selector: str) -> tuple[ApprovalRequest, Stands]:
        """Return the request whose id begins with `selector`, and what has become of it.

        Raises:
            NotFoundError: there is none.
            UsageError: there are several.
        """
        found = {key: each for key, each in self.requests().items() if key.startswith(selector)} if selector else {}
        if len(found) > 1:
            raise UsageError("approval.ambiguous", selector=selector, found=", ".join(found))
        if not found:
            raise NotFoundError("approval.none", selector=selector or '""')
        return next(iter(found.values()))

    def requests(self) -> dict[str, tuple[ApprovalRequest, Stands]]:
        """Return the last requests by their ids, newest first, each with what has become of it."""
        if self.table is None or not os.path.exists(os.path.join(self._store.path, "ledger.db")):
            return {}
        now = utc_now()
        with closing(Ledger(self._store)) as ledger:
            bodies = [entry.body for entry in islice(ledger.entries(REQUESTS), _LOOKED_BACK)]
        found = [msgspec.json.decode(body, type=ApprovalRequest) for body in bodies]
        return {
            each.request_id: (each, stands(each, self.table, now, used=self._uses(each) is not None)) for each in found
        }

    def waiting(self) -> list[tuple[ApprovalRequest, Stands]]:
        """Return the requests that wait for approvals, or have them and were not used yet, newest first."""
        live = (Stands.WAITING, Stands.APPROVED)
        return [(request, stand) for request, stand in self.requests().values() if stand in live]

    def _uses(self, request: ApprovalRequest) -> str | None:
        """Return the operation that began with a request, or None."""
        for operation in self._catalog.history():
            if operation.request == request.request_id:
                return operation.operation_id
            # No earlier one can have: with room for a clock that was set back meanwhile.
            if operation.created_at < request.asked_at - timedelta(days=2):
                break
        return None

    def _put(self, request: ApprovalRequest, act: str) -> None:
        self._catalog.owe(f"request {request.request_id} {act}")
        if self.table is not None:
            status, text = told(request, self.table)
            self._catalog.tell("approval", text, request.request_id, status)
        with closing(Ledger(self._store)) as ledger:
            ledger.write(Put(REQUESTS, request.request_id, msgspec.json.encode(request)))

    # — freezes —

    def frozen(self, now: datetime | None = None) -> InForce | None:
        """Return the freeze that is in force now, or None."""
        return in_force(self.windows, self.declared(), now or utc_now())

    def require_unfrozen(self, what: str, consent: Consent | None = None) -> None:
        """Refuse what a freeze blocks: a deployment, or a rollback that was scheduled. Never called for another one.

        Args:
            what: it, as the beginning of a sentence: "The deployment".
            consent: by break-glass it is not refused.

        Raises:
            FrozenError: a freeze is in force.
        """
        if consent is not None and consent.break_glass:
            return
        if (found := self.frozen()) is not None:
            raise FrozenError("freeze.frozen", what=what, told=found.told)

    def declared(self) -> list[Freeze]:
        """Return the freezes that were declared, oldest first; of those that are over, the last ones."""
        noted = self._catalog.noted(FREEZES)
        return msgspec.json.decode(noted, type=list[Freeze]) if noted is not None else []

    def freeze(self, who: str, reason: str, until: datetime | None) -> Freeze:
        """Declare a freeze; to be called with the application's lock held.

        Raises:
            UsageError: it would be over already.
            RollbackError: it cannot be written down.
        """
        now = utc_now()
        if until is not None and until <= now:
            raise UsageError("freeze.past", until=_clock(until))
        made = Freeze(freeze_id=new_id(), since=now, by=storable(who), reason=storable(reason), until=until)
        self._note([*self.declared(), made], [f"freeze {made.freeze_id} declared"])
        return made

    def unfreeze(self, who: str, reason: str) -> list[Freeze]:
        """Lift every declared freeze; to be called with the application's lock held. Returns those.

        Raises:
            NotFoundError: none is in force.
            RollbackError: it cannot be written down.
        """
        now = utc_now()
        facts = {"lifted_at": now, "lifted_by": storable(who), "lifted_why": storable(reason)}
        known = self.declared()
        after = [msgspec.structs.replace(each, **facts) if each.holds(now) else each for each in known]
        lifted = [new for new, old in zip(after, known, strict=True) if new is not old]
        if not lifted:
            raise NotFoundError("freeze.none")
        self._note(after, [f"freeze {each.freeze_id} lifted" for each in lifted])
        return lifted

    def _note(self, freezes: list[Freeze], owing: Sequence[str]) -> None:
        now = utc_now()
        over = [each for each in freezes if not each.holds(now)][-_FREEZES_KEPT:]
        kept = [each for each in freezes if each.holds(now) or each in over]
        self._catalog.note(FREEZES, msgspec.json.encode(kept).decode(), owing)


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"
