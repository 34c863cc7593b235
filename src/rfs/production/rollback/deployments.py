"""The guarded deployments of an application: at most one is open, and its owner holds a lock of its own.

That lock, not the application's: the guarded command may call rfs itself. It goes with its holder, so that
whoever finds a deployment open and the lock free knows that nobody looks after it any longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.errors import ConflictError, LockedError, NotFoundError, QuarantinedError, RollbackError
from rfs.production.rollback.guarded import Deployment, Phase
from rfs.production.rollback.lock import actor, boot_id, exclusive, holder
from rfs.production.rollback.model import OperationStatus, new_id, storable, utc_now
from rfs.production.rollback.operation import DEPLOYMENT, Operation
from rfs.production.rollback.plan import Plan
from rfs.production.rollback.store import Store

RECORD = "deployment"
"""The kind of their records in the packs: quarantine must outlive a lost catalog."""


class Deployments:
    """Args: catalog, store: of the application."""

    def __init__(self, catalog: Catalog, store: Store) -> None:
        self._catalog = catalog
        self._store = store
        self._lock = os.path.join(store.path, "guard")

    # — looking —

    def open(self) -> Deployment | None:
        """Return the one that is neither kept nor taken back, or None."""
        return self._catalog.open_deployment()

    def owned(self) -> bool:
        """Tell whether the process that looks after the open one is alive."""
        return bool(holder(self._lock))

    def get(self, guard_id: str) -> Deployment:
        """Return the one with exactly this id.

        Raises:
            NotFoundError: there is none.
        """
        return self._catalog.deployment(guard_id)

    def pending(self, selector: str | None) -> Deployment:
        """Return the open one.

        Args:
            selector: the beginning of its id, or None.

        Raises:
            NotFoundError: none is open.
            ConflictError: another one is meant.
        """
        found = self.open()
        if found is None:
            raise NotFoundError("guard.none")
        if selector is not None and not found.guard_id.startswith(selector):
            raise ConflictError("guard.other", selector=selector, guard=found.guard_id)
        return found

    def quarantine_of(self, version: str) -> Deployment | None:
        """Return the deployment for which a version is quarantined, or None."""
        return next((each for each in self._judged(version) if each.released_at is None), None)

    def _judged(self, version: str) -> Iterator[Deployment]:
        return (each for each in self._catalog.deployments() if each.quarantined and each.version == version)

    # — changing; with the application's lock held, except `change` and what never began —

    def require_free(self, version: str) -> None:
        """Refuse to begin another one.

        Raises:
            LockedError: one is open.
            QuarantinedError: the version is quarantined.
        """
        found = self.open()
        if found is not None:
            raise LockedError("guard.pending", kind=found.kind, guard=found.guard_id, phase=found.phase)
        bad = self.quarantine_of(version) if version else None
        if bad is not None:
            raise QuarantinedError("guard.quarantined", version=version, since=_day(bad), why=bad.why)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be the owner of the deployment that is begun in the block.

        Raises:
            LockedError: another process is.
        """
        with exclusive(self._lock, "guard"):
            yield

    def begin(self, **facts: Any) -> Deployment:
        """Write down a deployment that begins, with this process as its owner."""
        deployment = Deployment(
            guard_id=new_id(),
            created_at=utc_now(),
            actor=actor(),
            pid=os.getpid(),
            boot_id=boot_id(),
            host=storable(os.uname().nodename),
            **facts,
        )
        self._catalog.put_deployment(deployment)
        return deployment

    def change(self, guard_id: str, **facts: Any) -> Deployment:
        """Change some facts of one that is open; return it as it is now."""

        def edit(old: Deployment) -> Deployment:
            return msgspec.structs.replace(old, revision=old.revision + 1, **facts) if old.is_open else old

        return self._catalog.change_deployment(guard_id, edit)

    def close(self, guard_id: str, phase: Phase, why: str = "") -> Deployment:
        """Write down how one ended, unless it has; return it as it is now."""
        closed = self.change(guard_id, phase=phase, why=storable(why), finished_at=utc_now())
        # What never began is of no use to anybody, and is closed without the application's lock.
        if phase is not Phase.CANCELLED:
            self._keep(closed)
        if self._lacks_entry(closed):
            self._log(closed)
        return closed

    def unlogged(self) -> Deployment | None:
        """Return the last one when it stays and is not in the log: whoever closed it was killed before that."""
        newest = next(iter(self._catalog.deployments()), None)
        return newest if newest is not None and self._lacks_entry(newest) else None

    def catch_up(self) -> None:
        """Make the last one an operation of the log, when it is to be one and is none."""
        newest = self.unlogged()
        if newest is not None:
            self._log(newest)

    def _lacks_entry(self, deployment: Deployment) -> bool:
        if deployment.kind != "guard" or deployment.phase not in (Phase.KEPT, Phase.LEFT):
            return False
        with suppress(NotFoundError):
            self._catalog.operation(deployment.guard_id)
            return False
        with suppress(NotFoundError):  # without its checkpoint there is nothing to undo it with
            self._catalog.checkpoint(deployment.checkpoint_id)
            return True
        return False

    def _log(self, deployment: Deployment) -> None:
        """Make what stays an operation of the log: it can be undone as any other."""
        before = self._catalog.checkpoint(deployment.checkpoint_id)
        ended = deployment.finished_at or utc_now()
        plan = Plan(
            target=before.checkpoint_id,
            target_created_at=before.created_at,
            created_at=deployment.created_at,
            components=tuple(before.captures),
            steps=(),
        )
        operation = Operation(
            operation_id=deployment.guard_id,
            kind=DEPLOYMENT,
            plan=plan,
            reason=" ".join(filter(None, (deployment.deployment_id, deployment.version))) or "guarded",
            actor=deployment.actor,
            # What the change did itself, by rfs, came before it: to undo it is to undo that as well.
            created_at=ended,
            finished_at=ended,
            safety=before.checkpoint_id,
            components=deployment.components,
            status=OperationStatus.COMPLETED,
        )
        self._catalog.put_operation(operation)
        with suppress(RollbackError), self._store.batch():
            self._store.put_record("operation", msgspec.json.encode(operation))

    def quarantine(self, guard_id: str, why: str) -> None:
        """Quarantine the version of a deployment that stayed, if it has one.

        Args:
            why: a sentence without its full stop.
        """
        found = self.get(guard_id)
        if not found.version or (found.quarantined and found.released_at is None):
            return
        facts = {"quarantined": True, "released_at": None, "why": storable(why)}
        self._keep(
            self._catalog.change_deployment(
                guard_id, lambda old: msgspec.structs.replace(old, revision=old.revision + 1, **facts)
            )
        )

    def release(self, version: str) -> list[Deployment]:
        """Let a version be deployed again.

        Raises:
            NotFoundError: it is not quarantined.
        """
        bad = [each for each in self._judged(version) if each.released_at is None]
        if not bad:
            raise NotFoundError("guard.not_quarantined", version=version)
        facts = {"released_at": utc_now()}
        released = [
            self._catalog.change_deployment(
                each.guard_id, lambda old: msgspec.structs.replace(old, revision=old.revision + 1, **facts)
            )
            for each in bad
        ]
        for each in released:
            self._keep(each)
        return released

    def _keep(self, deployment: Deployment) -> None:
        # The catalog has it; without room for this, only one rebuilt from the packs would not know of it.
        with suppress(RollbackError), self._store.batch():
            self._store.put_record(RECORD, msgspec.json.encode(deployment))


def _day(deployment: Deployment) -> str:
    return (deployment.finished_at or deployment.created_at).strftime("%Y-%m-%d %H:%M UTC")
