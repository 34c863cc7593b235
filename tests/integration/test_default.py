"""The functions of the package, schedules, and rehearsals on a scratch copy."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import Small

from rfs.core.result import Failure
from rfs.production import rollback
from rfs.production.rollback import (
    CheckpointType,
    DeploymentCheckpoint,
    RollbackError,
    RollbackManager,
    RollbackRecord,
    RollbackStrategy,
    create_checkpoint,
    create_test_checkpoint,
    rollback_to_checkpoint,
    schedule_checkpoint,
)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    made = Small(tmp_path)
    monkeypatch.chdir(made.home)
    return made


def test_the_functions_act_on_the_application_of_the_working_directory(small: Small) -> None:
    async def round_trip() -> None:
        made = (await create_checkpoint("deploy", {"type": "pre_deployment", "auto_rollback": False})).unwrap()
        v1 = small.state()
        small.version(2)
        done = await rollback_to_checkpoint(made, reason="broken")
        assert done.unwrap()["rolled_back_to"] == made
        assert small.state() == v1
        checkpoint = RollbackManager().find_checkpoint(made)
        assert checkpoint is not None
        assert checkpoint.metadata["auto_rollback"] is False

    asyncio.run(round_trip())


def rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    (count,) = connection.execute("SELECT count(*) FROM t").fetchone()
    connection.close()
    return int(count)


def test_a_rehearsal_leaves_the_application_alone(small: Small) -> None:
    async def rehearse() -> None:
        small.version(2)
        before = small.state()
        checkpoint = (await create_test_checkpoint()).unwrap()
        home = Path(checkpoint.metadata["home"])
        assert home.stat().st_mode & 0o077 == 0
        tree = home / "tree" / str(small.tree).lstrip("/")
        copied = {name: (tree / name).read_bytes() for name in ("code.txt", "settings.toml", "uploads/2.jpg")}
        assert rows(tree / "small.db") == 2
        for name in copied:
            (tree / name).write_bytes(b"broken")
        assert (await rollback_to_checkpoint(checkpoint)).unwrap()["status"] == "completed"
        assert {name: (tree / name).read_bytes() for name in copied} == copied
        assert small.state() == before
        # The application's own history knows nothing of it.
        assert RollbackManager().get_checkpoints() == []
        assert RollbackManager().get_rollback_history() == []

    asyncio.run(rehearse())


def test_a_rehearsal_of_nothing_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    manager = RollbackManager(tmp_path)
    manager.register_component("cache", get=dict, restore=lambda state: None)
    refused = asyncio.run(create_test_checkpoint(manager))
    assert isinstance(refused, Failure)
    assert "rehearsal" in str(refused.error)


def test_a_schedule_takes_checkpoints_until_it_is_cancelled(small: Small) -> None:
    async def scheduled() -> None:
        schedule = schedule_checkpoint(interval=timedelta(seconds=0.2))
        assert schedule.running
        while schedule.taken < 2:
            await asyncio.sleep(0.02)  # there is no event to wait for: its user looks at it as well
        schedule.cancel()
        await asyncio.wait_for(schedule, 20)
        assert not schedule.running
        taken = RollbackManager().get_checkpoints()
        assert {each.type for each in taken} == {CheckpointType.SCHEDULED}
        assert schedule.last is not None
        assert schedule.last.is_success()
        # A new schedule with a long interval goes on from the last one, so nothing is due.
        again = schedule_checkpoint(interval=timedelta(hours=6))
        while again.next_at is None:
            await asyncio.sleep(0.02)
        assert again.next_at == taken[0].created_at + timedelta(hours=6)
        again.cancel()
        await again
        assert again.taken == 0
        assert len(RollbackManager().get_checkpoints()) == len(taken)

    asyncio.run(scheduled())


def test_a_scheduled_checkpoint_that_fails_does_not_end_the_schedule(small: Small) -> None:
    async def scheduled() -> None:
        config = (small.home / "rfs.toml").read_text()
        (small.home / "rfs.toml").write_text("broken")
        schedule = schedule_checkpoint(interval=timedelta(seconds=0.1))
        while schedule.last is None:
            await asyncio.sleep(0.02)
        assert schedule.last.is_failure()
        (small.home / "rfs.toml").write_text(config)
        while schedule.taken == 0:
            await asyncio.sleep(0.02)
        schedule.cancel()
        await schedule

    asyncio.run(asyncio.wait_for(scheduled(), 60))


def test_a_schedule_needs_a_loop_and_an_interval(small: Small) -> None:
    with pytest.raises(RollbackError, match="event loop"):
        schedule_checkpoint()

    async def never() -> None:
        schedule_checkpoint(interval=timedelta(0))

    with pytest.raises(RollbackError, match="longer than nothing"):
        asyncio.run(never())


def test_what_belongs_to_another_strategy_is_refused(small: Small) -> None:
    async def refused() -> None:
        made = (await create_checkpoint("d")).unwrap()
        for options in (
            {"at": datetime.now(UTC)},
            {"condition": object()},
            {"strategy": RollbackStrategy.SCHEDULED, "at": datetime.now(UTC)},
            {"strategy": RollbackStrategy.CONDITIONAL},
        ):
            done = await rollback_to_checkpoint(made, **options)
            assert isinstance(done, Failure)
            assert done.error.code == 2
        assert RollbackManager().get_rollback_history() == []

    asyncio.run(refused())


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
MOMENTS = st.datetimes(
    datetime(1980, 1, 1),  # noqa: DTZ001  # what hypothesis takes
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.none() | st.sampled_from([UTC, timezone(timedelta(hours=9))]),
)


@settings(max_examples=30)
@given(MOMENTS, st.dictionaries(st.text(), JSON), st.sampled_from(CheckpointType))
def test_records_go_to_dictionaries_and_back(moment: datetime, facts: dict[str, Any], kind: CheckpointType) -> None:
    checkpoint = DeploymentCheckpoint(
        checkpoint_id="0123456789ab", deployment_id="d", created_at=moment, type=kind, metadata=facts, state=facts
    )
    assert checkpoint.created_at.tzinfo is UTC
    assert checkpoint.created_at == moment.astimezone(UTC)
    assert DeploymentCheckpoint.from_dict(checkpoint.to_dict()) == checkpoint
    record = RollbackRecord(
        rollback_id="0123456789ab",
        checkpoint_id="0123456789ab",
        reason="why",
        executed_at=moment,
        finished_at=moment,
        status=rollback.RollbackStatus.HELD,
    )
    assert record.finished_at == moment.astimezone(UTC)
    assert RollbackRecord.from_dict(record.to_dict()) == record


def test_importing_every_public_name_loads_no_network_or_web_module() -> None:
    program = """
import sys
import rfs.production.rollback as rollback, rfs.core.result
for name in rollback.__all__:
    getattr(rollback, name)
heavy = "httpx requests urllib.request http.client http.server xmlrpc asyncpg psycopg litestar uvicorn apprise"
print(*[name for name in heavy.split() if name in sys.modules])
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
    alone = [
        sys.executable,
        "-W",
        "error",
        "-c",
        "import rfs.production.rollback, sys; print('asyncio' in sys.modules)",
    ]
    assert subprocess.run(alone, capture_output=True, text=True, check=False).stdout == "False\n"
