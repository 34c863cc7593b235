"""The log of tracked changes: added at once and durably, taken back newest first or by name, and made again.

A change leaves the log only when it was taken back, in one transaction with the record that it was. Whoever dies
between the effect and that record finds the old value there already, and only writes the record. Synchronous, and
expected conditions are raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from blake3 import blake3

from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.masking import MASK, is_secret_name, is_secret_value, label, masked
from rfs.production.rollback.errors import ConflictError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.ledger import Drop, Ledger, Put
from rfs.production.rollback.merging import MISSING, Clash, Resolution
from rfs.production.rollback.model import storable, utc_now
from rfs.production.rollback.operationlog import SmallOperation, noted, of_change, taking_back
from rfs.production.rollback.restorers import DifferentError, Restorer
from rfs.production.rollback.tracked import (
    INTENTS,
    LARGEST,
    STANDING,
    UNDONE,
    TrackedChange,
    decoded,
    encoded,
    new_change_id,
    storable_value,
)

_LISTED = 5


class _Turn(NamedTuple):
    """A change as it is to be taken back, the operation that made it, and the change as it is stored."""

    change: TrackedChange
    operation: SmallOperation
    stored: TrackedChange


class _Intent:
    """See restorers.Intent; kept as a digest, sealed."""

    def __init__(self, ledger: Ledger, change_id: str) -> None:
        self._ledger = ledger
        self._name = change_id

    def is_done(self, content: bytes) -> bool:
        return self._ledger.find(INTENTS, self._name) == blake3(content).digest()

    def write_down(self, content: bytes) -> None:
        self._ledger.write(Put(INTENTS, self._name, blake3(content).digest()))


class ChangeLog:
    """Args: app: in whose store it is kept. restorer: returns what takes changes of a component back, or raises."""

    def __init__(self, app: Application, restorer: Callable[[str, str], Restorer]) -> None:
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
        """Yield the tracked changes that were not taken back, newest first; of one component only, when it is given."""
        return (each for each in self._changes(STANDING) if component is None or each.component == component)

    def undone(self) -> Iterator[TrackedChange]:
        """Yield the tracked changes that were taken back, the last one first."""
        return self._changes(UNDONE)

    def _changes(self, log: str) -> Iterator[TrackedChange]:
        found = (decoded(entry.body) for entry in self._ledger.entries(log))
        return (change for change in found if change.kind == "change")

    def change(self, change_id: str) -> TrackedChange:
        """Return a change, whether it stands or not.

        Raises:
            NotFoundError: there is none of this id.
        """
        body = self._ledger.find(STANDING, change_id) or self._ledger.find(UNDONE, change_id)
        if body is None:
            raise NotFoundError("operation.none", selector=change_id)
        return decoded(body)

    def track(self, component: str, change_type: str, old: Any, new: Any, key: Any) -> TrackedChange:
        """Add a change; it is durable when this returns.

        Raises:
            UsageError: it could not be taken back, or its values are neither JSON-like nor bytes.
        """
        restorer = self._restorer(component, "change")
        change = TrackedChange(
            change_id=new_change_id(),
            component=storable(component),
            change_type=storable(str(change_type)),
            key=storable_value(key, "the key"),
            old=storable_value(old, "the old value"),
            new=storable_value(new, "the new value"),
            at=utc_now(),
        )
        restorer.check(change)
        body = encoded(change)
        if len(body) > LARGEST:
            why, hint = f"it is larger than {LARGEST >> 20} MiB", "Take a checkpoint before such a change instead."
            raise UsageError("change.value", component=component, why=why, hint=hint)
        logged = of_change(change, storable(restorer.name), change.change_type, self._app.catalog)
        self._ledger.write(Put(STANDING, change.change_id, body), noted(logged))
        return change

    def undo_last(self, number: int, how: Resolution = Resolution.REFUSE) -> list[TrackedChange]:
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
            self._take_back([self._made(change) for change in found], how, "")
            return found

    def undo_component(self, component: str, how: Resolution = Resolution.REFUSE) -> list[TrackedChange]:
        """Take all changes of a component back, newest first; raises as `undo_last` does."""
        with self._app.beat.call(), self._app.exclusively("undo of changes"):
            found = list(self.standing(component))
            if not found:
                raise NotFoundError("change.none", component=component)
            self._take_back([self._made(change) for change in found], how, "")
            return found

    def _made(self, change: TrackedChange) -> _Turn:
        """Return a change with the operation that made it, also one of a release that wrote none."""
        return _Turn(change, of_change(change, change.component, "", self._app.catalog), change)

    def take_back(
        self, operations: Sequence[SmallOperation], how: Resolution = Resolution.REFUSE, reason: str = ""
    ) -> list[SmallOperation]:
        """Take operations of this log back, in this order, undos among them; return the operations that did.

        Raises:
            ConflictError: one was taken back already, or something was changed since.
            RollbackError: one could not be taken back; it and those after it are as they were.
        """
        with self._app.beat.call(), self._app.exclusively("undo of changes"):
            return self._take_back([self._turn(each) for each in operations], how, reason)

    def look(self, operations: Sequence[SmallOperation], how: Resolution = Resolution.REFUSE) -> list[Clash]:
        """Return the conflicts that `take_back` would meet, as far as they can be seen now; changes nothing.

        Raises:
            RollbackError: one of them cannot be taken back at all.
        """
        turns = [self._turn(each) for each in operations]
        try:
            self._look(turns, self._restorers(turns), how)
        except DifferentError as error:
            return list(error.clashes) or [Clash(str(error), None, None, None)]
        return []

    def _turn(self, operation: SmallOperation) -> _Turn:
        body = self._ledger.find(UNDONE if operation.back else STANDING, operation.change)
        if body is None:
            raise ConflictError("operation.already", operation=operation.operation_id)
        stored = decoded(body)
        return _Turn(stored.turned() if operation.back else stored, operation, stored)

    def _restorers(self, turns: Sequence[_Turn]) -> dict[tuple[str, str], Restorer]:
        meant = dict.fromkeys((turn.change.component, turn.change.kind) for turn in turns)
        return {each: self._restorer(*each) for each in meant}

    def _take_back(self, turns: Sequence[_Turn], how: Resolution, reason: str) -> list[SmallOperation]:
        restorers = self._restorers(turns)
        if how is Resolution.REFUSE:
            try:
                self._look(turns, restorers, how)
            except DifferentError as error:
                raise _conflict(error, []) from None
        done: list[SmallOperation] = []
        for turn in turns:
            change = turn.change
            try:
                self._app.beat.tick()
                restorers[change.component, change.kind].restore(change, how, _Intent(self._ledger, change.change_id))
                done.append(self._record(turn, reason))
            except DifferentError as error:
                raise _conflict(error, done) from None
            except RollbackError as error:
                why = {"change": change.change_id, "component": change.component, "why": error, "hint": error.hint}
                raise RollbackError("change.failed", **why, done=_told(done), undone=_ids(done)) from error
        return done

    def _record(self, turn: _Turn, reason: str) -> SmallOperation:
        id_, body = turn.stored.change_id, encoded(turn.stored)
        made = taking_back(turn.operation, reason, self._app.catalog)
        source, goal = (STANDING, UNDONE) if made.back else (UNDONE, STANDING)
        self._ledger.write(Drop(source, id_), Put(goal, id_, body), Drop(INTENTS, id_), noted(made))
        return made

    def _look(self, turns: Sequence[_Turn], restorers: dict[tuple[str, str], Restorer], how: Resolution) -> None:
        """Find conflicts before anything is changed, but for those that newer changes of the same thing hide."""
        for number, (change, _, _) in enumerate(turns):
            if not any(_overlap(change, newer.change) for newer in turns[:number]):
                restorers[change.component, change.kind].look(change, how, _Intent(self._ledger, change.change_id))


def _conflict(error: DifferentError, done: Sequence[SmallOperation]) -> ConflictError:
    clashes = [told(clash) for clash in error.clashes]
    listed = "; ".join(f"{each['where']}: {_three(each)}" for each in clashes[:_LISTED])
    more = f" ({listed}{' …' if len(clashes) > _LISTED else ''})" if listed else ""
    return ConflictError("change.conflict", what=error, listed=more, clashes=clashes, done=_told(done))


def _three(clash: dict[str, str]) -> str:
    return f"{clash['before']} before it, {clash['after']} after it, {clash['now']} now"


def told(clash: Clash) -> dict[str, str]:
    """Return a conflict as any eye may see it: where, and the values before the change, after it and now."""
    values = [_size(each) if not clash.where else each for each in (clash.want, clash.base, clash.onto)]
    texts = [_text(value) for value in values]
    # What is secret on one side is not shown on the others: one may well be a part of the other.
    if is_secret_name(clash.where) or any(is_secret_value(text) or is_secret_name(text) for text in texts):
        texts = [MASK] * 3
    return dict(zip(("where", "before", "after", "now"), (clash.where or "its content", *texts), strict=True))


def sides_of(change: TrackedChange) -> dict[str, str]:
    """Return the values before and after a change as any eye may see them."""
    where = change.key if isinstance(change.key, str) else ""
    old, new = (_content(change, side) for side in (change.old, change.new))
    shown = told(Clash(where, new, old, new))
    return {"before": shown["before"], "after": shown["after"]}


def _content(change: TrackedChange, side: Any) -> Any:
    """Return of files, rows and whole configurations how large they are: nobody knows what is in them."""
    if change.kind != "change":
        side = side["content" if change.kind == "configuration" else "version"]
    elif change.component != "file" and isinstance(change.key, str):
        return side
    return _size(side)


class _Size(str):
    """A size instead of a value."""


def _size(value: Any) -> Any:
    if value is None or value is MISSING:
        return MISSING
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
    return _Size(f"{len(raw):,} bytes")


def _text(value: Any) -> str:
    if isinstance(value, _Size):
        return str(value)
    if value is MISSING or value is None:
        return "nothing"
    if isinstance(value, bytes):
        return label(value.decode("utf-8", "replace")) if b"\0" not in value else f"{len(value):,} bytes"
    return label(repr(masked(value)))


def _overlap(a: TrackedChange, b: TrackedChange) -> bool:
    if a.component != b.component:
        return False
    if a.kind != b.kind:
        return True
    if isinstance(a.key, str) and isinstance(b.key, str):
        return f"{a.key}.".startswith(f"{b.key}.") or f"{b.key}.".startswith(f"{a.key}.")
    return a.key is None or b.key is None or a.key == b.key


def _told(done: Sequence[SmallOperation]) -> str:
    if not done:
        return "Nothing was changed."
    return f"Taken back before it, and out of the log: {len(done)} ({', '.join(_ids(done))})."


def _ids(done: Sequence[SmallOperation]) -> list[str]:
    return [each.change for each in done]
