"""Each driver's restore, broken off at every call: run again, or turned back, it ends in exactly one state."""

from __future__ import annotations

import pytest
from tests.crash import parts
from tests.crash.harness import PROBLEMS
from tests.crash.shim import Fault
from tests.crash.sweeps import needs_shim, power, sweep

pytestmark = needs_shim

RESTORES = [parts.FilesRestore, parts.ConfigRestore, parts.SqliteRestore, parts.SqliteRestoreInRollbackJournal]
TURNS = [parts.FilesTurn, parts.ConfigTurn, parts.SqliteTurn]


@pytest.mark.parametrize("scenario", [*RESTORES, *TURNS])
def test_a_restore_converges(scenario: type) -> None:
    sweep(scenario, limit=12).expect_clean()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", RESTORES)
def test_a_restore_converges_from_every_call(scenario: type) -> None:
    sweep(scenario).expect_clean()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", TURNS)
def test_a_restore_turns_back_from_every_call(scenario: type) -> None:
    sweep(scenario, Fault.KILL, Fault.TORN).expect_clean()


@pytest.mark.parametrize("scenario", RESTORES)
def test_a_restore_that_is_done_survives_power_loss(scenario: type) -> None:
    power(scenario, limit=6).expect_clean()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [*RESTORES, *TURNS])
def test_a_restore_with_power_lost_at_every_call(scenario: type) -> None:
    power(scenario).expect_clean()


@pytest.mark.parametrize("build", [parts.FilesRestoreWithoutFileSync, parts.FilesRestoreWithoutFolderSync])
def test_a_restore_that_forgets_an_fsync_is_caught(build: type) -> None:
    power(build, limit=10, until=PROBLEMS).expect_caught()


@pytest.mark.parametrize("build", [parts.SqliteRestoreDoneFirst, parts.FilesRestoreDoneFirst])
def test_done_before_the_step_is_caught(build: type) -> None:
    sweep(build, Fault.KILL, limit=40, until=["mixed"]).expect_caught("mixed")
