"""A large database with a write-ahead log is read where it is, and only where that is one moment."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
from sqlite_shop import Shop

from rfs.production.rollback.drivers.sqlite import apart, direct, pages
from rfs.production.rollback.drivers.sqlite import seen as seen_module
from rfs.production.rollback.errors import LockedError, RollbackError
from rfs.production.rollback.model import Capture

driver_module = sys.modules["rfs.production.rollback.drivers.sqlite.driver"]


@pytest.fixture(autouse=True)
def _any_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_module, "COPIED_BYTES", 0)
    monkeypatch.setattr(pages, "_WORTH_THREADS", 0)
    monkeypatch.setattr(driver_module, "CHECKED_BYTES", 4096)  # as of a large one


@pytest.fixture
def wal(tmp_path: Path) -> Shop:
    return Shop(tmp_path, "wal")


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The live database's copies that are made."""
    made: list[str] = []
    really = apart.run

    def note(operation: str, *given: Any) -> None:
        if operation.startswith("copy"):
            made.append(operation)
        really(operation, *given)

    monkeypatch.setattr(apart, "run", note)
    return made


def _copied(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Capture:
    with monkeypatch.context() as patch:
        patch.setattr(seen_module, "COPIED_BYTES", 1 << 40)
        return shop.capture()


def test_it_is_the_same_capture_as_that_of_a_copy(
    wal: Shop, copies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = _copied(wal, monkeypatch)
    assert copies == ["copy_database"]
    here = wal.capture()
    assert (here.fingerprint, here.parts, here.meta) == (copied.fingerprint, copied.parts, copied.meta)
    assert wal.driver.fingerprint(wal.component, rehash=True) == copied.fingerprint
    wal.run("DELETE FROM orders WHERE id % 2")
    wal.restore(here)
    wal.assert_is(copied)
    assert copies == ["copy_database"]
    assert sorted(os.listdir(wal.home)) == [".work", "shop.db"]


def test_a_writer_goes_on_and_what_it_commits_is_not_in_it(
    wal: Shop, copies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = pages.os.pread
    written: list[int] = []

    def write_meanwhile(fd: int, length: int, offset: int) -> bytes:
        found = really(fd, length, offset)
        if offset and not written:
            written.append(offset)
            writer = apsw.Connection(str(wal.path))
            writer.execute("UPDATE orders SET item = 'meanwhile'")
            assert writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[1] == 0  # not into the file
            writer.close()
        return found

    want = _copied(wal, monkeypatch)
    with monkeypatch.context() as patch:
        # The writer is in this process, but of the same library, which keeps its own connections apart.
        patch.setattr(apart, "needed", lambda path: False)
        patch.setattr(pages.os, "pread", write_meanwhile)
        assert wal.capture().fingerprint == want.fingerprint
    assert written
    assert wal.rows("SELECT DISTINCT item FROM orders") == [("meanwhile",)]
    assert copies == ["copy_database"]


@pytest.mark.parametrize("why", ["log", "journal", "longer", "threads", "open here"])
def test_where_it_would_not_be_one_moment_it_is_copied(
    tmp_path: Path, copies: list[str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, "delete" if why == "journal" else "wal")
    held, over = None, threading.Event()
    if why == "longer":
        with open(shop.path, "ab") as file:
            file.write(bytes(4096))
    elif why == "log":
        held = shop.open()
        held.execute("UPDATE orders SET item = 'in the log'")
        monkeypatch.setattr(apart, "needed", lambda path: False)
    elif why == "open here":
        held = shop.open()
    elif why == "threads":
        threading.Thread(target=over.wait, daemon=True).start()
    try:
        taken = shop.capture()
    finally:
        over.set()
        if held is not None:
            held.close()
    assert copies == ["copy_database"]
    shop.run("DELETE FROM orders")
    shop.restore(taken)
    assert shop.rows("SELECT count(*) FROM orders") == [(500,)]


def test_nobody_is_kept_out_afterwards_whatever_happens(wal: Shop, copies: list[str]) -> None:
    wal.store.time_out_at = 1
    with pytest.raises(RollbackError):
        wal.capture()
    wal.store.time_out_at = None
    assert not copies
    assert threading.active_count() == 1
    connection = wal.open()
    connection.pragma("locking_mode", "exclusive")
    connection.execute("BEGIN EXCLUSIVE")
    connection.close()
    wal.capture()


def test_one_that_is_locked_is_waited_for_once(wal: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    monkeypatch.setattr(apart, "needed", lambda path: False)
    monkeypatch.setattr(direct.Patience, "__call__", lambda self, attempts: bool(waited.append(attempts)))
    connection = wal.open()
    connection.pragma("locking_mode", "exclusive")
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LockedError):
        wal.capture()
    assert len(waited) == 1
    connection.close()


@pytest.mark.parametrize("schema", [False, True])
def test_one_that_is_broken_is_refused_as_it_would_be_from_a_copy(
    wal: Shop, schema: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(wal.path.read_bytes())
    content[100 if schema else 0 : 116] = b"\xff" * (16 if schema else 116)
    wal.path.write_bytes(content)
    with pytest.raises(RollbackError) as copied:
        _copied(wal, monkeypatch)
    with pytest.raises(RollbackError) as here:
        wal.capture()
    assert (here.value.key, str(here.value)) == (copied.value.key, str(copied.value))
    assert wal.path.read_bytes() == content
    kept = wal.driver.salvage(wal.component, wal.store, None)
    assert kept.meta["state"] == "raw"


def test_a_disk_that_cannot_read_it_is_told(wal: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    really = pages.os.pread

    def fails(fd: int, length: int, offset: int) -> bytes:
        if offset:
            raise OSError(5, "Input/output error")
        return really(fd, length, offset)

    monkeypatch.setattr(pages.os, "pread", fails)
    with pytest.raises(RollbackError) as caught:
        wal.capture()
    assert caught.value.key == "path.unreadable"


def test_a_check_finds_what_is_wrong_in_the_live_file(wal: Shop) -> None:
    want = wal.capture()
    content = bytearray(wal.path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8] = b"\xff" * 8
    wal.path.write_bytes(content)
    found = wal.driver.verify(wal.component, wal.store, want)
    assert "integrity" in {change.key for change in found}
