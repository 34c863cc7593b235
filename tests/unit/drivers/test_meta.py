"""Metadata goes round exactly, and a file is replaced without a moment at which it is missing or half there."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rfs.production.rollback.drivers import meta as m
from rfs.production.rollback.errors import RollbackError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: needs root")


def plain(mode: int = 0o640, **more: object) -> m.Meta:
    return m.Meta(
        stat.S_IFREG | mode,
        os.geteuid(),
        os.getegid(),
        1_500_000_000_123_456_789,
        **more,
    )


def test_replaced_file_has_content_and_metadata_and_the_folder_keeps_its_time(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("old")
    os.utime(tmp_path, ns=(1, 2_000_000_007))
    want = plain(xattrs=((b"user.note", b"\x00\xff"),), flags=0)
    m.replace_file(str(path), b"new", want)
    assert m.read_file(str(path)) == (b"new", want)
    assert tmp_path.stat().st_mtime_ns == 2_000_000_007
    assert [entry.name for entry in tmp_path.iterdir()] == ["settings.toml"]


def test_what_it_had_before_and_should_not_have_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    os.setxattr(path, "user.extra", b"1")
    fd = os.open(path, os.O_RDONLY)
    m.apply_meta(fd, plain(0o400))
    assert m.read_meta(fd) == plain(0o400)
    m.apply_meta(fd, plain(0o4711, xattrs=((b"user.a", b"b"),)))
    assert m.read_meta(fd) == plain(0o4711, xattrs=((b"user.a", b"b"),))
    os.close(fd)


@needs_root
def test_owner_setuid_capability_and_acl_survive_together(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("x")
    os.chown(first, 1234, 2345)
    subprocess.run(["setfacl", "-m", "u:1:rw,g:2:r", str(first)], check=True)
    os.setxattr(first, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.chmod(first, 0o4750)
    os.setxattr(first, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    _, want = m.read_file(str(first))
    assert len(want.xattrs) == 2
    m.replace_file(str(second), b"x", want)
    assert m.read_file(str(second)) == (b"x", want)


@needs_root
def test_immutable_file_is_replaced_and_immutable_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    if subprocess.run(["chattr", "+i", str(path)], check=False, capture_output=True).returncode:
        pytest.skip("NOT TESTED: this file system has no immutable flag")
    data, locked = m.read_file(str(path))
    assert locked.flags
    try:
        m.replace_file(str(path), b"new", locked)
        assert m.read_file(str(path)) == (b"new", locked)
        m.replace_file(str(path), data, plain())
        assert m.read_file(str(path)) == (data, plain())
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=True)


def test_links_and_pipes_are_described_not_followed(tmp_path: Path) -> None:
    os.symlink("nowhere", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    folder = os.open(tmp_path, os.O_RDONLY)
    for name, kind in (("link", stat.S_IFLNK), ("pipe", stat.S_IFIFO)):
        with m.node(name, folder) as target:
            found = m.read_meta(target)
            assert stat.S_IFMT(found.mode) == kind
            m.apply_meta(target, m.Meta(found.mode, found.uid, found.gid, 5))
            assert os.lstat(tmp_path / name).st_mtime_ns == 5
    os.close(folder)


def test_link_in_the_place_is_replaced_and_what_it_names_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    os.symlink("elsewhere", tmp_path / "f")
    m.replace_file(str(tmp_path / "f"), b"new", plain())
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert not (tmp_path / "f").is_symlink()
    os.symlink("elsewhere", tmp_path / "g")
    with pytest.raises(OSError, match="symbolic"):
        m.read_file(str(tmp_path / "g"))


def test_failure_at_every_call_leaves_old_or_new_and_the_next_run_cleans_up(
    tmp_path: Path, fail_at: Callable[[int], object]
) -> None:
    path = tmp_path / "f"
    for number in range(1, 30):
        m.replace_file(str(path), b"old", plain(0o600))
        fault = fail_at(number)
        with contextlib.suppress(RollbackError):
            m.replace_file(str(path), b"new", plain(0o644))
        fired = fault.fired
        fault.stop()
        found = m.read_file(str(path))
        assert found in ((b"old", plain(0o600)), (b"new", plain(0o644)))
        m.replace_file(str(path), b"new", plain(0o644))
        assert os.listdir(tmp_path) == ["f"]
        if not fired:
            assert number > 5
            return
    pytest.fail("it never came to an end")


def test_missing_folder_is_an_expected_error_and_removing_is_repeatable(tmp_path: Path) -> None:
    with pytest.raises(RollbackError) as caught:
        m.replace_file(str(tmp_path / "no" / "f"), b"", plain())
    assert caught.value.key == "path.unwritable"
    m.remove_file(str(tmp_path / "no" / "f"))
    (tmp_path / "f").write_text("x")
    os.utime(tmp_path, ns=(1, 9))
    m.remove_file(str(tmp_path / "f"))
    m.remove_file(str(tmp_path / "f"))
    assert os.listdir(tmp_path) == []
    assert tmp_path.stat().st_mtime_ns == 9


def test_owner_that_cannot_be_given_is_refused_before_anything_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(RollbackError) as caught:
        m.replace_file(str(path), b"new", m.Meta(stat.S_IFREG | 0o644, 4243, 0, 0))
    assert caught.value.key == "path.owner"
    assert path.read_text() == "old"


def test_names_that_are_not_utf8_are_shown_as_escapes() -> None:
    assert m.shown(os.fsdecode(b"a\xff/\xc3\xa9")) == "a\\xff/é"
