"""The processes of a unit, told apart from whoever is given their numbers later."""

from __future__ import annotations

import os
import subprocess
import time

import msgspec
import pytest

from rfs.production.rollback.drivers.service.family import Family, ancestry, end_family, process_table, with_environment
from rfs.production.rollback.errors import RollbackError
from rfs.testing import MemoryStore


@pytest.fixture
def leader(tmp_path):
    """Start a shell that leads a process group; it runs a line whenever one is sent. All of it is ended afterwards."""
    shells = []

    def start():
        shell = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0, text=True)
        shells.append(shell)
        return shell

    yield start
    for shell in shells:
        for pid, process in process_table().items():
            if process.group == shell.pid:
                os.kill(pid, 9)
        shell.communicate()


def tell(shell, line):
    shell.stdin.write(line + "\n")
    shell.stdin.flush()


def child_of(shell):
    tell(shell, "sleep 1000 > /dev/null & echo $!")
    return int(shell.stdout.readline())


def memory(tmp_path):
    return str(tmp_path / "work" / "family.json")


def test_children_and_grandchildren_belong_to_it(leader, tmp_path):
    shell = leader()
    child = child_of(shell)
    tell(shell, "setsid sh -c 'sleep 1001 > /dev/null & echo $!; wait' &")
    grandchild = int(shell.stdout.readline())
    family = Family([shell.pid], memory(tmp_path))
    assert {shell.pid, child, grandchild} <= set(family.living())
    os.kill(grandchild, 9)


def test_a_child_that_was_born_and_orphaned_between_two_looks_is_found(leader, tmp_path):
    shell = leader()
    family = Family([shell.pid], memory(tmp_path))
    child = child_of(shell)
    tell(shell, "exit")
    shell.wait()
    assert family.living() == [child]


def test_somebody_else_with_the_same_number_does_not_belong_to_it(leader, tmp_path):
    shell = leader()
    family = Family([shell.pid], memory(tmp_path))
    family.remember()
    path = memory(tmp_path)
    with open(path, "rb") as file:
        facts = msgspec.json.decode(file.read())
    facts["known"] = {pid: started - 1 for pid, started in facts["known"].items()}
    with open(path, "wb") as file:
        file.write(msgspec.json.encode(facts))
    assert Family([], path).living() == []


def test_what_was_remembered_before_a_reboot_means_nothing(leader, tmp_path, monkeypatch):
    shell = leader()
    Family([shell.pid], memory(tmp_path)).remember()
    assert Family([], memory(tmp_path)).living() == [shell.pid]
    monkeypatch.setattr("rfs.production.rollback.drivers.service.family._boot_id", lambda: "another")
    assert Family([], memory(tmp_path)).living() == []


def test_a_memory_that_was_cut_short_is_no_memory(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "family.json").write_text('{"boot": "x", "known": {"1"')
    assert Family([], memory(tmp_path)).living() == []


def test_a_leader_of_another_parent_is_left_out(leader, tmp_path):
    shell = leader()
    assert Family([shell.pid], memory(tmp_path), parent=os.getpid()).living() == [shell.pid]
    assert Family([shell.pid], memory(tmp_path), parent=1).living() == []


def test_it_never_holds_this_process(tmp_path):
    family = Family([os.getpid()], memory(tmp_path))
    assert family.living() == []


def test_it_is_ended_and_forgotten(leader, tmp_path):
    shell = leader()
    child_of(shell)
    family = Family([shell.pid], memory(tmp_path))
    family.remember()
    end_family(family, "web", MemoryStore(), time.monotonic() + 10)
    assert family.living() == []
    assert not os.path.exists(memory(tmp_path))


def test_what_does_not_end_is_an_error(leader, tmp_path, monkeypatch):
    shell = leader()
    family = Family([shell.pid], memory(tmp_path))
    monkeypatch.setattr(family, "signal", lambda number: None)
    with pytest.raises(RollbackError, match=f"{shell.pid} do not end") as raised:
        end_family(family, "web", MemoryStore(), time.monotonic() + 0.1)
    assert raised.value.key == "service.no_stop"


def test_what_belongs_to_somebody_else_is_an_error(leader, tmp_path, monkeypatch):
    def refuse(pid, number):
        raise PermissionError

    shell = leader()
    family = Family([shell.pid], memory(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", refuse)
        with pytest.raises(RollbackError, match="another user"):
            end_family(family, "web", MemoryStore(), time.monotonic() + 5)


def test_processes_are_found_by_what_they_were_started_with():
    environment = {"RFS_TEST_NAME": "it", "RFS_TEST_MORE": "a=b"}
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, **environment}) as sleeper:
        try:
            found = with_environment({"RFS_TEST_NAME": "it"})
            assert found[sleeper.pid]["RFS_TEST_MORE"] == "a=b"
            assert sleeper.pid not in with_environment({"RFS_TEST_NAME": "i"})
        finally:
            sleeper.kill()


def test_the_ancestry_goes_up_and_not_down(leader):
    shell = leader()
    found = ancestry()
    assert {os.getpid(), os.getppid()} <= found
    assert shell.pid not in found
