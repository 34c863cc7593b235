"""Who agreed to what: requests for approval, the votes on them, and what those come to. Pure.

A request is bound to the hash of a plan, so that what is carried out is what was looked at. Whether it was used tells
the log of operations, not the request: it is used when an operation began with it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime

import msgspec

from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.model import FORMAT, Downgrade
from rfs.production.rollback.plan import Plan, differs


class ApprovalsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[approvals]`: who has to agree to a rollback where `[policy] approval_required` is true.

    Attributes:
        required: how many of the approvers, besides whoever asks.
        approvers: names of users of the operating system, or what the program's `identity` returns.
        expire: how long after it was asked for a rollback may begin with its approvals.
    """

    required: int = 1
    approvers: tuple[str, ...] = ()
    expire: Duration = "30m"

    def __post_init__(self) -> None:
        if self.required < 1:
            raise ValueError("required must be at least 1")
        if not all(name.strip() for name in self.approvers) or len(set(self.approvers)) < len(self.approvers):
            raise ValueError("approvers takes names, each of them once")
        if self.required > len(self.approvers):
            why = f"required is {self.required}, of {len(self.approvers)} approvers"
            raise ValueError(why)
        if parse_duration(self.expire) == 0:
            raise ValueError("expire must be longer than nothing")


class Vote(msgspec.Struct, frozen=True):
    """What one approver said."""

    by: str
    at: datetime
    approves: bool
    reason: str = ""


class ApprovalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A rollback that waits for approvals, or did.

    Attributes:
        kind: of the operation that it would be.
        hash: what the approvals are bound to; see `binding`.
        target: where it goes, in a word or two.
        plan: without its changes and losses; None of a way down.
        downgrade: the migrations that would be taken back, or None.
        undoes: the operation that would be taken back, or None.
        expires_at: UTC; then neither votes nor a rollback come of it any more.
    """

    request_id: str
    kind: str
    hash: str
    target: str
    components: tuple[str, ...] = ()
    plan: Plan | None = None
    downgrade: Downgrade | None = None
    undoes: str | None = None
    reason: str = ""
    asked_by: str
    asked_at: datetime
    expires_at: datetime
    votes: tuple[Vote, ...] = ()
    format: int = FORMAT

    def votes_of(self, table: ApprovalsTable) -> tuple[str, ...]:
        """Return who approved it, of those who may: never whoever asked."""
        by = (vote.by for vote in self.votes if vote.approves)
        return tuple(dict.fromkeys(name for name in by if name in table.approvers and name != self.asked_by))

    @property
    def rejection(self) -> Vote | None:
        return next((vote for vote in self.votes if not vote.approves), None)


class Stands(enum.StrEnum):
    """What has become of a request."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    USED = "used"


def stands(request: ApprovalRequest, table: ApprovalsTable, now: datetime, *, used: bool) -> Stands:
    """Return what has become of a request.

    Args:
        table: as rfs.toml has it now: who is no approver any more has not approved.
        now: UTC. One that was asked for later than now, after the clock was set back, is not expired by that.
        used: an operation began with it.
    """
    if used:
        return Stands.USED
    if request.rejection is not None:
        return Stands.REJECTED
    if now >= request.expires_at:
        return Stands.EXPIRED
    return Stands.APPROVED if len(request.votes_of(table)) >= table.required else Stands.WAITING


def refusal(request: ApprovalRequest, table: ApprovalsTable, person: str, *, approves: bool) -> str:
    """Return the key of the text why somebody's vote does not count, or "" when it does.

    Whoever asked may withdraw the request, by rejecting it.
    """
    if approves and person == request.asked_by:
        return "approval.own"
    if person not in table.approvers and not (person == request.asked_by and not approves):
        return "approval.nobody"
    if any(vote.by == person and vote.approves == approves for vote in request.votes):
        return "approval.twice"
    return ""


def told(request: ApprovalRequest, table: ApprovalsTable) -> tuple[str, str]:
    """Return what has just become of a request, "asked for", "given" or "refused", and what approvers are told."""
    given = request.votes_of(table)
    lines = [f"{request.kind} to {request.target}", f"asked for by: {request.asked_by}"]
    if request.reason:
        lines.append(f"reason: {request.reason}")
    last = request.votes[-1] if request.votes else None
    if last is not None:
        lines.append(f"{'approved' if last.approves else 'rejected'} by: {last.by}")
        lines += [f"why: {last.reason}"] * bool(last.reason)
    if last is None or last.approves:
        who = f" ({', '.join(given)})" if given else ""
        lines.append(f"approvals: {len(given)} of {table.required}{who}, from {', '.join(table.approvers)}")
        lines.append(f"until: {request.expires_at.isoformat(timespec='seconds')}")
    if last is None or (last.approves and len(given) < table.required):
        lines.append(f"rfs approve {request.request_id}, or rfs reject {request.request_id}")
    status = "asked for" if last is None else "given" if last.approves else "refused"
    return status, "\n".join(lines)


def binding(kind: str, plan: Plan | None, downgrade: Downgrade | None, undoes: str | None) -> str:
    """Return what approvals are bound to: the kind, what is undone, and the plan's hash or the way down."""
    words = [kind, undoes or "", plan.hash if plan is not None else ""]
    if downgrade is not None:
        words += [downgrade.component, downgrade.tool, *downgrade.targets, *downgrade.versions, downgrade.source]
    from hashlib import sha256  # loads OpenSSL, which looking does not need

    return sha256("\n".join(words).encode()).hexdigest()


def changed(request: ApprovalRequest, kind: str, plan: Plan | None, undoes: str | None) -> str:
    """Return as a phrase what is not as it was approved."""
    if (request.kind, request.undoes) != (kind, undoes):
        return f"the approval is for the {request.kind} to {request.target}"
    if request.plan is not None and plan is not None and (phrase := differs(request.plan, plan)):
        return phrase
    return f"the approval is for {request.target}"


def lean(plan: Plan) -> Plan:
    """Return a plan as a request keeps it: without what moves on a live system, and may be long."""
    return msgspec.structs.replace(plan, changes={}, losses=())


def newest_waiting(
    requests: Mapping[str, tuple[ApprovalRequest, Stands]], wanted: str
) -> tuple[ApprovalRequest, Stands] | None:
    """Return the request of this binding that a repeated command goes on with: an approved one, else one that waits."""
    for stand in (Stands.APPROVED, Stands.WAITING):
        for request, found in requests.values():
            if request.hash == wanted and found is stand:
                return request, found
    return None
