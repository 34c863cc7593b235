"""Edits: what was changed outside of rfs. `[track]` of rfs.toml, and the pure rules of when one is recorded.

What rfs did itself is no edit: after a rollback a component is expected to be as that left it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.model import OperationStatus
from rfs.production.rollback.operation import DEPLOYMENT, Operation
from rfs.production.rollback.settings import Settings, Source

KINDS = ("files", "config", "environment")
NOTE = "tracked"
"""The fact of the catalog under which it is remembered how the components were last seen."""
_NAMED = 3
_NAME_LENGTH = 60


class TrackTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[track]`: `rfs watch` records edits of files and configuration as operations, which can be undone.

    Attributes:
        components: of kind files, config or environment; all of those when there are none.
        quiet: an edit is over when nothing was written to its component for so long.
        at_most: and at the latest so long after it began.
        every: how often a component is compared where nothing was noticed.
        largest: in MiB; an edit of more is told, and not recorded.
    """

    components: tuple[str, ...] = ()
    quiet: Duration = "2s"
    at_most: Duration = "30s"
    every: Duration = "5m"
    largest: int = 1024

    def __post_init__(self) -> None:
        quiet, at_most, every = map(parse_duration, (self.quiet, self.at_most, self.every))
        if not 0 < quiet <= at_most:
            raise ValueError("quiet must be longer than nothing, and not longer than at_most")
        if every < at_most:
            raise ValueError("every must not be shorter than at_most")
        if self.largest < 1:
            raise ValueError("largest is in MiB, and at least 1")


class Expected(msgspec.Struct, frozen=True):
    """How a component was when it was last looked at.

    Attributes:
        checkpoint: as in that one.
        at: then.
        newest: the operation that was the newest of the log; "" when there was none.
    """

    checkpoint: str
    at: datetime
    newest: str


def parse_track(settings: Settings, kinds: Mapping[str, str]) -> TrackTable | None:
    """Return what `[track]` says, with the components named; None where there is no such table.

    Args:
        kinds: of the components, by name.

    Raises:
        UsageError: a key is unknown, a value is not usable, or a component cannot be tracked.
    """
    if settings.track is None:
        return None
    source = Source(settings.path)
    table = source.convert(settings.track, TrackTable, ("track",))
    for name in table.components:
        if name not in kinds:
            source.bad(("track", "components"), f'there is no component called "{name}"')
        if kinds[name] not in KINDS:
            source.bad(("track", "components"), f"{name} is of kind {kinds[name]}; only {', '.join(KINDS)} are tracked")
    able = tuple(name for name, kind in kinds.items() if kind in KINDS)
    if not able:
        source.bad(("track",), f"there is no component of kind {', '.join(KINDS)}")
    return msgspec.structs.replace(table, components=table.components or able)


class Burst(msgspec.Struct, frozen=True):
    """Writes to one component that belong together: when the first and the last were noticed."""

    first: datetime
    last: datetime

    def due(self, quiet: float, at_most: float) -> datetime:
        """Return when it is to be recorded. Args: in seconds, see TrackTable."""
        return min(self.last + timedelta(seconds=quiet), self.first + timedelta(seconds=at_most))


class Small(Protocol):
    """What is asked of an operation that changed one thing; see operationlog.SmallOperation."""

    @property
    def kind(self) -> str: ...
    @property
    def component(self) -> str: ...
    @property
    def what(self) -> str: ...


class Standing(msgspec.Struct, frozen=True):
    """How a component is to be after what rfs did.

    Attributes:
        checkpoint: as in that one; None where nobody recorded it, so that it is taken as it is.
        but: what else rfs changed in it, and is no edit: keys, or paths from the root.
    """

    checkpoint: str | None
    but: tuple[str, ...] = ()


def standing(known: str, name: str, since: Sequence[Operation | Small], inner: Mapping[str, str]) -> Standing:
    """Return how a component is to be.

    Args:
        known: the checkpoint that it was like.
        name: of the component.
        since: what rfs did since, oldest first.
        inner: of files that rfs changed, by the name that the log has for them: where they lie in this component; "."
            where one is all of it.
    """
    checkpoint: str | None = known
    but: tuple[str, ...] = ()
    for each in since:
        if not isinstance(each, Operation):
            where = inner.get(each.what) if each.component == "file" else None
            if each.component == name and each.kind != "save":
                # What was undone may have been the whole of it.
                where = each.what if each.kind == "change" and each.what else "."
            if where == ".":
                checkpoint = None
            elif where is not None:
                but = (*but, where)
        elif name in each.plan.components and each.status in (OperationStatus.COMPLETED, OperationStatus.REVERTED):
            checkpoint, but = _left_at(each), ()
    return Standing(checkpoint, but)


def _left_at(operation: Operation) -> str | None:
    """Return the checkpoint of the state that an operation left; None where there is none."""
    if operation.status is OperationStatus.REVERTED:
        return operation.state_before
    if operation.kind == DEPLOYMENT or operation.downgrade is not None:
        return None
    return operation.wanted or operation.plan.target


def told(keys: Sequence[str], first: datetime, last: datetime, *, noticed: bool) -> str:
    """Return what an edit was, and when, as the log has it."""
    named = ", ".join(key if len(key) <= _NAME_LENGTH else f"…{key[-_NAME_LENGTH:]}" for key in keys[:_NAMED])
    more = f" and {len(keys) - _NAMED:,} more" if len(keys) > _NAMED else ""
    if noticed:
        return f"{named}{more}, at {first:%Y-%m-%d %H:%M:%S} UTC"
    return f"{named}{more}, between {first:%Y-%m-%d %H:%M:%S} and {last:%Y-%m-%d %H:%M:%S} UTC"


def needed(noted: str | None) -> set[str]:
    """Return the checkpoints that tracking goes on from. Args: noted: what the catalog has under NOTE."""
    return {each.checkpoint for each in remembered(noted).values()}


def remembered(noted: str | None) -> dict[str, Expected]:
    """Return what is remembered, by component. Args: noted: what the catalog has under NOTE."""
    return {} if noted is None else msgspec.json.decode(noted, type=dict[str, Expected])
