"""What tells whether the schema of a live database is still the one that somebody agreed to."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from math import inf

import msgspec

from rfs.production.rollback.capturing import Part
from rfs.production.rollback.errors import RollbackError


class _Nowhere:
    """A sink for what is asked only for what it says."""

    def put(self, data: bytes) -> bytes:
        return b""

    def put_all(self, contents: Sequence[bytes]) -> list[bytes]:
        return [b""] * len(contents)

    def put_part(self, refs: Sequence[bytes], body: bytes) -> bytes:
        return b""

    def has(self, blob: bytes) -> bool:
        return False

    def identify(self, data: bytes) -> bytes:
        return b""

    def tick(self, items: int = 0, size: int = 0) -> None:
        pass

    def remaining(self) -> float:
        return inf


def schema_of(part: Part) -> str:
    """Return what is another text when the schema is another one; "" where nothing is known of a schema.

    Of a database with migrations, which of them are in force; of another SQLite database, a digest of the statements
    that made its tables. Of a PostgreSQL database without migrations nothing: that would take a dump of it.
    """
    if part.migrator is not None:
        recorded = part.migrator.record(part.component, _Nowhere())
        return f"migrations {', '.join(sorted(recorded.applied))}" if not recorded.why else ""
    if part.component.kind != "sqlite":
        return ""
    try:
        outline = part.driver.outline(part.component)
    except RollbackError:  # the rollback itself tells what is wrong with it
        return ""
    return sha256(msgspec.json.encode(outline, order="sorted")).hexdigest()[:16]
