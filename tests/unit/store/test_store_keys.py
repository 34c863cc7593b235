"""Making and opening a store: keys, modes, format numbers, the two copies of its record."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from store_kit import ERRORS, DiedError, assert_holds, fill, flip, machine

from rfs.production.rollback.errors import IntegrityError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.store import Store


def mode(path: str | Path) -> int:
    return os.stat(path).st_mode & 0o777


def test_modes_of_a_new_store(store: Store, root: str, key: str) -> None:
    assert mode(root) == mode(Path(root, "packs")) == mode(Path(root, "tmp")) == 0o700
    assert mode(Path(root, "repository")) == 0o600
    assert mode(key) == 0o600
    assert mode(Path(key).parent) == 0o700


def test_an_existing_folder_keeps_its_mode(tmp_path: Path, key: str) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    Store.create(str(tmp_path / "there"), key).close()
    assert mode(tmp_path / "there") == 0o755


def test_an_existing_key_is_used(tmp_path: Path, store: Store, key: str) -> None:
    before = Path(key).read_bytes()
    with Store.create(str(tmp_path / "second"), key) as second:
        second.check_key()
    assert Path(key).read_bytes() == before


def test_a_second_store_in_the_same_place_is_refused(store: Store, root: str, key: str) -> None:
    before = Path(root, "repository").read_bytes()
    with pytest.raises(UsageError) as caught:
        Store.create(root, key)
    assert caught.value.key == "store.exists"
    Path(root, "repository").unlink()
    with pytest.raises(UsageError):  # the packs' copy of the record still says so
        Store.create(root, key)
    assert Path(root, "packs", "repository").read_bytes() == before


def test_no_store(tmp_path: Path, key: str) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(NotFoundError) as caught:
            Store.open(str(path), key)
        assert caught.value.key == "store.none"


@pytest.mark.parametrize("bits", [0o040, 0o004, 0o020, 0o002])
def test_a_key_open_to_others_is_refused(store: Store, root: str, key: str, bits: int) -> None:
    os.chmod(key, 0o600 | bits)
    with pytest.raises(UsageError) as caught:
        Store.open(root, key)
    assert caught.value.key == "store.key_open"
    with pytest.raises(UsageError):
        Store.create(root + "2", key)


@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_a_store_writable_by_others_is_refused(store: Store, root: str, key: str, bits: int) -> None:
    os.chmod(root, 0o700 | bits)
    with pytest.raises(UsageError) as caught:
        Store.open(root, key)
    assert caught.value.key == "store.writable"


def test_a_store_is_not_made_where_others_may_write(tmp_path: Path, key: str) -> None:
    (tmp_path / "shared").mkdir()
    os.chmod(tmp_path / "shared", 0o777)
    with pytest.raises(UsageError) as caught:
        Store.create(str(tmp_path / "shared"), key)
    assert caught.value.key == "store.writable"
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_missing_key(store: Store, root: str, key: str) -> None:
    os.unlink(key)
    with pytest.raises(UsageError) as caught:
        Store.open(root, key)
    assert caught.value.key == "store.key_missing"


WRONG = {
    "another": b"rfs-key-1:" + b"ab" * 32 + b"\n",
    "short": b"rfs-key-1:abcd\n",
    "no hex": b"rfs-key-1:" + b"zz" * 32 + b"\n",
    "empty": b"",
    "something else": b"-----BEGIN PRIVATE KEY-----\n",
    "not ASCII": b"rfs-key-1:" + b"\xff" * 64,
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_key(store: Store, root: str, key: str, name: str) -> None:
    store.put(b"data")
    store.flush()
    Path(key).write_bytes(WRONG[name])
    with Store.open(root, key) as again:
        blob = bytes(32)
        for use in (
            again.check_key,
            lambda: again.put(b"x"),
            lambda: again.identify(b"x"),
            again.annex,
        ):
            with pytest.raises(UsageError) as caught:
                use()
            assert caught.value.key == "store.key_wrong"
        assert not again.has(blob)
    assert not os.listdir(Path(root, "tmp"))


def test_every_digit_of_a_key_matters(store: Store, root: str, key: str) -> None:
    good = Path(key).read_bytes()
    for offset in range(len(b"rfs-key-1:"), len(good) - 1):
        digits = bytearray(good)
        digits[offset] = ord("0") if digits[offset] != ord("0") else ord("1")
        Path(key).write_bytes(digits)
        with Store.open(root, key) as again, pytest.raises(UsageError):
            again.check_key()


def test_a_key_of_a_newer_format(store: Store, root: str, key: str) -> None:
    Path(key).write_bytes(b"rfs-key-2:whatever\n")
    with Store.open(root, key) as again, pytest.raises(UsageError) as caught:
        again.check_key()
    assert caught.value.key == "store.key_format"


def test_a_store_of_a_newer_format(store: Store, root: str, key: str) -> None:
    Path(root, "repository").write_bytes(b'{"format": 2, "new": []}')
    with pytest.raises(RollbackError, match="format 2") as caught:
        Store.open(root, key)
    assert caught.value.key == "store.format"


def test_a_pack_of_a_newer_format(store: Store, root: str, key: str) -> None:
    store.put(b"data")
    store.flush()
    store.close()
    (pack,) = Path(root, "packs").glob("*.pack")
    flip(pack, 8)
    Path(root, "index.db").unlink()
    with Store.open(root, key) as again, pytest.raises(RollbackError) as caught:
        again.recover()
    assert caught.value.key == "store.format"
    assert pack.exists()


@pytest.mark.parametrize("name", ["repository", "packs/repository"])
def test_one_copy_of_the_record_is_enough(store: Store, root: str, key: str, name: str) -> None:
    wanted = fill(store, 4)
    store.flush()
    path = Path(root, name)
    good = path.read_bytes()
    for offset in range(len(good) - 1):
        flip(path, offset)
        try:
            again = Store.open(root, key)
        except RollbackError as error:  # a bit of the format number itself
            assert error.key == "store.format"  # noqa: PT017  # that nothing is raised is right, too
            assert offset == good.index(b'"format":') + len(b'"format":')
        else:
            with again:
                again.check_key()
                assert again.id == store.id
        path.write_bytes(good)
    path.write_bytes(b"rubbish")
    with Store.open(root, key) as again:
        assert_holds(again, wanted)
        assert len(again.recover()) == 1
        assert again.recover() == []
    assert path.read_bytes() == good


def test_both_copies_damaged(store: Store, root: str, key: str) -> None:
    Path(root, "repository").write_bytes(b"")
    Path(root, "packs", "repository").write_bytes(b"[]")
    with pytest.raises(IntegrityError, match="both copies"):
        Store.open(root, key)


def test_the_record_of_another_store_is_a_wrong_key(store: Store, root: str, key: str, tmp_path: Path) -> None:
    """An id that was exchanged is found by the tag of the wrapped key."""
    record = msgspec.json.decode(Path(root, "repository").read_bytes(), type=dict)
    from rfs.production.rollback.store.keys import _checksum

    record["id"] = "00" * 16
    record["check"] = _checksum(record["id"], record["key"])
    for name in ("repository", "packs/repository"):
        Path(root, name).write_bytes(msgspec.json.encode(record))
    with Store.open(root, key) as again, pytest.raises(UsageError) as caught:
        again.check_key()
    assert caught.value.key == "store.key_wrong"


def test_packs_and_key_alone_are_a_store(store: Store, root: str, key: str, tmp_path: Path) -> None:
    wanted = fill(store, 50)
    part = store.put_part(list(wanted), b"")
    store.put_record("checkpoint", b"record")
    store.flush()
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    shutil.copytree(Path(root, "packs"), copy / "packs")
    with Store.open(str(copy), key) as again:
        assert_holds(again, wanted)
        assert again.reachable([part]) == {part, *wanted}
        assert list(again.records("checkpoint")) == [b"record"]
        again.recover()
        more = fill(again, 5, seed=3)
        again.flush()
        assert_holds(again, wanted | more)
        assert again.recover() == []


@pytest.mark.parametrize("fault", [None, *ERRORS])
def test_making_a_store_fails_or_dies_at_any_call(tmp_path: Path, fault: str | None) -> None:
    at = fired = 0
    while True:
        at += 1
        root, key = str(tmp_path / f"s{at}"), str(tmp_path / f"k{at}" / "key")
        with machine(at, ERRORS.get(fault or "")) as state:
            expected = DiedError if fault is None else RollbackError
            with suppress(expected):
                Store.create(root, key).close()
        if not state.fired:
            break
        fired += 1
        # Whatever was left, either it is a whole store or one can be made now.
        try:
            Store.create(root, key).close()
        except UsageError as error:
            assert error.key == "store.exists"  # noqa: PT017  # that nothing is raised is right, too
        with Store.open(root, key) as made:
            wanted = fill(made, 3)
            made.recover()
            made.discard()
            wanted = fill(made, 3)
            made.flush()
            assert_holds(made, wanted)
    assert fired > 15
