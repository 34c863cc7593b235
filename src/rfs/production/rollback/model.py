"""The nouns: components, captures, checkpoints, changes, operations, health.

Everything here is frozen and does no I/O. Records that are stored carry `format`;
a newer release reads every older format (see docs/format.md).
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import msgspec

from rfs.production.rollback.errors import UsageError

FORMAT = 1
ID_HEX_DIGITS = 12
_DEPTH = 100
# Beyond that of the largest float, readers of JSON differ.
_BITS = 1024


class CheckpointType(enum.StrEnum):
    """Why a checkpoint was taken. SAFETY is taken by a rollback before it starts and is never "the latest"."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"
    SCHEDULED = "scheduled"
    CONDITIONAL = "conditional"
    SAFETY = "safety"


class RollbackStrategy(enum.StrEnum):
    IMMEDIATE = "immediate"
    GRADUAL = "gradual"
    SCHEDULED = "scheduled"
    CONDITIONAL = "conditional"


class OperationStatus(enum.StrEnum):
    """The life of an operation. `held` needs attention; it and `running` block every other change."""

    PENDING = "pending"
    SCHEDULED = "scheduled"
    ARMED = "armed"
    RUNNING = "running"
    AWAITING_CONFIRM = "awaiting_confirm"
    PAUSED = "paused"
    COMPLETED = "completed"
    REVERTED = "reverted"
    HELD = "held"
    CANCELLED = "cancelled"


class Reversibility(enum.StrEnum):
    """How well a step can be taken back, best first."""

    IDEMPOTENT = "idempotent"
    REVERSIBLE = "reversible"
    COMPENSABLE = "compensable"
    IRREVERSIBLE = "irreversible"
    UNKNOWN = "unknown"

    @property
    def rank(self) -> int:
        """0 is the best; a plan is as good as its worst step."""
        return list(Reversibility).index(self)


class ChangeKind(enum.StrEnum):
    """From the first state to the second: ADDED is only in the second, REMOVED only in the first."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the application, as rfs.toml names it.

    Attributes:
        name: its name in rfs.toml.
        kind: which driver looks after it.
        options: the keys of its table that belong to the driver, already validated by it.
        depends_on: names of the components captured and restored before it.
        home: absolute folder of rfs.toml; relative paths are relative to it.
        work: absolute folder for the driver's own local state (indexes); it may vanish at any time.
        carved: absolute paths inside it that other components own: neither captured nor touched. For processes,
            which may share files with others: all that other components own, and their folders.
    """

    name: str
    kind: str
    options: Mapping[str, Any]
    home: str
    work: str
    depends_on: tuple[str, ...] = ()
    carved: tuple[str, ...] = ()


class Fingerprint(msgspec.Struct, frozen=True):
    """The identity of a component's state: equal digests mean equal states."""

    digest: str
    entries: int = 0
    size: int = 0


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """What one component's driver recorded at one checkpoint.

    Attributes:
        fingerprint: of the captured state.
        parts: ids of the manifest parts, in order; each part names the blobs it refers to.
        entries: how many files, keys, pages or units there are.
        size: their bytes.
        stored: bytes this capture added to the store.
        warnings: sentences about what could not be captured exactly.
        meta: the driver's own small facts, JSON-like.
    """

    component: str
    kind: str
    fingerprint: Fingerprint
    parts: tuple[bytes, ...] = ()
    entries: int = 0
    size: int = 0
    stored: int = 0
    warnings: tuple[str, ...] = ()
    meta: dict[str, Any] = {}
    format: int = FORMAT


class Ref(msgspec.Struct, frozen=True):
    """One side of a change: an identity, a size, and a label fit for any eye (secrets masked)."""

    id: str
    size: int = 0
    label: str = ""


class Change(msgspec.Struct, frozen=True):
    """One difference between two states of a component: the word of diff, undo, drift, plan and log."""

    component: str
    kind: ChangeKind
    key: str
    before: Ref | None = None
    after: Ref | None = None


class Loss(msgspec.Struct, frozen=True):
    """Something written since the checkpoint that a rollback would take away.

    Attributes:
        what: a noun phrase, e.g. "rows in table orders", "files".
        count: how many; None when it cannot be told before staging.
        examples: a few of them, masked where secret.
    """

    component: str
    what: str
    count: int | None
    examples: tuple[str, ...] = ()


