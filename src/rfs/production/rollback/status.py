"""How an application stands: what `rfs status` tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rfs.production.rollback.capturing import Drift
from rfs.production.rollback.model import DeploymentCheckpoint
from rfs.production.rollback.operation import Operation

if TYPE_CHECKING:
    from rfs.production.rollback.approvals import ApprovalRequest, Stands
    from rfs.production.rollback.deferred import Deferred
    from rfs.production.rollback.freezing import InForce
    from rfs.production.rollback.gradual import Gradual
    from rfs.production.rollback.guarded import Deployment


class Status(msgspec.Struct, frozen=True):
    """What `rfs status` tells: the last checkpoint, drift against it, and what is open.

    Attributes:
        deployment: the guarded deployment, or rollback, that is not decided yet.
        guarded: a living process looks after it.
        due: nobody does, and it is to be taken back or given up by now.
        frozen: the freeze that keeps deployments from being made now.
        gradual: the rollback in waves that is open.
        waiting: requests for approval that are not over, each with how it stands.
        deferred: scheduled and armed rollbacks that wait.
    """

    app: str
    latest: DeploymentCheckpoint | None
    drift: tuple[Drift, ...]
    open_operation: Operation | None
    running: str
    deployment: Deployment | None
    guarded: bool
    due: bool
    frozen: InForce | None = None
    waiting: tuple[tuple[ApprovalRequest, Stands], ...] = ()
    deferred: tuple[Deferred, ...] = ()
    gradual: Gradual | None = None
