"""A change to one thing, with what was there before and after it, as the ledger keeps it."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from datetime import datetime
from typing import Any

import msgspec

from rfs.production.rollback.model import json_like, new_id, storable

# Logs of the ledger: the changes that stand, and those that were taken back.
STANDING, UNDONE = "changes", "changes:undone"
# And what is about to be written while one is taken back.
INTENTS = "changes:intents"
# In bytes, as it is stored.
LARGEST = 512 << 20
_BYTES = "\0bytes"


class TrackedChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change. `key`, `old` and `new` are JSON-like, or hold bytes.

    Attributes:
        kind: "change" when an application told of it; "save" or "configuration" when a version was saved or applied.
    """

    change_id: str
    component: str
    change_type: str
    key: Any
    old: Any
    new: Any
    at: datetime
    kind: str = "change"

    def to_dict(self) -> dict[str, Any]:
        """Return what the log tells of it."""
        return {
            "change_id": self.change_id,
            "component": self.component,
            "change_type": self.change_type,
            "key": self.key,
            "old_value": self.old,
            "new_value": self.new,
            "timestamp": self.at,
        }

    @property
    def what(self) -> str:
        """Which thing it is about, in a few words for people."""
        if isinstance(self.key, dict) and {"table", "pk"} <= self.key.keys():
            pk = self.key["pk"]
            words = ", ".join(f"{column} {value}" for column, value in pk.items()) if isinstance(pk, dict) else pk
            return f"{self.key['table']} {words}"
        return self.key if isinstance(self.key, str) else ""

    def turned(self) -> TrackedChange:
        """Return the change that does again what taking this one back undoes."""
        return msgspec.structs.replace(self, old=self.new, new=self.old)


def new_change_id() -> str:
    """Return a new id; it has 24 digits, as there may be very many changes."""
    return new_id() + new_id()


def storable_value(value: Any, where: str) -> Any:
    """Return a value as it comes back from the log; bytes may stand wherever JSON has a value.

    Raises:
        UsageError: usage.json.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, list | tuple):
        return [storable_value(each, f"{where}[{number}]") for number, each in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value) and _BYTES not in value:
        return {storable(key): storable_value(each, f"{where}[{key!r}]") for key, each in value.items()}
    return json_like(value, where)


def encoded(change: TrackedChange) -> bytes:
    """Return a change as it is stored."""
    fields = {**msgspec.structs.asdict(change), "at": change.at.isoformat()}
    return json.dumps(fields, default=lambda raw: {_BYTES: b64encode(raw).decode()}, ensure_ascii=False).encode()


def decoded(body: bytes) -> TrackedChange:
    """Return a change that was stored."""
    fields = json.loads(body, object_hook=lambda found: b64decode(found[_BYTES]) if _BYTES in found else found)
    return TrackedChange(**{**fields, "at": datetime.fromisoformat(fields["at"])})
