"""The log of tracked changes: added at once and durably, taken back newest first.

A change leaves the log only when it was taken back, in one transaction with the record that it was. Whoever dies
between the effect and that record finds the old value there already, and only writes the record. Synchronous, and
expected conditions are raised.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import ConflictError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.ledger import Drop, Ledger, Put
from rfs.production.rollback.model import json_like, new_id, storable, utc_now
from rfs.production.rollback.restorers import DifferentError, Restorer, TrackedChange

STANDING, UNDONE = "changes", "changes:undone"
LARGEST = 512 << 20
_BYTES = "\0bytes"


class ChangeLog:
    """Args: app: in whose store it is kept. restorer: returns what takes changes of a component back, or raises."""

    def __init__(self, app: Application, restorer: Callable[[str], Restorer]) -> None:
        self._app = app
        self._restorer = restorer
        self._ledger = Ledger(app.store)

    def close(self) -> None:
        self._ledger.close()

    def __enter__(self) -> ChangeLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def standing(self, component: str | None = None) -> Iterator[TrackedChange]:
        """Yield the changes that were not taken back, newest first; of one component only, when it is given."""
        for entry in self._ledger.entries(STANDING):
            change = _decoded(entry.body)
            if component is None or change.component == component:
                yield change

    def undone(self) -> Iterator[TrackedChange]:
        """Yield the changes that were taken back, the last one first."""
        return (_decoded(entry.body) for entry in self._ledger.entries(UNDONE))

    def track(self, component: str, change_type: str, old: Any, new: Any, key: Any) -> TrackedChange:
        """Add a change; it is durable when this returns.

        Raises:
            UsageError: it could not be taken back, or its values are neither JSON-like nor bytes.
        """
        restorer = self._restorer(component)
        change = TrackedChange(
            change_id=new_id() + new_id(),
            component=storable(component),
            change_type=storable(str(change_type)),
            key=_storable(key, "the key"),
            old=_storable(old, "the old value"),
            new=_storable(new, "the new value"),
            at=utc_now(),
        )
        restorer.check(change)
        body = _encoded(change)
        if len(body) > LARGEST:
            why, hint = f"it is larger than {LARGEST >> 20} MiB", "Take a checkpoint before such a change instead."
            raise UsageError("change.value", component=component, why=why, hint=hint)
        self._ledger.write(Put(STANDING, change.change_id, body))
        return change

    def undo_last(self, number: int, *, force: bool = False) -> list[TrackedChange]:
        """Take the last `number` changes back, newest first, and return them.

        Raises:
            UsageError: the number is not positive.
            NotFoundError: there are fewer; nothing was changed.
            RollbackError: one could not be taken back; it and those before it stay in the log.
        """
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise UsageError("usage", what="The number of changes must be at least 1", hint="Ask for 1 or more.")
        with self._app.beat.call(), self._app.exclusively("undo of changes"):
            found = list(islice(self.standing(), number))
            if len(found) < number:
                raise NotFoundError("change.too_few", asked=number, count=len(found))
            return self._undo(found, force=force)

    def undo_component(self, component: str, *, force: bool = False) -> list[TrackedChange]:
        """Take all changes of a component back, newest first; raises as `undo_last` does."""
        with self._app.beat.call(), self._app.exclusively("undo of changes"):
            found = list(self.standing(component))
            if not found:
                raise NotFoundError("change.none", component=component)
            return self._undo(found, force=force)

    def _undo(self, changes: Sequence[TrackedChange], *, force: bool) -> list[TrackedChange]:
        restorers = {name: self._restorer(name) for name in dict.fromkeys(each.component for each in changes)}
        if not force:
            self._look(changes, restorers)
        done: list[TrackedChange] = []
        for change in changes:
            try:
                self._app.beat.tick()
                restorers[change.component].restore(change, force=force)
                self._ledger.write(Drop(STANDING, change.change_id), Put(UNDONE, change.change_id, _encoded(change)))
            except DifferentError as error:
                raise ConflictError("change.conflict", what=error, done=_told(done)) from None
            except RollbackError as error:
                why = {"change": change.change_id, "component": change.component, "why": error, "hint": error.hint}
                raise RollbackError("change.failed", **why, done=_told(done), undone=_ids(done)) from error
            done.append(change)
        return done

    def _look(self, changes: Sequence[TrackedChange], restorers: dict[str, Restorer]) -> None:
        """Find conflicts before anything is changed, but for those that newer changes of the same thing hide."""
        for number, change in enumerate(changes):
            if any(_overlap(change, newer) for newer in changes[:number]):
                continue
            try:
                restorers[change.component].look(change)
            except DifferentError as error:
                raise ConflictError("change.conflict", what=error, done=_told([])) from None


def _overlap(a: TrackedChange, b: TrackedChange) -> bool:
    if a.component != b.component:
        return False
    if isinstance(a.key, str) and isinstance(b.key, str):
        return f"{a.key}.".startswith(f"{b.key}.") or f"{b.key}.".startswith(f"{a.key}.")
    return a.key is None or b.key is None or a.key == b.key


def _told(done: Sequence[TrackedChange]) -> str:
    if not done:
        return "Nothing was changed."
    return f"Taken back before it, and out of the log: {len(done)} ({', '.join(_ids(done))})."


def _ids(changes: Sequence[TrackedChange]) -> list[str]:
    return [change.change_id for change in changes]


def _storable(value: Any, where: str) -> Any:
    """Return a value as it comes back from the log; bytes may stand wherever JSON has a value.

    Raises:
        UsageError: usage.json.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, list | tuple):
        return [_storable(each, f"{where}[{number}]") for number, each in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value) and _BYTES not in value:
        return {storable(key): _storable(each, f"{where}[{key!r}]") for key, each in value.items()}
    return json_like(value, where)


def _encoded(change: TrackedChange) -> bytes:
    fields = {**msgspec.structs.asdict(change), "at": change.at.isoformat()}
    return json.dumps(fields, default=lambda raw: {_BYTES: b64encode(raw).decode()}, ensure_ascii=False).encode()


def _decoded(body: bytes) -> TrackedChange:
    fields = json.loads(body, object_hook=lambda found: b64decode(found[_BYTES]) if _BYTES in found else found)
    return TrackedChange(**{**fields, "at": datetime.fromisoformat(fields["at"])})