class Effort(msgspec.Struct, frozen=True):
    """What restoring one component takes, in seconds: before the outage, and in it."""

    staging: float
    outage: float


class Restored(msgspec.Struct, frozen=True):
    """What a restore did. `changed` counts what was changed, 0 when the state was there already."""

    changed: int = 0
    warnings: tuple[str, ...] = ()


class CheckOutcome(msgspec.Struct, frozen=True):
    """One health check's result. `required` gates; the others only warn."""

    name: str
    healthy: bool
    required: bool
    detail: str
    seconds: float
    attempts: int = 1


class HealthReport(msgspec.Struct, frozen=True):
    """The results of every health check. Falsy when a required one failed."""

    checks: tuple[CheckOutcome, ...] = ()

    @property
    def healthy(self) -> bool:
        return all(check.healthy for check in self.checks if check.required)

    @property
    def failures(self) -> tuple[CheckOutcome, ...]:
        return tuple(check for check in self.checks if not check.healthy)

    def __bool__(self) -> bool:
        return self.healthy


class Migrations(msgspec.Struct, frozen=True, kw_only=True):
    """Which migrations of a database were in force, and the scripts that were there to take them back.

    Attributes:
        tool: alembic, django or sql.
        applied: the versions in force, oldest first.
        heads: the newest of them; one for each branch or app.
        missing: those in force of which the scripts have nothing.
        parts: ids of the manifest parts that hold the scripts and the names of the tables and columns.
        why: a sentence, when it could not be told; then there is nothing else.
    """

    tool: str
    applied: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    parts: tuple[bytes, ...] = ()
    why: str = ""


class Downgrade(msgspec.Struct, frozen=True, kw_only=True):
    """Migrations of one component that are to be taken back.

    Attributes:
        targets: where to, as the tool takes it; more than one only where it has several apps or branches.
        versions: what is taken back, newest first.
        source: the checkpoint whose scripts are run; "" for those of the application as it is.
    """

    component: str
    tool: str
    targets: tuple[str, ...]
    versions: tuple[str, ...]
    source: str = ""


class DeploymentCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A whole application's state at one moment; it exists wholly or not at all.

    Attributes:
        checkpoint_id: 12 hexadecimal digits.
        deployment_id: the caller's name for the deployment, may be empty.
        created_at: UTC.
        state: what the caller's hooks collected, secrets masked; empty without hooks.
        metadata: the caller's own, JSON-like; "version" and "type" have a meaning.
        captures: one for each component, by name.
        migrations: of every database whose migrations rfs.toml names, captured or not, by its component's name.
        health: the health checks' results at the time; None when there were none to run.
        operation_id: of a SAFETY checkpoint, the operation that took it.
        revision: grows when message, tags or the pin change; the highest one counts.
    """

    checkpoint_id: str
    deployment_id: str
    created_at: datetime
    type: CheckpointType
    state: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    captures: dict[str, Capture] = {}
    migrations: dict[str, Migrations] = {}
    health: HealthReport | None = None
    message: str = ""
    tags: tuple[str, ...] = ()
    pinned: bool = False
    operation_id: str | None = None
    seconds: float = 0.0
    revision: int = 0
    format: int = FORMAT

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "created_at", in_utc(self.created_at))

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The manifest parts of everything in it."""
        captured = [part for capture in self.captures.values() for part in capture.parts]
        return (*captured, *(part for recorded in self.migrations.values() for part in recorded.parts))

    @property
    def version(self) -> str:
        """The deployed version as the caller named it, or ""."""
        return str(self.metadata.get("version", ""))

    @property
    def verified_healthy(self) -> bool:
        """Whether health checks ran when it was taken, and passed."""
        return self.health is not None and bool(self.health.checks) and self.health.healthy

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like values; `from_dict` gives back an equal checkpoint."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeploymentCheckpoint:
        """Return the checkpoint that `to_dict` described.

        Raises:
            msgspec.ValidationError: when `data` does not describe one.
        """
        return msgspec.convert(data, cls)


class RollbackRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the history tells of one rollback.

    Attributes:
        rollback_id: the operation's id.
        checkpoint_id: where it went, or was to go.
        executed_at: UTC, when it began; when it was asked for, of one that did not.
        at: UTC, when a scheduled one is due that did not begin.
        backup_id: the SAFETY checkpoint that holds the state before it.
        outage: seconds between the stop of the services and their start; None when there was none.
        late: what was written between the plan and the stop of the services.
        left: the SAFETY checkpoints of what was there each time it was turned back or carried on later.
        inside: the components, with ", " between, one of whose services asked for it; None when asked from outside.
        request: the request for approval that it was done with; None where it needed none.
        break_glass: it was done whatever the policy says.
    """

    rollback_id: str
    checkpoint_id: str
    reason: str
    executed_at: datetime
    status: OperationStatus
    backup_id: str | None = None
    finished_at: datetime | None = None
    strategy: RollbackStrategy = RollbackStrategy.IMMEDIATE
    components: tuple[str, ...] = ()
    actor: str = ""
    kind: str = "rollback"
    undoes: str | None = None
    inside: str | None = None
    request: str | None = None
    break_glass: bool = False
    error: str | None = None
    outage: float | None = None
    health: HealthReport | None = None
    late: tuple[Change, ...] = ()
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    at: datetime | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "executed_at", in_utc(self.executed_at))
        for name in ("finished_at", "at"):
            if (moment := getattr(self, name)) is not None:
                msgspec.structs.force_setattr(self, name, in_utc(moment))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like values; `from_dict` gives back an equal record."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RollbackRecord:
        """Return the record that `to_dict` described.

        Raises:
            msgspec.ValidationError: when `data` does not describe one.
        """
        return msgspec.convert(data, cls)


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """How whoever asks for something may do so.

    Attributes:
        person: who asks, where a program vouches for that; else whoever runs the process.
        request: the id of a request for approval to go on with, or None: that of the same plan, if there is one.
        break_glass: why it is done whatever the policy says, or "".
        automatic: nobody asks: a condition tripped, say. It waits for nobody.
    """

    person: str = ""
    request: str | None = None
    break_glass: str = ""
    automatic: bool = False


def in_utc(moment: datetime) -> datetime:
    """Return a time in UTC; one without a time zone is taken as local time."""
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def new_id() -> str:
    """Return a new random id of 12 hexadecimal digits (48 bits; ids are compared by prefix)."""
    return os.urandom(ID_HEX_DIGITS // 2).hex()


def storable(text: str) -> str:
    """Return `text` as JSON and SQLite can hold it.

    What is not UTF-8, from a command line or a file's name, is a surrogate in Python; it is spelled out.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def json_like(value: object, where: str) -> Any:
    """Return a copy of `value` as it comes back from JSON: lists for tuples, text that UTF-8 can hold.

    Args:
        where: what it is called, for the error; keys and positions inside it are added.

    Raises:
        UsageError: usage.json, a value in it is none that JSON has.
    """
    return _json_like(value, where, 0)


def _json_like(value: object, where: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return storable(str(value))
    if isinstance(value, int) and value.bit_length() <= _BITS:
        return int(value)
    if isinstance(value, float) and isfinite(value):
        return float(value)
    if depth < _DEPTH and isinstance(value, (list, tuple)):
        return [_json_like(each, f"{where}[{number}]", depth + 1) for number, each in enumerate(value)]
    if depth < _DEPTH and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {storable(key): _json_like(each, f"{where}[{key!r}]", depth + 1) for key, each in value.items()}
    raise UsageError("usage.json", where=where, why=_why_not(value, depth))


def _why_not(value: object, depth: int) -> str:
    if isinstance(value, (int, float)):
        return f"{value!r:.40} is no number that JSON has"
    if isinstance(value, Mapping) and (wrong := [key for key in value if not isinstance(key, str)]):
        return f"its key {wrong[0]!r:.40} is no string"
    if depth >= _DEPTH:
        return "it lies too deep, or contains itself"
    return f"it is of type {type(value).__name__}"


def utc_now() -> datetime:
    return datetime.now(UTC)
