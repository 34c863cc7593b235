"""What is due of a guarded deployment whose owner is gone; and its command, which never begins unseen."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.guarded import Deployment, Next, next_step
from rfs.production.rollback.model import OperationStatus
from rfs.production.rollback.passing import Passing, end_marked, marked

NOW = datetime(2026, 12, 1, 3, tzinfo=UTC)
SOON, PAST = NOW + timedelta(minutes=1), NOW - timedelta(seconds=1)
DONE, TURNED = OperationStatus.COMPLETED, OperationStatus.REVERTED
ON_TRIAL: dict[str, Any] = {"kind": "rollback", "confirm_by": "person", "operation_id": "o"}


@pytest.mark.parametrize(
    ("facts", "keeps", "operation", "rollback", "step"),
    [
        ({"phase": "prepared"}, False, None, None, Next.CANCEL),
        ({"phase": "changing"}, False, None, None, Next.REVERT),
        ({"phase": "changing"}, True, None, None, Next.LEAVE),
        ({"phase": "changing", "auto_rollback": False}, False, None, None, Next.LEAVE),
        ({"phase": "changing", "auto_rollback": False, "cancelled": True}, True, None, None, Next.REVERT),
        ({"phase": "changing", "confirm_by": "person", "deadline": SOON}, False, None, None, Next.REVERT),
        ({"phase": "changing", "confirm_by": "person", "deadline": SOON}, True, None, None, Next.WAIT),
        ({"phase": "baking"}, False, None, None, Next.REVERT),
        ({"phase": "baking", "deadline": PAST}, True, None, None, Next.LEAVE),
        ({"phase": "baking", "confirm_by": "person", "deadline": SOON}, False, None, None, Next.WAIT),
        ({"phase": "baking", "confirm_by": "person", "deadline": NOW}, False, None, None, Next.REVERT),
        ({"phase": "baking", "confirm_by": "person", "deadline": PAST}, True, None, None, Next.REVERT),
        ({"phase": "baking", "cancelled": True}, True, None, None, Next.REVERT),
        ({"phase": "reverting", "rollback_id": "r"}, True, None, DONE, Next.ENDED),
        ({"phase": "reverting", "rollback_id": "r"}, True, None, TURNED, Next.REVERT),
        ({"phase": "reverting"}, True, None, None, Next.REVERT),
        ({"phase": "changing", "deadline": SOON, **ON_TRIAL}, False, None, None, Next.CANCEL),
        ({"phase": "changing", "deadline": PAST, **ON_TRIAL}, False, TURNED, None, Next.CANCEL),
        ({"phase": "changing", "deadline": SOON, **ON_TRIAL}, False, DONE, None, Next.WAIT),
        ({"phase": "changing", "deadline": PAST, **ON_TRIAL}, False, DONE, None, Next.REVERT),
        ({"phase": "baking", "deadline": PAST, **ON_TRIAL}, False, DONE, DONE, Next.ENDED),
    ],
)
def test_what_is_due(
    facts: dict[str, Any], keeps: bool, operation: OperationStatus | None, rollback: OperationStatus | None, step: Next
) -> None:
    deployment = msgspec.convert({"guard_id": "g", "created_at": PAST, **facts}, Deployment)
    assert next_step(deployment, NOW, keeps=keeps, operation=operation, rollback=rollback)[0] is step


def test_a_command_that_was_not_written_down_never_begins(tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = Passing(["touch", str(made)], "g1")
    command.close()  # as when the guard is killed
    os.waitid(os.P_PID, command.group, os.WEXITED | os.WNOWAIT)
    command.end()
    assert not made.exists()
    command = Passing(["touch", str(made)], "g1")
    command.end()
    assert not made.exists()


def test_a_command_is_run_in_a_session_of_its_own_and_its_end_told(tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = f'echo "$1 $RFS_GUARD $(ps -o sid= -p $$)" > {said}; exit 3'
    command = Passing(["sh", "-c", script, "sh", "two words"], "g1")
    assert command.run(lambda: None) == 3
    assert said.read_text().split() == ["two", "words", "g1", str(command.group)]
    assert Passing(["sh", "-c", "kill -9 $$"], "g1").run(lambda: None) == 128 + signal.SIGKILL


def test_what_interrupts_it_ends_it_with_its_children(tmp_path: Path) -> None:
    def tick() -> None:
        if (tmp_path / "child").exists():
            raise KeyboardInterrupt

    command = Passing(["sh", "-c", f"sleep 1000 & touch {tmp_path}/child; wait"], "g1")
    with pytest.raises(KeyboardInterrupt):
        command.run(tick)
    assert marked(command.group, "g1") == []


def test_only_processes_of_the_guard_are_ended() -> None:
    command = Passing(["sh", "-c", "sleep 1000 & exit 0"], "g1")
    assert command.run(lambda: None) == 0
    end = time.monotonic() + 30
    while not marked(command.group, "g1") and time.monotonic() < end:
        time.sleep(0.01)  # between fork and exec it has no name yet
    assert end_marked(command.group, "g2") == 0, "its number was given to somebody else's"
    assert len(marked(command.group, "g1")) == 1
    assert end_marked(command.group, "g1") == 1
    assert marked(command.group, "g1") == []


@pytest.mark.parametrize("command", [[], ["./not-there"]])
def test_a_program_that_is_not_there(command: list[str]) -> None:
    with pytest.raises(RollbackError) as raised:
        Passing(command, "g1")
    assert raised.value.key == "command.missing"
