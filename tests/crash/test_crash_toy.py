"""The harness against protocols whose faults are known: it must pass the right ones and catch each wrong one."""

from __future__ import annotations

import pytest
from tests.crash import toy
from tests.crash.shim import Fault
from tests.crash.sweeps import LOSSES, needs_shim, nested, power, sweep

pytestmark = needs_shim


def test_a_right_replacement_survives_every_fault() -> None:
    found = sweep(toy.Replace)
    found.expect_clean()
    assert set(found.verdicts) == {"old", "new"}


def test_a_right_replacement_survives_power_loss() -> None:
    found = power(toy.Replace)
    found.expect_clean()
    assert set(found.verdicts) == {"old", "new"}


@pytest.mark.slow
def test_a_right_pair_survives_every_fault_and_a_kill_in_its_recovery() -> None:
    sweep(toy.Pair).expect_clean()
    nested(toy.Pair, 40).expect_clean()


def test_a_right_pair_survives_power_loss() -> None:
    power(toy.Pair).expect_clean()


@pytest.mark.parametrize(
    ("scenario", "faults", "kinds"),
    [
        (toy.ReplaceInPlace, [Fault.KILL], ["corrupt"]),
        (toy.ReplaceSwallowingErrors, [Fault.ENOSPC], ["lost"]),
        (toy.ReplaceWithTraceback, [Fault.EIO], ["unclear"]),
        (toy.ReplaceHanging, [Fault.EIO], ["stuck"]),
        (toy.PairWithoutJournal, [Fault.KILL], ["mixed"]),
        (toy.PairExchangedAgain, [Fault.KILL], ["mixed"]),
        (toy.PairDoneBeforeStep, [Fault.KILL], ["mixed", "lost"]),
        (toy.PairSecondRecoverChanges, [Fault.KILL], ["mixed"]),
    ],
)
def test_a_wrong_protocol_is_caught(scenario: type, faults: list[Fault], kinds: list[str]) -> None:
    sweep(scenario, *faults, until=kinds).expect_caught(*kinds)


@pytest.mark.parametrize("scenario", [toy.ReplaceWithoutFileSync, toy.ReplaceWithoutFolderSync])
def test_a_missing_fsync_is_invisible_to_kill_and_caught_by_power_loss(scenario: type) -> None:
    sweep(scenario, Fault.KILL).expect_clean()
    power(scenario, until=LOSSES).expect_caught(*LOSSES)
