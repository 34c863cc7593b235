"""What the audit log still has to be told: written down in the very transaction that changed something.

So a process that is killed between the two leaves a debt, which the next command pays. Each is a small fact of the
catalog: its key says what happened to what, its value when.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from rfs.production.rollback.model import utc_now

if TYPE_CHECKING:
    import apsw

    from rfs.production.rollback.deferred import Deferred
    from rfs.production.rollback.guarded import Deployment
    from rfs.production.rollback.model import DeploymentCheckpoint
    from rfs.production.rollback.operation import Operation

OWED = "owed "
AUDITED = "audited"
"""The small fact that says how far the audit log is known to reach."""


def owe(db: apsw.Connection, *keys: str) -> None:
    """Owe the audit log entries; in a transaction. One that is owed already stays as it is."""
    rows = [(OWED + key, utc_now().isoformat()) for key in keys]
    db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", rows)


def pay(db: apsw.Connection, keys: Sequence[str], audited: str) -> None:
    """Owe these no longer, as the log reaches so far; in a transaction."""
    db.executemany("DELETE FROM meta WHERE key = ?", [(OWED + key,) for key in keys])
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (AUDITED, audited))


def owe_checkpoint(db: apsw.Connection, checkpoint: DeploymentCheckpoint) -> None:
    """Owe what becomes of a checkpoint that is being written; before it is."""
    known = db.execute("SELECT 1 FROM checkpoints WHERE id = ?", (checkpoint.checkpoint_id,)).get is not None
    what = f"amended.{checkpoint.revision}" if known else "taken"
    owe(db, f"checkpoint {checkpoint.checkpoint_id} {what}")


def owe_operation(db: apsw.Connection, operation: Operation) -> None:
    """Owe what becomes of an operation whose record is being written; before it is."""
    before = db.execute("SELECT status FROM operations WHERE id = ?", (operation.operation_id,)).get
    key = f"operation {operation.operation_id}"
    if before is None:
        glass = [f"{key} break-glass"] * operation.break_glass
        owe(db, f"{key} begun", *glass)
    if before != operation.status and (before is not None or operation.finished_at is not None):
        # It may be held and carried on more than once.
        again = f".{utc_now():%H%M%S%f}" if operation.finished_at is None else ""
        owe(db, f"{key} {operation.status}{again}")


def owe_deferred(db: apsw.Connection, deferred: Deferred) -> None:
    """Owe what becomes of a scheduled or an armed rollback whose record is being written; before it is."""
    before = db.execute("SELECT status FROM deferred WHERE id = ?", (deferred.rollback_id,)).get
    if before != deferred.status:
        owe(db, f"deferred {deferred.rollback_id} {deferred.status}")


def owe_deployment(db: apsw.Connection, deployment: Deployment) -> None:
    """Owe what becomes of a guarded deployment whose record is being written; before it is."""
    record = db.execute("SELECT record FROM deployments WHERE id = ?", (deployment.guard_id,)).get
    key = f"deployment {deployment.guard_id}"
    if record is None:
        owe(db, f"{key} begun")
        return
    from rfs.production.rollback.guarded import Deployment, Phase  # most often there is none, and start-up is a goal

    old = msgspec.json.decode(record, type=Deployment)
    waits = old.phase is Phase.BAKING and deployment.phase is Phase.BAKING
    facts = {
        "cancelled": deployment.cancelled and not old.cancelled,
        f"extended.{deployment.revision}": waits and deployment.deadline != old.deadline,
        str(deployment.phase): old.is_open and not deployment.is_open,
        "quarantined": deployment.quarantined and not old.quarantined,
        "released": deployment.released_at is not None and old.released_at is None,
    }
    owe(db, *(f"{key} {word}" for word, new in facts.items() if new))
