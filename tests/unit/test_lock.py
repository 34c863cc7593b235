from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from rfs.production.rollback.errors import LockedError, RollbackError
from rfs.production.rollback.lock import actor, exclusive, holder

WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
HOLD = """
import sys
from rfs.production.rollback.lock import exclusive
with exclusive(sys.argv[1], "a long checkpoint"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> str:
    return str(tmp_path / "lock")


def start_holder(lock: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


def test_another_process_is_refused_and_told_who_holds_it(lock: str) -> None:
    process = start_holder(lock)
    with pytest.raises(LockedError, match=rf"a long checkpoint by .*process {process.pid}"), exclusive(lock, "mine"):
        pytest.fail("two holders")
    assert str(process.pid) in holder(lock)
    assert f"by {actor()} on" in holder(lock)
    end(process)
    assert holder(lock) == ""
    with exclusive(lock, "mine"):
        assert str(os.getpid()) in holder(lock) or holder(lock) == ""


def test_who_has_just_taken_it_does_not_pass_for_the_last_one(lock: str) -> None:
    with exclusive(lock, "the last one"):
        assert "the last one" in holder(lock)
    with open(lock, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, WHOLE_FILE)
        assert holder(lock) == "an operation that has just begun"


def test_a_dead_holder_blocks_nobody(lock: str) -> None:
    process = start_holder(lock)
    process.kill()
    end(process)
    with exclusive(lock, "mine"):
        pass


def test_waiting_for_it(lock: str) -> None:
    process = start_holder(lock)
    with pytest.raises(LockedError), exclusive(lock, "mine", wait=0.2):
        pytest.fail("two holders")
    assert process.stdin is not None
    process.stdin.close()
    with exclusive(lock, "mine", wait=10):
        pass
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_it_is_not_inherited_by_what_is_started_meanwhile(lock: str) -> None:
    with exclusive(lock, "mine"):
        service = subprocess.Popen(["sleep", "60"])
    try:
        with exclusive(lock, "mine"):
            pass
    finally:
        service.kill()
        service.wait()


def test_reading_the_file_does_not_drop_it(lock: str) -> None:
    with exclusive(lock, "mine"):
        holder(lock)
        code = "import sys; from rfs.production.rollback.lock import holder; print(holder(sys.argv[1]))"
        other = subprocess.run([sys.executable, "-c", code, lock], capture_output=True, text=True, check=True)
        assert "mine" in other.stdout


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RollbackError, match="cannot be written"), exclusive(str(tmp_path / "no" / "lock"), "mine"):
        pytest.fail("held nothing")


def test_it_is_let_go_though_a_command_that_is_just_starting_has_a_copy_of_it(lock: str) -> None:
    # Between fork and exec a child of another thread has every descriptor; a duplicate stands for that.
    with exclusive(lock, "mine"):
        inode = os.stat(lock).st_ino
        (ours,) = (int(fd) for fd in os.listdir("/proc/self/fd") if is_of(int(fd), inode))
        copy = os.dup(ours)
    try:
        assert holder(lock) == ""
        with exclusive(lock, "the next"):
            pass
    finally:
        os.close(copy)


def is_of(descriptor: int, inode: int) -> bool:
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False
