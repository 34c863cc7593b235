"""The plugin page: everything that looks after one kind of component is one `Driver`.

Three methods must be written; the rest have defaults. A driver is found by the entry
point group `rfs.drivers`; `rfs.testing.DriverSuite` tells its author whether it is right.

What every driver must keep:

* `capture` never changes the component and never stops its writers.
* `restore` converges: run at any moment, after any crash, as often as one likes, it ends
  in exactly the wanted state. It must compare before it changes.
* Nothing outside the component is ever written.
* Work that may take long calls `tick`, which raises when time is up or the user said stop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import msgspec

from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.model import (
    Capture,
    Change,
    ChangeKind,
    Component,
    Effort,
    Fingerprint,
    Loss,
    Ref,
    Restored,
    Reversibility,
)


class Pulse(Protocol):
    """How a driver says that it is alive, and learns that it must stop."""

    def tick(self, items: int = 0, size: int = 0) -> None:
        """Report progress since the last call.

        Args:
            items: entries done.
            size: bytes done.

        Raises:
            TimedOutError: the time for this step is over.
            InterruptedByUserError: the user asked to stop.
        """

    def remaining(self) -> float:
        """Return how many seconds this step may still take."""


class BlobSink(Pulse, Protocol):
    """Where a capture puts what it reads. Ids are keyed BLAKE3 digests of 32 bytes."""

    def put(self, data: bytes) -> bytes:
        """Store a blob unless it is there already; return its id."""

    def put_all(self, contents: Sequence[bytes]) -> list[bytes]:
        """Store blobs as `put` does; return their ids in the same order. With many small ones it is much faster."""

    def put_part(self, refs: Sequence[bytes], body: bytes) -> bytes:
        """Store one part of a manifest.

        Args:
            refs: ids of every blob that `body` needs; prune keeps these.
            body: the driver's own encoding; it names blobs by their position in `refs`.

        Returns:
            The part's id, for `Capture.parts`.
        """

    def has(self, blob: bytes) -> bool:
        """Tell whether the store holds this blob."""

    def identify(self, data: bytes) -> bytes:
        """Return the id that `put` would give, without storing anything."""


class BlobSource(Pulse, Protocol):
    """Where a restore gets from what a capture put. What comes back was verified against its id.

    Attributes:
        still: the writers were stopped before this driver's last `capture`, and no restore has
            begun since on this component: what that capture saw still stands, and a `restore` need not look again.
    """

    still: bool

    def get(self, blob: bytes) -> bytes:
        """Return a blob.

        Raises:
            IntegrityError: it is missing or damaged.
        """

    def expect(self, blobs: Collection[bytes]) -> None:
        """Say which blobs will be asked for next, at best some thousands: the disk then reads them all at once."""

    def get_part(self, part: bytes) -> tuple[list[bytes], bytes]:
        """Return (refs, body) as they were given to `put_part`.

        Raises:
            IntegrityError: it is missing or damaged.
        """

    def has(self, blob: bytes) -> bool:
        """Tell whether the store holds this blob."""

    def identify(self, data: bytes) -> bytes:
        """Return the id of a blob with this content."""


class BlobStore(BlobSink, BlobSource, Protocol):
    """Both at once, where something stored is put together anew."""


class Finding(msgspec.Struct, frozen=True):
    """Something that `rfs doctor` should tell. `level` is "error" or "warning"."""

    level: str
    text: str
    hint: str


class Driver(ABC):
    """Looks after one kind of component.

    Class attributes:
        kind: the word for it in rfs.toml.
        options: the msgspec struct its table is validated against (forbid_unknown_fields).
        reversibility: of its restore step.
        runs: whether it has processes to stop before data is restored and to start after it.
        tables: what `select` takes are names of tables; else, without a `root`, dotted keys.
    """

    kind: ClassVar[str]
    options: ClassVar[type[msgspec.Struct]]
    reversibility: ClassVar[Reversibility] = Reversibility.REVERSIBLE
    runs: ClassVar[bool] = False
    tables: ClassVar[bool] = False

    # — to be written —

    @abstractmethod
    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        """Record the component's state: content into `sink`, and what describes it.

        Args:
            previous: the newest capture of this component, or None; what did not change
                since may be taken from it.

        Raises:
            RollbackError: it cannot be read; nothing was changed.
        """

    @abstractmethod
    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        """Return the identity of the live state, equal to a capture's when the states are equal.

        Args:
            rehash: read all content again, instead of trusting inode and times.
        """

    @abstractmethod
    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        """Converge the live state on `want`; its writers are stopped.

        Every blob it needs must be fetched before the first live change.

        Raises:
            RollbackError: it could not; the engine turns back.
        """

    # — may be written —

    def salvage(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        """Record the state before a rollback: like `capture`, but what is missing or broken is recorded as it is.

        A broken component must not stand in the way of the rollback that mends it.
        """
        return self.capture(c, sink, previous)

    def owns(self, c: Component) -> tuple[str, ...]:
        """Return the absolute paths that belong to this component; other components leave them alone."""
        return ()

    def outline(self, c: Component) -> Any:
        """Return the live state as a JSON-like value for a person to look at, with every secret masked.

        Raises:
            RollbackError: it cannot be read.
        """
        live = self.fingerprint(c, rehash=False)
        return {"digest": live.digest, "entries": live.entries, "size": live.size}

    def root(self, c: Component) -> str | None:
        """Return the folder whose whole content is the component, or None."""
        return None

    def examine(self, c: Component) -> Iterator[Finding]:
        """Yield what would go wrong: missing paths, permissions, a service that does not answer."""
        yield from ()

    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        """Do all work for `restore(want)` that needs no outage. Nothing live changes. Re-runnable."""

    def release(self, c: Component) -> None:
        """Remove what staging left, once the operation is over. Re-runnable."""

    def discard(self, c: Component, kept: Sequence[Capture], gone: Sequence[Capture], *, dry_run: bool) -> list[str]:
        """Remove what is kept outside the store for captures that are no longer there. Re-runnable.

        Called when checkpoints were removed, and no operation is open.

        Args:
            kept: every capture of this component that stays; nothing that one of them needs may go.
            gone: those that were just removed.
            dry_run: only tell.

        Returns:
            A sentence for each thing that goes, with the reason.
        """
        return []

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        """Read the live state back and return how it differs from `want`; empty when it is equal."""
        live = self.fingerprint(c, rehash=True)
        if live.digest == want.fingerprint.digest:
            return []
        return [
            Change(
                c.name,
                ChangeKind.CHANGED,
                "",
                Ref(want.fingerprint.digest, want.fingerprint.size),
                Ref(live.digest, live.size),
            )
        ]

    def quiesce(self, c: Component) -> None:
        """Hold the component's writers, so that a checkpoint is one cut across components. Re-runnable."""

    def resume(self, c: Component) -> None:
        """Let the writers go on. Re-runnable, also when they were never held."""

    def stop(self, c: Component, pulse: Pulse) -> None:
        """Stop the component's processes. Re-runnable."""

    def contains_caller(self, c: Component) -> bool:
        """Tell whether this very process would be stopped by `stop`."""
        return False

    def start(self, c: Component, source: BlobSource, want: Capture) -> Sequence[str] | None:
        """After all restores: start what ran at `want`, or make a restored configuration take effect. Re-runnable.

        Returns:
            Sentences for the record about what is not quite as it should be; None is as good as none.
        """
        return None

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        """Yield the differences from `a` to `b`, or to the live state when `b` is None.

        `before` is of `a`, `after` of `b`. Sorted by key.
        """
        after = b.fingerprint if b is not None else self.fingerprint(c, rehash=False)
        if after.digest != a.fingerprint.digest:
            before = a.fingerprint
            yield Change(c.name, ChangeKind.CHANGED, "", Ref(before.digest, before.size), Ref(after.digest, after.size))

    def content(self, c: Component, source: BlobSource, capture: Capture | None, key: str, most: int) -> bytes | None:
        """Return what a change of `changes` is about, for a person to look at: at `capture`, or now when it is None.

        Args:
            key: of the change.
            most: longer contents are none.

        Returns:
            None where there is no such content, or it is not for everybody's eyes.
        """
        return None

    def losses(self, c: Component, source: BlobSource, want: Capture, changes: Sequence[Change]) -> Iterator[Loss]:
        """Yield what was written since `want` and would be lost.

        Args:
            changes: from `want` to the live state, as `changes` yielded them.
        """
        yield from ()

    def caveats(self, c: Component, want: Capture, changes: Sequence[Change]) -> Iterator[str]:
        """Yield sentences for the plan: what restoring `want` waits for, and what happens when that does not come.

        Args:
            changes: from `want` to the live state, as `changes` yielded them.
        """
        yield from ()

    def late(
        self, c: Component, source: BlobSource, want: Capture, safety: Capture, told: Sequence[Loss]
    ) -> Iterator[Change]:
        """Yield what was written after `told` and is lost, where `changes` between safety captures cannot say.

        Called when the rollback has succeeded, once nothing waits for it any longer.

        Args:
            want: what was restored.
            safety: what `salvage` recorded before the stop.
            told: what was then said to be lost.
        """
        yield from ()

    def select(self, c: Component, blobs: BlobStore, want: Capture, onto: Capture, keys: Sequence[str]) -> Capture:
        """Return, stored, the state `onto` in which what `keys` name is as in `want`.

        Args:
            keys: what a part of this component is called: paths of files from the root, dotted keys, or tables.

        Raises:
            UsageError: it has no parts that could be restored alone.
            NotFoundError: a key is in neither.
            ConflictError: it cannot be put there.
        """
        raise UsageError("select.kind", component=c.name, kind=self.kind)

    def rewrite(self, c: Component, blobs: BlobStore, capture: Capture, contents: Mapping[str, bytes]) -> Capture:
        """Return, stored, a capture in which files say something else.

        Args:
            contents: by key of a change, whose `content` is known: what is to be there.

        Raises:
            UsageError: it has no files.
        """
        raise UsageError("select.kind", component=c.name, kind=self.kind)

    def among(self, changes: Sequence[Change], keys: Sequence[str]) -> list[Change]:
        """Return the changes of what `keys` name; see `select`."""
        return []

    def splits(
        self, c: Component, source: BlobSource, want: Capture, changes: Sequence[Change], keys: Sequence[str]
    ) -> Iterator[str]:
        """Yield sentences for the plan about what belongs to what `keys` name, and would stay as it is; see `select`.

        Args:
            changes: from `want` to the live state, as `changes` yielded them.
        """
        yield from ()

    def effort(self, c: Component, want: Capture, changes: Sequence[Change]) -> Effort | None:
        """Return how long restoring `want` takes; None: as long as the sizes in `changes` tell.

        Args:
            changes: from `want` to the live state, as `changes` yielded them.
        """
        return None

    def stands(self, c: Component, want: Capture) -> tuple[bool | None, str]:
        """Tell whether the live state is `want`, at the cost of a look.

        Returns:
            (equal, sentence): `equal` is None where only reading everything would tell; the sentence may be empty.
        """
        return self.fingerprint(c, rehash=False).digest == want.fingerprint.digest, ""


def overrides(driver: Driver, method: str) -> bool:
    """Tell whether a driver has its own version of an optional method."""
    return getattr(type(driver), method) is not getattr(Driver, method)


def together(c: Component, keys: Sequence[str], differing: Sequence[str]) -> str:
    """Return a sentence for the plan about tables that belong to the chosen ones; see Driver.splits."""
    smallest = " ".join(f"--table {name}" for name in (*keys, *differing))
    what = f"{', '.join(differing)} of {c.name} {'refers' if len(differing) == 1 else 'refer'}"
    return (
        f"{what} to what goes back, or the other way round, and would stay as now: the smallest selection that "
        f"keeps them together is {smallest}."
    )
