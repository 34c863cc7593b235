"""A gradual rollback as it is written down: which instance is where, and what comes next. Pure.

Each batch of instances is an operation of its own, with its journal, its safety checkpoint and its way back; what is
written down here only says which come after it. So a crash leaves each instance exactly as before or at the target.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from rfs.production.rollback.model import FORMAT

NOTE = "gradual"
"""Where the catalog keeps the last one."""


class Stage(enum.StrEnum):
    """How far a gradual rollback is; the last three are ends. CANCELLED: it stays as it is, between the two."""

    RUNNING = "running"
    REVERTING = "reverting"
    PAUSED = "paused"
    COMPLETED = "completed"
    REVERTED = "reverted"
    CANCELLED = "cancelled"


OPEN_STAGES = frozenset({Stage.RUNNING, Stage.REVERTING, Stage.PAUSED})


class Gradual(msgspec.Struct, frozen=True, kw_only=True):
    """A rollback in waves.

    Attributes:
        gradual_id: 12 hexadecimal digits.
        target: the id of the checkpoint.
        waves: the instances of each.
        components: those of each instance that are rolled back.
        at_once: how many instances may be down at once.
        bake: seconds that a wave must stay healthy.
        on_failure: what becomes of it when a wave fails.
        request: the approval that it was begun with.
        done: the operation that brought each instance to the target.
        failed: why an instance is not there; it is as it was before.
        doing, operation_id: the instances that are worked on, and the operation that does it.
        drained: instances that get no requests now.
        baked: how many waves have stayed healthy.
        why: of its pause or its end, a sentence without its full stop.
        version, version_before: what runs at the target, and what ran before; "" where nobody said it.
        operations_before: the newest operation when it was paused: one that is newer was somebody else's.
    """

    gradual_id: str
    target: str
    reason: str = ""
    actor: str = ""
    created_at: datetime
    waves: tuple[tuple[str, ...], ...]
    components: dict[str, tuple[str, ...]]
    at_once: int = 1
    bake: float = 0.0
    on_failure: Literal["pause", "continue", "revert"] = "pause"
    request: str | None = None
    stage: Stage = Stage.RUNNING
    done: dict[str, str] = {}
    failed: dict[str, str] = {}
    doing: tuple[str, ...] = ()
    operation_id: str | None = None
    drained: tuple[str, ...] = ()
    baked: int = 0
    why: str = ""
    version: str = ""
    version_before: str = ""
    last_operation: str = ""
    finished_at: datetime | None = None
    format: int = FORMAT

    @property
    def is_open(self) -> bool:
        return self.stage in OPEN_STAGES

    @property
    def instances(self) -> tuple[str, ...]:
        """All of them, in the order of the waves."""
        return tuple(instance for wave in self.waves for instance in wave)

    def where(self) -> dict[str, str]:
        """Return the version map: what each instance runs, "target" or "before" where no version was named."""
        new, old = self.version or "target", self.version_before or "before"
        return {instance: new if instance in self.done else old for instance in self.instances}

    def left(self, wave: Sequence[str]) -> list[str]:
        """Return the instances of a wave that are to be done, those of whose failure something is known apart."""
        return [instance for instance in wave if instance not in self.done and instance not in self.failed]

    def batches(self, instances: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield instances in groups, no larger than may be down at once."""
        for first in range(0, len(instances), self.at_once):
            yield tuple(instances[first : first + self.at_once])

    def told(self) -> str:
        """Return how far it is, as a phrase."""
        return f"{len(self.done)} of {len(self.instances)} instances are at {self.version or self.target}"

    def report(self) -> str:
        """Return what somebody is told who was not there, a line each."""
        lines = [f"gradual rollback {self.gradual_id} to {self.target}: {self.stage}", self.told()]
        lines += [f"{instance}: {version}" for instance, version in self.where().items()]
        lines += [f"{name}: {text}" for name, text in (("why", self.why), ("reason", self.reason)) if text]
        if self.stage is Stage.PAUSED:
            lines.append("rfs resume goes on, rfs abort takes back what was done.")
        return "\n".join(lines)


def taken_over(found: Gradual, *, completed: bool, held: bool) -> Gradual:
    """Return one whose process is gone, as whoever comes next finds it: paused, what it was doing told apart.

    Args:
        completed: the operation that it names ended as it was meant to.
        held: that operation waits for a person.
    """
    done = dict(found.done)
    back = found.stage is Stage.REVERTING
    for instance in found.doing if completed else ():
        if back:
            done.pop(instance, None)
        else:
            done[instance] = found.operation_id or ""
    why = "it was interrupted" + (" while it was taken back" if back else "")
    facts = {"done": done, "stage": Stage.PAUSED, "why": why}
    if held:
        return msgspec.structs.replace(found, stage=Stage.PAUSED, why=f"the operation {found.operation_id} is held")
    return msgspec.structs.replace(found, doing=(), operation_id=None, drained=(), **facts)
