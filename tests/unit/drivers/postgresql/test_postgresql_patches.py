"""Tables that change in a few rows of every piece: what is stored of them, and that it comes back to the byte."""

from __future__ import annotations

import random

import pytest

from rfs.production.rollback.drivers.postgresql.content import Contents, before, store
from rfs.production.rollback.drivers.postgresql.patches import patch, patched
from rfs.production.rollback.drivers.postgresql.script import End, Piece, Rows, Table
from rfs.production.rollback.errors import IntegrityError
from rfs.production.rollback.model import Capture
from rfs.testing import MemoryStore

WORDS = [
    "copper",
    "kettle",
    "glass",
    "cup",
    "porcelain",
    "teapot",
    "strainer",
    "steel",
    "clay",
    "lid",
    "handle",
    "blue",
]
ROWS = 20_000


def row(number: int, version: int = 0) -> bytes:
    dice = random.Random(number)
    words = " ".join(dice.choices(WORDS, k=8))
    return f"{number}\tcustomer{number}@example.org\t{words}\t{dice.randrange(10**6) + version}\n".encode()


def dump(rows: list[bytes]) -> list[Piece]:
    text = b"".join(rows)
    return [Table("public.t (id)"), *(Rows(text[at : at + 70_000]) for at in range(0, len(text), 70_000)), End()]


def spread(rows: list[bytes], version: int, every: int = 100) -> list[bytes]:
    """Change a row in so many, as PostgreSQL does: the new version of a row is put where there is room."""
    changed = {n for n in range(len(rows)) if (n + 7 * version) % every == 0}
    new = [row(int(rows[n].split(b"\t")[0]), version) for n in sorted(changed)]
    return [each for n, each in enumerate(rows) if n not in changed] + new


def text_of(pieces: list[Piece]) -> bytes:
    return b"".join(piece.text for piece in pieces if isinstance(piece, Rows))


def capture(sink: MemoryStore, rows: list[bytes], previous: Capture | None) -> tuple[Capture, int]:
    """Take a capture as the driver does; return it and the bytes that it added."""
    size = sum(map(len, sink.blobs.values()))
    fingerprint, parts, has_patches = store({}, dump(rows), sink, before(previous, sink))
    meta = {"state": "dump", "format": 2 if has_patches else 1, "database": {}}
    made = Capture(component="db", kind="postgresql", fingerprint=fingerprint, parts=parts, meta=meta)
    return made, sum(map(len, sink.blobs.values())) - size


def test_a_hundredth_of_the_rows_all_over_a_table_costs_little_again_and_again() -> None:
    sink = MemoryStore()
    rows = [row(n) for n in range(ROWS)]
    taken, whole = capture(sink, rows, None)
    assert taken.meta["format"] == 1
    for version in range(1, 5):
        rows = spread(rows, version)
        later, added = capture(sink, rows, taken)
        assert added < whole * 0.1
        assert later.meta["format"] == 2
        same, none = capture(sink, rows, later)
        assert (none, same.fingerprint, same.parts) == (0, later.fingerprint, later.parts)
        contents = Contents(later, sink)
        contents.require()
        assert text_of(list(contents.pieces())) == b"".join(rows)
        for item, refs in contents.items():
            for piece, _, text in contents.rows(item, refs):  # type: ignore[arg-type]  # it has one table, no script
                assert sink.identify(text()) == piece
        taken = later


def test_what_a_patch_is_of_is_stored_by_itself_and_many_changes_end_the_patches() -> None:
    sink = MemoryStore()
    rows = [row(n) for n in range(ROWS // 4)]
    taken, whole = capture(sink, rows, None)
    costs = []
    for version in range(1, 16):
        rows = [row(n, version if (n + version) % 5 == 0 else 0) for n in range(ROWS // 4)]
        taken, added = capture(sink, rows, taken)
        costs.append(added)
        for item, _ in Contents(taken, sink).items():
            holders = {item.blobs[position] for position in item.patches}  # type: ignore[union-attr]  # as above
            assert not holders & {base for bases, _ in item.patches.values() for base in bases}  # type: ignore[union-attr]  # as above
    Contents(taken, sink).require()
    assert max(costs) <= whole


def test_all_rows_changed_are_stored_by_themselves() -> None:
    sink = MemoryStore()
    taken, whole = capture(sink, [row(n) for n in range(ROWS)], None)
    other = [row(n)[::-1].strip(b"\n") + b"\n" for n in range(ROWS)]
    later, added = capture(sink, other, taken)
    assert added == pytest.approx(whole, rel=0.01)
    assert later.meta["format"] == 1


def test_a_damaged_checkpoint_before_is_no_reason_not_to_take_one() -> None:
    sink = MemoryStore()
    rows = [row(n) for n in range(ROWS)]
    taken, whole = capture(sink, rows, None)
    rows = spread(rows, 1)
    later, _ = capture(sink, rows, taken)
    for blob in list(sink.blobs):
        sink.blobs[blob] = b"damaged"
    again, added = capture(sink, spread(rows, 2), later)
    assert added > whole * 0.9
    Contents(again, sink).require()
    del sink.parts[later.parts[0]]
    capture(sink, rows, later)


def test_a_missing_or_damaged_base_is_found_before_anything_is_built() -> None:
    sink = MemoryStore()
    rows = [row(n) for n in range(ROWS)]
    taken, _ = capture(sink, rows, None)
    bases = set(sink.blobs)
    later, _ = capture(sink, spread(rows, 1), taken)
    refs, _ = sink.parts[later.parts[0]]
    assert bases & set(refs), "prune would remove what the patches are of"
    del sink.blobs[next(iter(bases & set(refs)))]
    with pytest.raises(IntegrityError):
        Contents(later, sink).require()


def test_what_is_lost_of_a_checkpoint_is_stored_again_by_the_next() -> None:
    sink = MemoryStore()
    rows = [row(n) for n in range(ROWS)]
    taken, _ = capture(sink, rows, None)
    rows = spread(rows, 1)
    later, _ = capture(sink, rows, taken)
    for blob in sorted(sink.blobs)[::2]:
        del sink.blobs[blob]
    again, added = capture(sink, rows, later)
    assert added
    assert again.fingerprint == later.fingerprint
    Contents(again, sink).require()


def test_a_patch_of_another_piece_is_refused() -> None:
    one, two = (b"".join(row(n) for n in range(start, start + 500)) for start in (0, 5000))
    made = patch(one, b"".join(row(n) for n in range(3, 500)))
    assert made is not None
    assert patched(one, made) == b"".join(row(n) for n in range(3, 500))
    for base, what in ((two, made), (one[:-1], made), (one, made[:-9]), (one, b"nothing")):
        with pytest.raises(ValueError, match="not a patch"):
            patched(base, what)
    assert patch(one, two) is None
