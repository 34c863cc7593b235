"""What votes come to, and whose counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rfs.production.rollback.approvals import (
    ApprovalRequest,
    ApprovalsTable,
    Stands,
    Vote,
    binding,
    changed,
    newest_waiting,
    refusal,
    stands,
)
from rfs.production.rollback.model import Downgrade
from rfs.production.rollback.plan import Plan

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
TWO = ApprovalsTable(required=2, approvers=("kim", "lee", "park"))


def request(*votes: Vote, key: str = "a") -> ApprovalRequest:
    return ApprovalRequest(
        request_id=key * 12,
        kind="rollback",
        hash=key,
        target="t",
        asked_by="kim",
        asked_at=NOW,
        expires_at=NOW + timedelta(minutes=30),
        votes=votes,
    )


def yes(by: str) -> Vote:
    return Vote(by, NOW, approves=True)


def no(by: str) -> Vote:
    return Vote(by, NOW, approves=False)


@pytest.mark.parametrize(
    ("votes", "after", "used", "found"),
    [
        ((), 0, False, Stands.WAITING),
        ((yes("lee"),), 0, False, Stands.WAITING),
        ((yes("lee"), yes("park")), 0, False, Stands.APPROVED),
        ((yes("lee"), yes("park")), 29.9, False, Stands.APPROVED),
        ((yes("lee"), yes("park")), 30, False, Stands.EXPIRED),
        ((yes("lee"), yes("park")), -600, False, Stands.APPROVED),
        # Whoever asked, a stranger, and the same person again count nothing, should they be written down.
        ((yes("lee"), yes("kim")), 0, False, Stands.WAITING),
        ((yes("lee"), yes("mallory")), 0, False, Stands.WAITING),
        ((yes("lee"), yes("lee")), 0, False, Stands.WAITING),
        ((yes("lee"), yes("park"), no("park")), 0, False, Stands.REJECTED),
        ((no("park"),), 99, False, Stands.REJECTED),
        ((yes("lee"), yes("park")), 99, True, Stands.USED),
    ],
)
def test_what_votes_come_to(votes: tuple[Vote, ...], after: float, used: bool, found: Stands) -> None:
    assert stands(request(*votes), TWO, NOW + timedelta(minutes=after), used=used) is found


def test_who_is_no_approver_any_more_has_not_approved() -> None:
    voted = request(yes("lee"), yes("park"))
    assert stands(voted, ApprovalsTable(required=2, approvers=("lee", "choi")), NOW, used=False) is Stands.WAITING
    assert stands(voted, ApprovalsTable(required=1, approvers=("lee", "choi")), NOW, used=False) is Stands.APPROVED


@pytest.mark.parametrize(
    ("who", "approves", "key"),
    [
        ("lee", True, "approval.twice"),
        ("lee", False, ""),
        ("park", True, ""),
        ("kim", True, "approval.own"),
        ("kim", False, ""),
        ("mallory", True, "approval.nobody"),
        ("mallory", False, "approval.nobody"),
    ],
)
def test_whose_vote_counts(who: str, approves: bool, key: str) -> None:
    assert refusal(request(yes("lee")), TWO, who, approves=approves) == key


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"required": 0, "approvers": ("kim",)}, "at least 1"),
        ({"required": 2, "approvers": ("kim",)}, "required is 2, of 1 approvers"),
        ({"approvers": ()}, "of 0 approvers"),
        ({"approvers": ("kim", "kim")}, "each of them once"),
        ({"approvers": ("kim", " ")}, "takes names"),
        ({"approvers": ("kim",), "expire": "0s"}, "longer than nothing"),
        ({"approvers": ("kim",), "expire": "soon"}, "'soon' is not a duration"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(table: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ApprovalsTable(**table)  # type: ignore[arg-type]  # as it may stand in rfs.toml


def plan(target: str = "one", **facts: object) -> Plan:
    return Plan(target=target, target_created_at=NOW, created_at=NOW, components=("db",), steps=(), **facts)  # type: ignore[arg-type]


def test_an_approval_is_bound_to_what_is_done_and_not_to_what_moves() -> None:
    first = binding("rollback", plan(), None, None)
    assert first == binding("rollback", plan(warnings=("new",), approvals=2), None, None)
    way = Downgrade(component="db", tool="sql", targets=("3",), versions=("4",))
    others = [
        binding("undo", plan(), None, None),
        binding("rollback", plan("two"), None, None),
        binding("rollback", plan(selection={"db": ("t",)}), None, None),
        binding("rollback", plan(), None, "aaaa"),
        binding("migration", None, way, None),
        binding("migration", None, Downgrade(component="db", tool="sql", targets=("2",), versions=("4", "3")), None),
    ]
    assert len({first, *others}) == 7


def test_what_is_not_as_it_was_approved_is_said() -> None:
    asked = ApprovalRequest(
        request_id="a" * 12,
        kind="rollback",
        hash="",
        target="one",
        plan=plan(),
        asked_by="kim",
        asked_at=NOW,
        expires_at=NOW,
    )
    assert changed(asked, "rollback", plan("two"), None) == "the target was one and is two"
    assert changed(asked, "undo", plan(), "bbbb") == "the approval is for the rollback to one"


def test_a_repeated_command_goes_on_with_the_approved_one_first() -> None:
    waits, approved, other = request(), request(key="b"), request(key="c")
    known = {
        "w": (waits, Stands.WAITING),
        "x": (request(), Stands.EXPIRED),
        "b": (approved, Stands.WAITING),
        "a": (request(key="a"), Stands.APPROVED),
        "c": (other, Stands.USED),
    }
    found = newest_waiting(known, "a")
    assert found is not None
    assert found[1] is Stands.APPROVED
    assert newest_waiting(known, "b") == (approved, Stands.WAITING)
    assert newest_waiting(known, "c") is None
