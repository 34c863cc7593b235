from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from sqlite_shop import Shop

from rfs.production.rollback.drivers.sqlite import SqliteDriver, direct, live, pages, unchanged
from rfs.production.rollback.drivers.sqlite import driver as driver_module
from rfs.production.rollback.errors import LockedError, RollbackError
from rfs.production.rollback.model import Capture, Fingerprint
from rfs.testing import component


def grow_old(shop: Shop) -> None:
    """Make the database's files look as if nobody had touched them for a minute (ctime cannot be set)."""
    then = time.time_ns() - 60 * 10**9
    for side in ("", "-wal"):
        if os.path.exists(f"{shop.path}{side}"):
            os.utime(f"{shop.path}{side}", ns=(then, then))


@pytest.fixture
def settled(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop whose files count as quiet, however new they are."""
    monkeypatch.setattr("rfs.production.rollback.drivers.sqlite.unchanged.QUIET_NS", 0)
    grow_old(shop)
    return shop


def test_unchanged_pages_cost_nothing(shop: Shop) -> None:
    shop.orders(501, 6000)
    first = shop.capture()
    blobs = set(shop.store.blobs)
    assert len(blobs) > 20
    shop.run("UPDATE orders SET total = total + 1 WHERE id = 3000")
    second = shop.capture(first)
    assert second.fingerprint != first.fingerprint
    # The row's page; page 1 only counts changes, which is left out.
    assert len(set(shop.store.blobs) - blobs) == 1


def test_a_commit_that_changes_nothing_is_no_change(shop: Shop) -> None:
    first = shop.capture()
    shop.run("PRAGMA user_version = 5", "PRAGMA user_version = 0")
    assert shop.capture(first).fingerprint == first.fingerprint
    shop.run("UPDATE orders SET item = 'x' WHERE id = 1")
    assert shop.capture(first).fingerprint != first.fingerprint


def test_captures_what_is_only_in_the_log(shop: Shop) -> None:
    connection = shop.open()
    connection.execute("UPDATE orders SET item = 'in the log'")
    want = shop.capture()
    connection.execute("DELETE FROM orders")
    connection.close()
    shop.restore(want)
    assert shop.rows("SELECT DISTINCT item FROM orders") == [("in the log",)]


def test_leaves_out_what_is_not_committed(shop: Shop) -> None:
    before = shop.capture()
    connection = shop.open()
    connection.execute("BEGIN IMMEDIATE; DELETE FROM orders")
    assert shop.capture().fingerprint == before.fingerprint
    connection.close()


def test_a_log_left_by_a_crash_stays_as_it_is(shop: Shop) -> None:
    if shop.journal != "wal":
        pytest.skip("only a write-ahead log outlives its writer")
    connection = shop.open()
    connection.execute("UPDATE orders SET item = 'in the log'")
    kept = {side: Path(f"{shop.path}{side}").read_bytes() for side in ("", "-wal")}
    connection.close()
    for side, content in kept.items():
        Path(f"{shop.path}{side}").write_bytes(content)
    want = shop.capture()
    assert {side: Path(f"{shop.path}{side}").read_bytes() for side in ("", "-wal")} == kept
    shop.run("DELETE FROM orders")
    shop.restore(want)
    assert shop.rows("SELECT DISTINCT item FROM orders") == [("in the log",)]


def test_leaves_no_files_beside_the_database(shop: Shop) -> None:
    shop.capture()
    shop.driver.fingerprint(shop.component, rehash=True)
    assert sorted(os.listdir(shop.home)) == [".work", "shop.db"]


def test_nothing_is_read_again_of_a_quiet_database(settled: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    first = settled.capture()

    def read_again(*_: Any, **__: Any) -> None:
        pytest.fail("it was read again")

    for name in ("observed", "seen"):
        monkeypatch.setattr(driver_module, name, read_again)
    assert settled.driver.fingerprint(settled.component, rehash=False) == first.fingerprint
    assert settled.capture(first) == first
    assert list(settled.driver.changes(settled.component, settled.store, first, None)) == []
    settled.driver.stage(settled.component, settled.store, first)
    with pytest.raises(pytest.fail.Exception):
        settled.driver.fingerprint(settled.component, rehash=True)


@pytest.mark.parametrize("how", ["row", "mode", "replaced", "log"])
def test_whatever_changes_is_noticed(settled: Shop, how: str) -> None:
    first = settled.capture()
    connection = None
    if how == "row":
        settled.run("UPDATE orders SET item = 'x' WHERE id = 1")
    elif how == "mode":
        os.chmod(settled.path, 0o600)
    elif how == "replaced":
        content, found = settled.path.read_bytes().replace(b"item 77 ", b"ITEM 77 "), os.stat(settled.path)
        os.unlink(settled.path)
        settled.path.write_bytes(content)
        os.utime(settled.path, ns=(found.st_atime_ns, found.st_mtime_ns))
    else:
        connection = settled.open()
        connection.execute("UPDATE orders SET item = 'x' WHERE id = 1")
    assert settled.driver.fingerprint(settled.component, rehash=False) != first.fingerprint
    if connection is not None:
        connection.close()


def test_a_database_written_just_now_is_not_trusted(shop: Shop) -> None:
    first = shop.capture()
    assert not Path(shop.component.work, "seen.json").exists()
    assert shop.driver.fingerprint(shop.component, rehash=False) == first.fingerprint


@pytest.mark.parametrize(("quiet_seconds", "known"), [(1, False), (3, True)])
def test_it_had_to_be_quiet_before_it_was_read(shop: Shop, quiet_seconds: int, known: bool) -> None:
    """However long the reading took: a write in the tick of the look would be invisible."""
    found, fingerprint = os.stat(shop.path), Fingerprint("f00d")
    taken = max(found.st_mtime_ns, found.st_ctime_ns) + quiet_seconds * 10**9
    glance = unchanged.Glance(taken, unchanged.glance(str(shop.path)).signature)
    unchanged.remember(shop.component, str(shop.path), glance, fingerprint)
    assert unchanged.recall(shop.component, str(shop.path)) == (fingerprint if known else None)


def test_what_a_restore_cannot_reproduce_is_left_out() -> None:
    left_out = {18, 19, *range(24, 28), *range(40, 44), *range(92, 100)}
    for byte in range(100):
        header = bytearray(b"\x07" * 100)
        header[byte] = 9
        assert (pages.normalised(header) == pages.normalised(b"\x07" * 100)) == (byte in left_out), byte


def test_a_write_while_it_is_read_is_not_forgotten(settled: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    really = driver_module.store_runs

    def write_meanwhile(*given: Any) -> Any:
        settled.run("UPDATE orders SET item = 'x' WHERE id = 1")
        return really(*given)

    monkeypatch.setattr(driver_module, "store_runs", write_meanwhile)
    first = settled.capture()
    assert settled.driver.fingerprint(settled.component, rehash=False) != first.fingerprint


@pytest.mark.parametrize("content", [b"", b"{", b'{"path": 3}'])
def test_a_damaged_memory_is_ignored(settled: Shop, content: bytes) -> None:
    first = settled.capture()
    Path(settled.component.work, "seen.json").write_bytes(content)
    assert settled.driver.fingerprint(settled.component, rehash=False) == first.fingerprint


def test_a_locked_database_says_for_how_long(shop: Shop) -> None:
    connection = shop.open()
    connection.pragma("locking_mode", "exclusive")
    connection.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    with pytest.raises(LockedError) as caught:
        shop.capture()
    assert str(caught.value).startswith(f"The database {shop.path} stayed locked for 0.2 s; ")
    assert 0.2 <= time.monotonic() - began < 2
    connection.close()
    shop.capture()


def test_no_time_left_means_no_waiting(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = component("sqlite", shop.home, path="shop.db")
    monkeypatch.setattr(shop.store, "remaining", lambda: 0.0)
    connection = shop.open()
    connection.pragma("journal_mode", "delete")
    connection.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    with pytest.raises(LockedError):
        shop.driver.capture(patient, shop.store, None)
    assert time.monotonic() - began < 5
    connection.close()


@pytest.mark.parametrize("content", [b"no database" * 1000, os.urandom(8192)])
def test_what_is_no_database_is_refused(shop: Shop, content: bytes) -> None:
    shop.path.write_bytes(content)
    with pytest.raises(RollbackError) as caught:
        shop.capture()
    assert caught.value.key == "sqlite.not_a_database"
    assert shop.path.read_bytes() == content
    assert os.listdir(shop.component.work) == []


def test_a_missing_database_is_refused_and_not_made(shop: Shop) -> None:
    os.unlink(shop.path)
    with pytest.raises(RollbackError) as caught:
        shop.capture()
    assert caught.value.key == "path.missing"
    assert not shop.path.exists()


def test_copies_are_private_and_go_away(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Path(shop.component.work)
    seen: list[int] = []
    really = driver_module.store_runs

    def look(*given: Any) -> Any:
        seen.extend(stat.S_IMODE(os.stat(work / name).st_mode) for name in os.listdir(work))
        return really(*given)

    monkeypatch.setattr(driver_module, "store_runs", look)
    with live.private_file(shop.component, "other") as (in_use, _):
        stale = work / "tmp-copy-0123.db"
        stale.write_bytes(b"left by a process that was killed")
        shop.capture()
        assert not stale.exists()
        assert os.path.exists(in_use)
    assert set(seen) == {0o600}
    assert os.listdir(work) == []


@pytest.mark.parametrize("number", [2, 3])  # the first only finds the folder there
def test_a_full_disk_is_said(shop: Shop, fail_at: Any, number: int) -> None:
    fault = fail_at(number, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(RollbackError) as caught:
        shop.capture()
    fault.stop()
    assert caught.value.key == "store.no_space"
    assert os.listdir(shop.component.work) == []


def test_the_page_of_the_lock_byte_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LOCK_BYTE", pages.RUN_BYTES + 4 * 4096)
    facts = pages.Facts(page_size=4096, length=3 * pages.RUN_BYTES)
    path = tmp_path / "content"
    path.write_bytes(b"\xff" * facts.length)
    fd = os.open(path, os.O_RDONLY)
    runs = list(pages.read_runs(fd, facts))
    os.close(fd)
    assert runs[1] == b"\xff" * (4 * 4096) + bytes(4096) + b"\xff" * (11 * 4096)
    assert runs[2] == b"\xff" * pages.RUN_BYTES


def test_doctor(shop: Shop) -> None:
    def findings() -> list[tuple[str, str]]:
        return [(found.level, found.text) for found in shop.driver.examine(shop.component)]

    assert findings() == []
    connection = shop.open()
    connection.pragma("journal_mode", "delete")
    connection.execute("BEGIN EXCLUSIVE")
    ((level, text),) = findings()
    assert level == "error"
    assert text.startswith(f"The database {shop.path} stayed locked for 0.2 s; ")
    assert text.endswith(f"({os.getpid()}) has it open.")
    connection.close()
    shop.path.write_bytes(b"no database" * 1000)
    ((level, text),) = findings()
    assert level == "error"
    assert "is not a SQLite database" in text
    os.unlink(shop.path)
    ((level, text),) = findings()
    assert "is not there" in text


def test_doctor_names_what_may_not_be_written(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = [(f.level, f.text) for f in shop.driver.examine(shop.component)]
    assert [level for level, _ in found] == ["warning", "warning"]
    assert str(shop.path) in found[0][1]


def test_owns_its_log_and_journal(shop: Shop) -> None:
    path = str(shop.path)
    assert shop.driver.owns(shop.component) == (path, f"{path}-wal", f"{path}-shm", f"{path}-journal")


@pytest.mark.parametrize(
    "options",
    [{"path": "a", "busy_timeout": "soon"}, {"path": "a", "busy_timeout": -1}, {"path": "a", "colour": "red"}, {}],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, SqliteDriver.options)


def test_a_capture_round_trips_as_a_record(shop: Shop) -> None:
    want = shop.capture()
    assert msgspec.json.decode(msgspec.json.encode(want), type=Capture) == want


def test_reads_where_it_may_not_write(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    want = shop.capture()
    used: list[int] = []
    really = direct._connect

    def note(path: str, patience: direct.Patience | None, flags: int = apsw.SQLITE_OPEN_READWRITE) -> apsw.Connection:
        if path == str(shop.path):
            used.append(flags)
        return really(path, patience, flags)

    monkeypatch.setattr(direct, "_connect", note)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    if shop.journal == "wal":
        Path(f"{shop.path}-wal").touch()
        Path(f"{shop.path}-shm").touch()
    assert shop.driver.fingerprint(shop.component, rehash=True) == want.fingerprint
    assert set(used) == {apsw.SQLITE_OPEN_READONLY}


def test_a_private_file_that_was_swept_away_before_it_was_locked_is_made_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, swept = live.fcntl.flock, []

    def late(fd: int, how: int) -> None:
        if not swept:
            swept.append(fd)
            live._sweep(shop.component.work)  # as another process does
        lock(fd, how)

    monkeypatch.setattr(live.fcntl, "flock", late)
    with live.private_file(shop.component, "copy") as (path, fd):
        assert os.stat(path).st_ino == os.fstat(fd).st_ino
    assert swept
    assert not os.path.exists(path)


@pytest.mark.parametrize(("mode", "kernel"), [("delete", True), ("wal", True), ("wal", False)])
def test_a_copy_is_of_one_moment_while_a_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, kernel: bool
) -> None:
    """The kernel copies the file only where nobody can write into it: a reader holds it, or its log is empty."""
    shop = Shop(tmp_path, mode)
    copied: list[bool] = []
    before = os.copy_file_range

    def writes_meanwhile(*arguments: int) -> int:
        copied.append(True)
        connection = apsw.Connection(str(shop.path))
        try:
            connection.set_busy_timeout(0)
            connection.execute("INSERT INTO notes VALUES ('meanwhile')")
        except apsw.BusyError:
            pass  # it waits for the reader
        finally:
            connection.close()
        return before(*arguments)

    monkeypatch.setattr(os, "copy_file_range", writes_meanwhile)
    held = shop.open()  # while it is open a log stays
    try:
        if not kernel:
            held.execute("INSERT INTO notes VALUES ('before')")
        monkeypatch.setattr("rfs.production.rollback.drivers.sqlite.apart.needed", lambda path: False)
        taken = shop.capture()
    finally:
        held.close()
    monkeypatch.undo()
    assert bool(copied) is kernel
    shop.restore(taken)
    assert shop.rows("SELECT count(*) FROM notes WHERE text = 'meanwhile'") == [(0,)]
