"""What an author of a driver imports: everything here is public, and nothing else of rfs is needed.

docs/writing-a-driver.md leads from an empty folder to a driver that passes `rfs.testing.DriverSuite`.
A driver is offered by the entry point group `rfs.drivers`, under its `kind`:

    [project.entry-points."rfs.drivers"]
    document = "rfs_document:DocumentDriver"

Names are only ever added here, and a method of `Driver` that is added has a default.
"""

from __future__ import annotations

from rfs.production.rollback.driver import BlobSink, BlobSource, Driver, Finding, Pulse
from rfs.production.rollback.drivers.masking import MASK, is_secret_name, is_secret_value
from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import (
    ConflictError,
    IntegrityError,
    InterruptedByUserError,
    NotFoundError,
    RollbackError,
    TimedOutError,
    UsageError,
)
from rfs.production.rollback.messages import define_messages
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
from rfs.production.rollback.secret import resolve_secret

__all__ = [
    "MASK",
    "BlobSink",
    "BlobSource",
    "Capture",
    "Change",
    "ChangeKind",
    "Component",
    "ConflictError",
    "Driver",
    "Duration",
    "Effort",
    "Finding",
    "Fingerprint",
    "IntegrityError",
    "InterruptedByUserError",
    "Loss",
    "NotFoundError",
    "Pulse",
    "Ref",
    "Restored",
    "Reversibility",
    "RollbackError",
    "TimedOutError",
    "UsageError",
    "define_messages",
    "is_secret_name",
    "is_secret_value",
    "parse_duration",
    "resolve_secret",
]
