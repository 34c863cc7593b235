"""Takes checkpoints: what a rollback goes to, and what it keeps before it takes anything away."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.driver import Driver, overrides
from rfs.production.rollback.errors import ConflictError, IntegrityError, NotFoundError, RollbackError
from rfs.production.rollback.model import (
    Capture,
    CheckpointType,
    Component,
    DeploymentCheckpoint,
    HealthReport,
    Migrations,
    new_id,
    utc_now,
)
from rfs.production.rollback.plan import Plan
from rfs.production.rollback.pulse import Beat
from rfs.production.rollback.store import Store

if TYPE_CHECKING:
    from rfs.production.rollback.around import Around
    from rfs.production.rollback.migrating import Migrator

WHOLE_LISTED = 5


class Part(msgspec.Struct, frozen=True):
    """A component and the driver that looks after it; and what knows its migrations, when it has some."""

    component: Component
    driver: Driver
    migrator: Migrator | None = None


class Drift(msgspec.Struct, frozen=True):
    """How one component stands against a checkpoint: `equal` is None where it cannot be told."""

    component: str
    kind: str
    equal: bool | None
    detail: str = ""


def drift_of(part: Part, capture: Capture | None) -> Drift:
    """Compare one component's live state with its capture."""
    c = part.component
    if capture is None:
        return Drift(c.name, c.kind, None, "not in the last checkpoint")
    if capture.kind != part.driver.kind:
        return Drift(c.name, c.kind, None, f"of kind {capture.kind} in the last checkpoint")
    try:
        equal, detail = part.driver.stands(c, capture)
    except RollbackError as error:
        return Drift(c.name, c.kind, None, str(error))
    return Drift(c.name, c.kind, equal, detail)


def require_kind(part: Part, capture: Capture | None) -> None:
    """Refuse a capture that another driver made: this one would take it for damaged.

    Raises:
        ConflictError: components.kind_changed.
    """
    if capture is not None and capture.kind != part.driver.kind:
        now = part.driver.kind
        raise ConflictError("components.kind_changed", name=part.component.name, then=capture.kind, now=now)


