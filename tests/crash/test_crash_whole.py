"""The main job under fault: checkpoint and rollback of files, configuration, environment and SQLite.

After each fault `recover` is run, and the application must be exactly as before or exactly at
the target, with a log that says which. The builds that forget something must be caught.
"""

from __future__ import annotations

import pytest
from tests.crash import whole
from tests.crash.harness import PROBLEMS
from tests.crash.shim import Fault
from tests.crash.sweeps import MACHINE_FAULTS, needs_shim, nested, power, reboots, sweep

pytestmark = needs_shim

STICKY = (Fault.ENOSPC_STICKY, Fault.EIO_STICKY)


def test_a_checkpoint_exists_wholly_or_not_at_all() -> None:
    sweep(whole.Checkpoint, limit=14).expect_clean()


def test_a_rollback_ends_exactly_old_or_exactly_new() -> None:
    found = sweep(whole.Rollback, limit=32)
    found.expect_clean()
    assert set(found.verdicts) == {"old", "new"}


def test_recovery_survives_itself() -> None:
    nested(whole.Rollback, 3).expect_clean()


def test_a_rollback_survives_power_loss() -> None:
    power(whole.Rollback, limit=7).expect_clean()


@pytest.mark.slow
def test_a_checkpoint_survives_power_loss() -> None:
    power(whole.Checkpoint, limit=8).expect_clean()


@pytest.mark.parametrize("build", [whole.RollbackDoneFirst, whole.RollbackWithoutCommit])
def test_a_journal_that_lies_is_caught(build: type) -> None:
    sweep(build, Fault.KILL, limit=40, until=PROBLEMS).expect_caught()


@pytest.mark.parametrize(
    "build", [whole.RollbackWithoutFileSync, pytest.param(whole.RollbackWithoutFolderSync, marks=pytest.mark.slow)]
)
def test_a_rollback_that_forgets_an_fsync_is_caught(build: type) -> None:
    power(build, limit=12, until=PROBLEMS).expect_caught()


def test_a_prune_loses_nothing_that_is_kept() -> None:
    sweep(whole.Prune, limit=12).expect_clean()


def test_a_service_runs_again_whatever_happened() -> None:
    sweep(whole.RollbackWithService, limit=8).expect_clean()


@pytest.mark.slow
def test_what_services_write_between_crashes_is_kept() -> None:
    reboots(whole.RollbackWithReboots, 5).expect_clean()


@pytest.mark.slow
def test_a_recovery_that_keeps_nothing_is_caught() -> None:
    reboots(whole.RollbackWithRebootsThatKeepsNothing, 4, until=["lost"]).expect_caught("lost")


# — the whole of it: `make crash` —


@pytest.mark.slow
@pytest.mark.parametrize("fault", MACHINE_FAULTS)
def test_a_rollback_at_every_call(fault: Fault) -> None:
    sweep(whole.Rollback, fault).expect_clean()


@pytest.mark.slow
def test_a_checkpoint_at_every_call() -> None:
    sweep(whole.Checkpoint).expect_clean()


@pytest.mark.slow
def test_a_disk_that_stays_full_or_broken() -> None:
    sweep(whole.Rollback, *STICKY, limit=150).expect_clean()


@pytest.mark.slow
def test_recovery_survives_itself_at_many_places() -> None:
    nested(whole.Rollback, 100).expect_clean()


@pytest.mark.slow
def test_a_rollback_with_power_lost_at_many_calls() -> None:
    power(whole.Rollback, limit=250).expect_clean()


@pytest.mark.slow
def test_a_checkpoint_with_power_lost_at_every_call() -> None:
    power(whole.Checkpoint).expect_clean()


@pytest.mark.slow
def test_a_prune_at_every_call() -> None:
    sweep(whole.Prune).expect_clean()


@pytest.mark.slow
def test_a_prune_with_power_lost_at_every_call() -> None:
    power(whole.Prune).expect_clean()


@pytest.mark.slow
def test_a_rollback_with_a_service_at_many_calls() -> None:
    sweep(whole.RollbackWithService, limit=200).expect_clean()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
def test_what_services_write_between_crashes_is_kept_at_many_places(seed: int) -> None:
    reboots(whole.RollbackWithReboots, 60, seed).expect_clean()
