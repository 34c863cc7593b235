"""A guarded deployment: a change that is on trial until it is kept or taken back. Pure.

The record is written before the change begins, so that whoever comes after a crash knows what was meant. It is no
operation: nothing of it is replayed. `next_step` says what is due of one whose owner is gone.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Literal

import msgspec

from rfs.production.rollback.model import FORMAT, Component, OperationStatus

MARK = "RFS_GUARD"
"""The environment variable by which the processes of a guarded command are known: the guard's id."""


class Phase(enum.StrEnum):
    """How far a guarded deployment is; the last four are ends. LEFT: it failed, and stays as it is."""

    PREPARED = "prepared"
    CHANGING = "changing"
    BAKING = "baking"
    REVERTING = "reverting"
    KEPT = "kept"
    REVERTED = "reverted"
    LEFT = "left"
    CANCELLED = "cancelled"


OPEN_PHASES = frozenset({Phase.PREPARED, Phase.CHANGING, Phase.BAKING, Phase.REVERTING})


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A change on trial.

    Attributes:
        guard_id: 12 hexadecimal digits.
        kind: "guard", or "rollback" for one that awaits its confirmation.
        deployment_id: the caller's name for it, may be empty.
        changing_at, changed_at: when its change began, and when that had ended, UTC; None while it has not.
        checkpoint_id: where it goes back to, of a guard; where it went, of a rollback.
        confirm_by: who keeps it: nobody but its health, or a person.
        bake: seconds that it is watched for, or waits for the person.
        deadline: UTC; the end of that.
        auto_rollback: it is taken back when it fails; otherwise that is only told.
        pid, boot_id, host: its owner, for people; whether that is alive the lock tells.
        group: the process group of its command.
        cancelled: somebody asked to have it taken back.
        why: of its end, or of its way back, a sentence.
        stuck: why the way back was refused.
        operation_id: of a rollback, which one awaits its confirmation.
        rollback_id: the operation that takes it back.
        components: all of rfs.toml as it was when it began; the change may be one of rfs.toml, too.
        quarantined: its version was judged bad; until `released_at`.
        break_glass: why it was begun whatever froze deployments, or "".
    """

    guard_id: str
    kind: Literal["guard", "rollback"] = "guard"
    deployment_id: str = ""
    checkpoint_id: str = ""
    version: str = ""
    phase: Phase = Phase.PREPARED
    created_at: datetime
    changing_at: datetime | None = None
    changed_at: datetime | None = None
    confirm_by: Literal["health", "person"] = "health"
    bake: float = 0.0
    deadline: datetime | None = None
    auto_rollback: bool = True
    actor: str = ""
    pid: int = 0
    boot_id: str = ""
    host: str = ""
    group: int | None = None
    cancelled: bool = False
    why: str = ""
    stuck: str = ""
    operation_id: str | None = None
    rollback_id: str | None = None
    components: tuple[Component, ...] = ()
    quarantined: bool = False
    break_glass: str = ""
    released_at: datetime | None = None
    finished_at: datetime | None = None
    revision: int = 0
    format: int = FORMAT

    @property
    def is_open(self) -> bool:
        return self.phase in OPEN_PHASES


class Next(enum.StrEnum):
    """What is due of an open deployment whose owner is gone. ENDED: it was taken back already."""

    WAIT = "wait"
    CANCEL = "cancel"
    LEAVE = "leave"
    REVERT = "revert"
    ENDED = "ended"


def next_step(
    deployment: Deployment,
    now: datetime,
    *,
    keeps: bool,
    operation: OperationStatus | None,
    rollback: OperationStatus | None,
) -> tuple[Next, str]:
    """Return what is due of a deployment whose owner is gone, and why.

    Args:
        now: UTC.
        keeps: the policy is to leave what was interrupted as it is.
        operation, rollback: how the operations that it names stand; None where there are none.
    """
    late = deployment.deadline is not None and now >= deployment.deadline
    person = deployment.confirm_by == "person"
    # Once it is only waited for, that somebody does is as good as it was with its owner.
    waits = person and (keeps or deployment.phase is Phase.BAKING or deployment.operation_id is not None)
    rules = (
        (rollback is OperationStatus.COMPLETED, Next.ENDED, deployment.why),
        (deployment.phase is Phase.PREPARED, Next.CANCEL, "it was interrupted before anything was changed"),
        (
            deployment.kind == "rollback" and operation is not OperationStatus.COMPLETED,
            Next.CANCEL,
            "the rollback did not come about",
        ),
        (deployment.phase is Phase.REVERTING, Next.REVERT, deployment.why),
        (deployment.cancelled, Next.REVERT, "it was cancelled"),
        (not deployment.auto_rollback, Next.LEAVE, "its guard was killed, and was only to watch"),
        (person and late, Next.REVERT, "nobody confirmed it in time"),
        (waits, Next.WAIT, ""),
        (keeps, Next.LEAVE, "its guard was killed"),
        (True, Next.REVERT, "its guard was killed before it was decided"),
    )
    return next((step, why) for applies, step, why in rules if applies)