class Capturer:
    """Args: parts: by component name, in the order of capture and restore.

    Attributes:
        around: the hooks of rfs.toml, if there are any.
    """

    def __init__(self, store: Store, catalog: Catalog, parts: Mapping[str, Part], beat: Beat) -> None:
        self.store = store
        self.catalog = catalog
        self.parts = parts
        self.beat = beat
        self.blobs = Blobs(store, beat)
        self.around: Around | None = None

    @contextmanager
    def around_checkpoint(self, kind: CheckpointType, notices: list[str]) -> Iterator[None]:
        """Run the hooks around a checkpoint that the block takes; `notices` gets what failed after it."""
        if self.around is None:
            yield
            return
        with self.around.both("checkpoint", {"RFS_KIND": kind}, self.beat) as failed:
            yield
        notices += failed

    def checkpoint(
        self,
        components: Sequence[str],
        kind: CheckpointType,
        *,
        taken: Mapping[str, Capture] | None = None,
        in_place: Collection[str] = (),
        health: Callable[[], HealthReport | None],
        state: Callable[[], dict[str, Any]] = dict,
        **record: Any,
    ) -> DeploymentCheckpoint:
        """Capture `components` and commit a checkpoint: it exists wholly, or not at all.

        Args:
            components: names, in order.
            kind: why it is taken.
            taken: captures to carry over as they are.
            in_place: components that are about to be changed where they are: of these a reference would not do.
            health, state: called after the captures; their results are recorded.
            record: further fields of the checkpoint.

        Raises:
            RollbackError: it could not be captured or stored; nothing exists of it.
        """
        began = time.monotonic()
        with self.store.batch():
            held = [self.parts[name] for name in components if overrides(self.parts[name].driver, "quiesce")]
            try:
                self._quiesce(held)
                captures = {**(taken or {}), **self.capture(components, kind, in_place)}
            finally:
                self.let_writers_go(held)
            checkpoint = DeploymentCheckpoint(
                checkpoint_id=new_id(),
                created_at=utc_now(),
                type=kind,
                captures=captures,
                migrations=self._migrations(),
                health=health(),
                state=state(),
                seconds=round(time.monotonic() - began, 3),
                **record,
            )
            self.store.put_record("checkpoint", msgspec.json.encode(checkpoint))
        self.catalog.put_checkpoint(checkpoint)
        return checkpoint

    def compose(
        self, target: DeploymentCheckpoint, onto: DeploymentCheckpoint, plan: Plan, operation_id: str
    ) -> DeploymentCheckpoint:
        """Commit a checkpoint of what is wanted when only parts are: those as in `target`, the rest as in `onto`.

        Raises:
            RollbackError: a part cannot be put there; nothing exists of it.
        """
        captures = {name: target.captures[name] for name in plan.components}
        with self.store.batch():
            for name, keys in plan.selection.items():
                part = self.parts[name]
                captures[name] = part.driver.select(
                    part.component, self.blobs, captures[name], onto.captures[name], keys
                )
            composed = DeploymentCheckpoint(
                checkpoint_id=new_id(),
                created_at=utc_now(),
                type=CheckpointType.SAFETY,
                captures=captures,
                deployment_id=target.deployment_id,
                operation_id=operation_id,
                message=f"what {operation_id} goes to",
            )
            self.store.put_record("checkpoint", msgspec.json.encode(composed))
        self.catalog.put_checkpoint(composed)
        return composed

    def rewritten(
        self, checkpoint: DeploymentCheckpoint, contents: Mapping[str, Mapping[str, bytes]]
    ) -> DeploymentCheckpoint:
        """Commit a checkpoint in which files say something else; the same again is the same one.

        Args:
            contents: by component, and by the key of a change.
        """
        told = msgspec.msgpack.encode((checkpoint.checkpoint_id, contents), order="deterministic")
        # What was approved is known by it.
        checkpoint_id = blake3(told).hexdigest()[: len(new_id())]
        with suppress(NotFoundError):
            return self.catalog.checkpoint(checkpoint_id)
        captures = dict(checkpoint.captures)
        with self.store.batch():
            for name, texts in contents.items():
                part = self.parts[name]
                captures[name] = part.driver.rewrite(part.component, self.blobs, captures[name], texts)
            made = msgspec.structs.replace(
                checkpoint,
                checkpoint_id=checkpoint_id,
                type=CheckpointType.SAFETY,
                captures=captures,
                message=f"{checkpoint.checkpoint_id}, with what was changed in other lines since",
                operation_id=None,
                tags=(),
                pinned=False,
            )
            self.store.put_record("checkpoint", msgspec.json.encode(made))
        self.catalog.put_checkpoint(made)
        return made

    def _migrations(self) -> dict[str, Migrations]:
        """Record the migrations of all databases, captured or not: code that goes back takes scripts along."""
        found: dict[str, Migrations] = {}
        for name, part in self.parts.items():
            if part.migrator is not None:
                with self.beat.doing(f"reading the migrations of {name}"):
                    found[name] = part.migrator.record(part.component, self.blobs)
        return found

    def capture(
        self, components: Sequence[str], kind: CheckpointType, in_place: Collection[str] = ()
    ) -> dict[str, Capture]:
        previous = self.catalog.latest_captures(components)
        captures: dict[str, Capture] = {}
        for name in components:
            part = self.parts[name]
            with self.beat.doing(f"capturing {name}"):
                stored = self.store.stored
                known = previous.get(name)
                if known is not None and known.kind != part.driver.kind:
                    known = None
                # What is missing or broken is often why there is a rollback: its safety checkpoint records that too.
                broken = kind is CheckpointType.SAFETY and name not in in_place
                take = part.driver.salvage if broken else part.driver.capture
                capture = take(part.component, self.blobs, known)
                captures[name] = msgspec.structs.replace(capture, stored=self.store.stored - stored)
        return captures

    def _quiesce(self, held: Sequence[Part]) -> None:
        if held:
            self._note_quiesced({**self.quiesced(), **{part.component.name: part.component for part in held}})
        for part in held:
            part.driver.quiesce(part.component)

    def quiesced(self) -> dict[str, Component]:
        """Return the components whose writers a checkpoint that was interrupted may still hold, as they were then."""
        noted = self.catalog.noted("quiesced")
        if noted is None:
            return {}
        try:
            return {c.name: c for c in msgspec.json.decode(noted, type=list[Component])}
        except msgspec.DecodeError:  # names alone, as an older release wrote them
            return {name: self.parts[name].component for name in noted.split(",") if name in self.parts}

    def let_writers_go(self, held: Sequence[Part]) -> None:
        """Resume what a checkpoint quiesced, the last one first, also one that was killed meanwhile.

        Raises:
            RollbackError: some could not be let go; the others were, and the next operation tries again.
        """
        if not held:
            return
        left = self.quiesced()
        failures: list[Exception] = []
        for part in reversed(held):
            try:
                part.driver.resume(part.component)
            except Exception as failure:  # whatever it is, the writers of the others must not wait for ever
                failures.append(failure)
            else:
                left.pop(part.component.name, None)
        self._note_quiesced(left)
        if failures:
            raise failures[0]

    def forget_quiesced(self, name: str) -> None:
        """Forget that the writers of a component were held."""
        self._note_quiesced({other: c for other, c in self.quiesced().items() if other != name})

    def _note_quiesced(self, components: Mapping[str, Component]) -> None:
        noted = msgspec.json.encode(list(components.values())).decode() if components else None
        self.catalog.note("quiesced", noted)

    def require_blobs(self, captures: Iterable[Capture]) -> None:
        """Make sure that every blob these captures need is in the store.

        Raises:
            IntegrityError: some are not; the text lists the damage and the checkpoints that are whole.
        """
        missing = self.missing(captures)
        if missing:
            whole = (c.checkpoint_id for c in self.catalog.checkpoints() if not self.missing(c.captures.values()))
            raise IntegrityError(
                "store.incomplete",
                count=len(missing),
                whole=", ".join(islice(whole, WHOLE_LISTED)) or "none",
                first=missing[0].hex()[:12],
            )

    def missing(self, captures: Iterable[Capture]) -> list[bytes]:
        """Return the blobs that these captures need and the store has not, or only damaged."""
        return self.store.missing(part for capture in captures for part in capture.parts)


class Blobs:
    """The store and the pulse as the one thing that a driver is given: its BlobSink and BlobSource."""

    def __init__(self, store: Store, beat: Beat) -> None:
        self.still = False
        # Bound once, not wrapped: they are called for every file.
        self.tick, self.remaining = beat.tick, beat.remaining
        self.put, self.put_all = store.put, store.put_all
        self.get, self.expect = store.get, store.expect
        self.put_part, self.get_part = store.put_part, store.get_part
        self.has, self.identify = store.has, store.identify
        # Beyond the protocol: with these a driver may have a forked helper do its share.
        self.annex, self.adopt, self.seal_early = store.annex, store.adopt, store.seal_early
        self.prepare = store.prepare  # or threads
        self.lacking = store.lacking  # and ask for many blobs at once
