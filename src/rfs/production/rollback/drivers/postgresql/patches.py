"""A piece of rows told by a piece of the checkpoint before, and what is different in it.

Updates all over a table change every piece of it, and of each a few rows. Such a piece is stored as a patch: compressed
with that one, or some that stand side by side, as its dictionary. Those are always stored by themselves, so that no
patch stands on a patch, and as more and more of it differs the piece is stored by itself again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.errors import IntegrityError

# Below, a piece is stored as it is: there is little to gain.
_LEAST = 4 << 10
# A patch is worth it when it has at most this share of the piece; without doubt when it has the other, above which it
# must also take at most half of what the piece takes by itself.
_MOST, _SURE = 1 / 4, 1 / 32
_MOST_BASES = 4
# So many rows at either end of a piece are looked for, so many pieces around the place of the last one.
_SAMPLE, _FAR = 5, 8
# After so many pieces one after the other that have nothing in common with the ones before, nobody looks any more.
_PATIENCE = 8


class Held(NamedTuple):
    """How a piece is held.

    Attributes:
        blob: the piece itself, or a patch.
        bases: what the patch is of, one after the other; none when it is no patch.
    """

    blob: bytes
    bases: tuple[bytes, ...] = ()


def patch(base: bytes, data: bytes) -> bytes | None:
    """Return what makes `data` of `base`, or None when that is not worth it."""
    from zstandard import DICT_TYPE_RAWCONTENT, ZstdCompressionDict, ZstdCompressor

    if min(len(base), len(data)) < _LEAST:
        return None
    like = ZstdCompressionDict(base, dict_type=DICT_TYPE_RAWCONTENT)
    # Level 1 loses sight of the dictionary where much differs. The checksum is of the piece: of another base, another
    # one would come out.
    made = ZstdCompressor(level=3, dict_data=like, write_checksum=True).compress(data)
    if len(made) <= len(data) * _SURE:
        return made
    if len(made) > len(data) * _MOST or 2 * len(made) > len(ZstdCompressor(level=1).compress(data)):
        return None
    return made


def patched(base: bytes, made: bytes) -> bytes:
    """Return the piece that `patch` was given.

    Raises:
        ValueError: it is not a patch of this base.
    """
    from zstandard import DICT_TYPE_RAWCONTENT, ZstdCompressionDict, ZstdDecompressor, ZstdError

    try:
        return ZstdDecompressor(dict_data=ZstdCompressionDict(base, dict_type=DICT_TYPE_RAWCONTENT)).decompress(made)
    except ZstdError as error:
        raise ValueError("not a patch of this base") from error


class Before:
    """The pieces of a checkpoint before, by table, and where in it the new one is.

    Args:
        source: where that is.
        tables: of each its pieces in their order: the id of the text, and how it is held.
    """

    def __init__(self, source: BlobSource, tables: dict[str, list[tuple[bytes, Held]]]) -> None:
        self._source = source
        self._tables = tables
        self._held: dict[bytes, Held] = {}
        # What a patch can be of, in the order of the table, and the number of each.
        self._bases: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._texts: dict[int, bytes] = {}
        self._at = self._failed = 0

    def begin(self, header: str) -> None:
        """A table begins."""
        self._held = dict(self._tables.get(header, ()))
        self._bases = list(dict.fromkeys(base for held in self._held.values() for base in held.bases or (held.blob,)))
        self._numbers = {base: number for number, base in enumerate(self._bases)}
        self._texts = {}
        self._at = self._failed = 0

    def known(self, text: bytes) -> Held | None:
        """Return how the same piece was held, if all of that is still there."""
        held = self._held.get(text)
        if held is None or not all(map(self._source.has, (held.blob, *held.bases))):
            return None
        self._at, self._failed = self._numbers[(held.bases or (held.blob,))[-1]], 0
        return held

    def similar(self, data: bytes) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Return a patch that makes a new piece, and the ids of what it is of; None when nothing is like it."""
        if self._failed >= _PATIENCE:
            return None
        rows = data.splitlines(keepends=True)
        first, last = self._find(rows[:_SAMPLE]), self._find(rows[: -_SAMPLE - 1 : -1])
        ends = sorted(number for number in (first, last) if number is not None)
        if ends:
            numbers = range(ends[0], ends[-1] + 1)[:_MOST_BASES]
            made = patch(b"".join(map(self._text, numbers)), data)
            if made is not None:
                self._at, self._failed = numbers[-1], 0
                return made, tuple(self._bases[number] for number in numbers)
        self._failed += 1
        return None

    def _find(self, rows: Sequence[bytes]) -> int | None:
        """Return where any of these rows was, nearest to the last piece; None when that is nowhere near."""
        for away in range(_FAR):
            for number in {self._at + away, self._at - away}:
                if 0 <= number < len(self._bases) and any(row in self._text(number) for row in rows):
                    return number
        return None

    def _text(self, number: int) -> bytes:
        if number not in self._texts:
            if len(self._texts) > 2 * _FAR:
                del self._texts[min(self._texts)]
            try:
                self._texts[number] = self._source.get(self._bases[number])
            except IntegrityError:
                # What is damaged is no reason not to take a checkpoint, and nothing is like it.
                self._texts[number] = b""
        return self._texts[number]
