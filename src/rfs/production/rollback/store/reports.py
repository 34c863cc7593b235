"""What the store's upkeep reports."""

from __future__ import annotations

import msgspec


class Damage(msgspec.Struct, frozen=True):
    """What a verification found.

    Attributes:
        blobs: ids of blobs, manifest parts and records of which no good copy was found.
        packs: one sentence for each pack that is not as it was sealed.
        checked: how many blobs were read.
        size: bytes read.
    """

    blobs: frozenset[bytes] = frozenset()
    packs: tuple[str, ...] = ()
    checked: int = 0
    size: int = 0

    def __bool__(self) -> bool:
        """True when anything is damaged."""
        return bool(self.blobs or self.packs)


class Pruned(msgspec.Struct, frozen=True):
    """What a prune removed, or would remove.

    Attributes:
        freed: bytes; negative when damage forced copies to stay in two places.
        packs_removed: packs that are gone, rewritten ones included.
        packs_rewritten: packs of which the wanted part went into a new pack.
        blobs_removed: blobs, parts and records that are gone.
        left: one sentence for each damaged pack that was left as it is.
    """

    freed: int = 0
    packs_removed: int = 0
    packs_rewritten: int = 0
    blobs_removed: int = 0
    left: tuple[str, ...] = ()
