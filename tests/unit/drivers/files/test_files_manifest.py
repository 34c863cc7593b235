"""Trees become parts and come back; what did not change is the same part."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from rfs.production.rollback.drivers.files import FilesDriver, manifest
from rfs.production.rollback.drivers.files.tree import MTIME, ROW, Block, Extra, Tree, pack_rows, seal, signed
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Capture
from rfs.testing import MemoryStore, component

FOLDER, FILE = 0o040755, 0o100644


def block(entries: dict[str, tuple[int, int]], extras: dict[int, Extra] | None = None) -> Block:
    """Return a block of (mode, mtime) by name."""
    flat: list[int] = []
    for mode, mtime in entries.values():
        flat += [0, 0, mtime, 0, mode, 1, 2, 0]
    names = os.fsencode("\0".join(entries))
    count = len(entries)
    return seal(Block(names, pack_rows(flat), bytes(32 * count), bytes(32 * count), extras or {}, {}, []))


def test_large_folder_is_cut_and_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_MOST_ENTRIES", 10)
    names = {f"{at:03}": (FILE, at) for at in range(47)}
    tree = Tree(block({".": (FOLDER, 5)}), {"": block(names, {33: Extra(flags=16)})}, b"link", [["001", "002"]])
    store = MemoryStore()
    written = manifest.write(tree, store, [])
    back = manifest.read(written.parts, store)
    assert back.blocks[""].listed() == list(names)
    assert back.blocks[""].rows == tree.blocks[""].rows
    assert back.blocks[""].extras == {33: Extra(flags=16)}
    assert (back.link, back.groups) == (b"link", [["001", "002"]])
    assert back.digest() == tree.digest()


def test_times_before_1970_and_far_ahead() -> None:
    for time in (-1, -(10**18), 0, 10**18, 15 * 10**18):
        (held,) = Block(b"x", pack_rows([0, 0, time, 0, FILE, 0, 0, 0]), b"", b"", {}, {}, []).numbers()[MTIME::ROW]
        assert signed(held) == time


def test_digest_tells_every_part_of_the_state() -> None:
    def tree(**more: object) -> Tree:
        parts: dict[str, object] = {"name": "a", "mode": FILE, "mtime": 1, "extra": Extra(), "link": None, "groups": []}
        parts |= more
        inner = block({str(parts["name"]): (parts["mode"], parts["mtime"])}, {0: parts["extra"]})
        return Tree(block({".": (FOLDER, 5)}), {"": inner}, parts["link"], parts["groups"])

    ways = [
        tree(),
        tree(name="b"),
        tree(mode=0o100600),
        tree(mode=0o120777),
        tree(mtime=2),
        tree(extra=Extra(link=b"x")),
        tree(extra=Extra(xattrs=((b"user.a", b""),))),
        tree(extra=Extra(flags=16)),
        tree(extra=Extra(device=3)),
        tree(link=b"x"),
        tree(groups=[["a", "b"]]),
    ]
    assert len({each.digest() for each in ways}) == len(ways)


def test_folder_time_is_no_part_of_the_identity() -> None:
    first, second = block({"d": (FOLDER, 1)}), block({"d": (FOLDER, 2)})
    assert first.digest == second.digest
    assert block({"d": (FILE, 1)}).digest != block({"d": (FILE, 2)}).digest


def test_unchanged_parts_are_the_same_parts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for folder in range(120):
        (root / f"{folder:03}").mkdir(parents=True)
        for file in range(30):
            (root / f"{folder:03}" / f"{file}").write_bytes(b"%d" % file)
    c, store = component("files", tmp_path, path="root"), MemoryStore()
    previous: Capture | None = None
    captures = []
    for text in (b"", b"one", b"two"):
        if text:
            (root / "040" / "7").write_bytes(text)
        previous = FilesDriver().capture(c, store, previous)
        captures.append(previous)
        # What is taken over from the index is what a look without one would have stored.
        fresh = FilesDriver().capture(component("files", tmp_path, name="fresh", path="root"), MemoryStore(), None)
        os.remove(tmp_path / ".work" / "fresh" / "files.index")
        assert fresh.parts == previous.parts
    first, second, _ = captures
    assert len(first.parts) >= 2
    assert len(set(first.parts) - set(second.parts)) <= 2


def test_sizes_of_parts_stay_in_bounds(tmp_path: Path) -> None:
    blocks = {"": block({f"d{at}": (FOLDER, 1) for at in range(3000)})}
    blocks |= {f"d{at}": block({str(n): (FILE, n) for n in range(at % 50)}) for at in range(3000)}
    sizes = [sum(len(b) for _, b in run) for run in manifest._runs(Tree(block({".": (FOLDER, 1)}), blocks))]
    assert sum(sizes) == sum(map(len, blocks.values()))
    assert max(sizes) < 9000
    assert 20 < len(sizes) < 200


def test_folders_that_are_as_they_were_found_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = dict.fromkeys(("equal", "edited", "loose", "long", "parent"), (FOLDER, 1))
    wanted = {
        "": block(folders),
        "equal": block({"a": (FILE, 1), "b": (FILE, 2)}),
        "edited": block({"a": (FILE, 1)}),
        "loose": block({"a": (FILE, 1)}),
        "long": block({str(at): (FILE, at) for at in range(100, 150)}),
        "parent": block({"child": (FOLDER, 1)}),
        "parent/child": block({}),
    }
    monkeypatch.setattr(manifest, "_MOST_ENTRIES", 40)  # so that the long one stands there in two pieces
    store = MemoryStore()
    parts = manifest.write(Tree(block({".": (FOLDER, 5)}), wanted), store, []).parts
    there = {
        "": block(folders),
        "equal": block({"a": (FILE, 1), "b": (FILE, 2)}),
        "edited": block({"a": (FILE, 9)}),
        "loose": block({"a": (FILE, 1)}),
        "long": block({str(at): (FILE, at) for at in range(100, 150)}),
        "parent": block({"child": (FOLDER, 2)}),  # equal by its digest, which leaves out the times of folders
        "parent/child": block({}),
        "other": block({}),
    }
    there["loose"].loose = True
    plain, shared = manifest.read(parts, store), manifest.read(parts, store, there)
    assert {path for path, each in shared.blocks.items() if each is there[path]} == {"", "equal", "parent/child"}
    assert shared.digest() == plain.digest()
    for path, each in plain.blocks.items():
        assert shared.blocks[path].rows == each.rows
        assert (shared.blocks[path].loose, shared.blocks[path].names) == (each.loose, each.names)


def test_a_folder_that_stands_there_twice_is_refused_and_spoils_nothing() -> None:
    inner = block({"a": (FILE, 1)})
    tree = Tree(block({".": (FOLDER, 5)}), {"": block({"d": (FOLDER, 1)}), "d": inner})
    store = MemoryStore()
    (part,) = manifest.write(tree, store, []).parts
    refs, body = store.get_part(part)
    decoded = msgspec.msgpack.decode(body, type=manifest._Part)
    decoded.records.append(decoded.records[-1])
    forged = store.put_part(refs, msgspec.msgpack.encode(decoded))
    before = bytes(inner.rows)
    for like in (None, tree.blocks):
        with pytest.raises(RollbackError):
            manifest.read([forged], store, like)
    assert inner.rows == before
