"""Where an automatic rollback goes to, and of which version it takes leave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rfs.production.rollback.automatic import REASON, automatic_times, last_rollback, live_deployment, target_before
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.model import (
    CheckOutcome,
    CheckpointType,
    Component,
    DeploymentCheckpoint,
    HealthReport,
    OperationStatus,
)
from rfs.production.rollback.operation import DEPLOYMENT, Operation
from rfs.production.rollback.plan import Plan

START = datetime(2026, 1, 1, tzinfo=UTC)
BOTH = ("db", "web")


def at(minutes):
    return START + timedelta(minutes=minutes)


def checkpoint(minutes, healthy=None, kind=CheckpointType.MANUAL):
    report = HealthReport((CheckOutcome("h", healthy, True, "", 0),)) if healthy is not None else None
    return DeploymentCheckpoint(
        checkpoint_id=f"c{minutes}", deployment_id="", created_at=at(minutes), type=kind, health=report
    )


def target(*checkpoints, trouble=100):
    return target_before(checkpoints, at(trouble)).checkpoint_id


def test_the_newest_healthy_one_from_before_the_trouble():
    assert target(checkpoint(120, True), checkpoint(90, False), checkpoint(80, True), checkpoint(70, True)) == "c80"


def test_where_none_was_checked_the_newest_that_no_condition_had_taken():
    assert target(checkpoint(90, kind=CheckpointType.CONDITIONAL), checkpoint(80), checkpoint(70)) == "c80"


@pytest.mark.parametrize("found", [(), (checkpoint(120, True),), (checkpoint(90), checkpoint(80, False))])
def test_else_none(found):
    with pytest.raises(NotFoundError):
        target(*found)


def operation(minutes, kind, to=0, components=BOTH, status=OperationStatus.COMPLETED, **facts):
    plan = Plan(target="c", target_created_at=at(to), created_at=at(minutes), components=components, steps=())
    return Operation(
        operation_id=f"{kind}{minutes}",
        kind=kind,
        plan=plan,
        actor="",
        created_at=at(minutes) - timedelta(seconds=30),
        finished_at=at(minutes),
        safety="",
        components=tuple(Component(name=each, kind="k", options={}, home="/", work="/") for each in BOTH),
        status=status,
        **{"reason": "", **facts},
    )


@pytest.mark.parametrize(
    ("history", "live"),
    [
        ([], None),
        ([operation(10, DEPLOYMENT)], f"{DEPLOYMENT}10"),
        ([operation(20, DEPLOYMENT), operation(10, DEPLOYMENT)], f"{DEPLOYMENT}20"),
        # The rollback to before the second one leaves the first.
        ([operation(30, "rollback", to=15), operation(20, DEPLOYMENT), operation(10, DEPLOYMENT)], f"{DEPLOYMENT}10"),
        # ... and its undo brings the second back: to what was live while the rollback ran.
        (
            [
                operation(40, "undo", to=29.9),
                operation(30, "rollback", to=15),
                operation(20, DEPLOYMENT),
                operation(10, DEPLOYMENT),
            ],
            f"{DEPLOYMENT}20",
        ),
        ([operation(30, "rollback", to=5), operation(20, DEPLOYMENT)], None),
        # What failed, was of one component, or was an edit by hand changes nothing of it.
        ([operation(30, "rollback", status=OperationStatus.REVERTED), operation(20, DEPLOYMENT)], f"{DEPLOYMENT}20"),
        ([operation(30, "rollback", components=("db",)), operation(20, DEPLOYMENT)], f"{DEPLOYMENT}20"),
        ([operation(30, "edit"), operation(20, DEPLOYMENT)], f"{DEPLOYMENT}20"),
    ],
)
def test_the_deployment_that_is_live(history, live):
    assert live_deployment(history) == live


def test_what_a_crash_dropped_was_no_automatic_rollback():
    crashed = str(RollbackError("operation.interrupted"))
    reverted = OperationStatus.REVERTED
    history = [
        operation(50, "edit"),
        operation(40, "rollback", reason=f"{REASON}x", status=reverted, error=crashed),
        operation(30, "rollback", reason=f"{REASON}x", status=reverted, error="no space"),
        operation(20, "rollback", reason=f"{REASON}x"),
        operation(10, "rollback", reason="by hand"),
    ]
    assert [each.minute for each in automatic_times(history)] == [29, 19]
    assert last_rollback(history) == at(40)
