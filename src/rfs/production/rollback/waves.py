"""The gradual rollback of an application, in its catalog: at most one is open. With the application's lock held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.gradual import NOTE, Gradual, Stage, taken_over
from rfs.production.rollback.model import OperationStatus, utc_now
from rfs.production.rollback.operation import OPEN
from rfs.production.rollback.settings import Settings
from rfs.production.rollback.traffic import Traffic


class Waves:
    """Args: catalog, settings: of the application. tick: called while something is waited for; may raise."""

    def __init__(self, catalog: Catalog, settings: Settings, tick: Callable[[], object]) -> None:
        self._catalog = catalog
        table = None if settings.instances is None else settings.instances.table.traffic
        self.traffic = None if table is None else Traffic(table, settings.home, tick)

    def last(self) -> Gradual | None:
        """Return the last one, or None."""
        noted = self._catalog.noted(NOTE)
        return None if noted is None else msgspec.json.decode(noted, type=Gradual)

    def open(self) -> Gradual | None:
        """Return the one that is open, or None."""
        found = self.last()
        return found if found is not None and found.is_open else None

    def keep(self, found: Gradual, **changes: Any) -> Gradual:
        """Write down how one stands now; return that."""
        changed = msgspec.structs.replace(found, **changes)
        known = self.last()
        owing = []
        if known is None or known.gradual_id != changed.gradual_id:
            owing = [f"gradual {changed.gradual_id} begun"]
        elif known.stage is not changed.stage:
            # It may be paused, and go on, more than once.
            owing = [f"gradual {changed.gradual_id} {changed.stage}.{utc_now():%H%M%S%f}"]
            if changed.stage is Stage.PAUSED or not changed.is_open:
                event = "held" if changed.stage is Stage.PAUSED else "rollback"
                self._catalog.tell(event, changed.report(), changed.gradual_id, str(changed.stage))
        self._catalog.note(NOTE, msgspec.json.encode(changed).decode(), owing)
        return changed

    def end(self, found: Gradual, stage: Stage, why: str = "") -> Gradual:
        """Write down how one ended."""
        return self.keep(found, stage=stage, why=why, finished_at=utc_now(), doing=(), operation_id=None)

    def pause(self, found: Gradual, why: str) -> Gradual:
        """Write down that one waits for a person."""
        newest = self._catalog.latest_operation()
        return self.keep(
            found, stage=Stage.PAUSED, why=why, last_operation="" if newest is None else newest.operation_id
        )

    def settle(self) -> list[str]:
        """Account for one whose process is gone; the operation that it was at has been settled before.

        Returns:
            Sentences about what was found.
        """
        found = self.open()
        if found is None or (found.stage is Stage.PAUSED and not found.doing):
            return []
        status = self._status(found.operation_id)
        if found.stage is Stage.PAUSED and status in OPEN:
            return []
        held = status is OperationStatus.HELD
        now = taken_over(found, completed=status is OperationStatus.COMPLETED, held=held)
        told = [] if held else self.get_requests(found.drained)
        now = self.pause(now, now.why)
        return [*told, f"The gradual rollback {now.gradual_id} was interrupted: {now.told()}. `rfs resume` goes on."]

    def get_requests(self, instances: Sequence[str]) -> list[str]:
        """Have instances get requests again, whatever happened; return complaints."""
        told: list[str] = []
        if self.traffic is None:
            return told
        for instance in instances:
            try:
                self.traffic.ready(instance)
            except RollbackError as error:
                told.append(f"{instance} gets no requests: {error} {error.hint}")
        return told

    def _status(self, operation_id: str | None) -> OperationStatus | None:
        with suppress(NotFoundError):  # its id was written down, and then it was not begun
            return None if operation_id is None else self._catalog.operation(operation_id).status
        return None
