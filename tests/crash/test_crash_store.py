"""The store's flush under every fault and under power loss, with builds that forget an fsync."""

from __future__ import annotations

import pytest
from tests.crash import parts
from tests.crash.sweeps import LOSSES, needs_shim, power, sweep

pytestmark = needs_shim


def test_a_flush_is_there_wholly_or_not_at_all() -> None:
    sweep(parts.StoreFlush, limit=15).expect_clean()


@pytest.mark.slow
def test_a_flush_at_every_call() -> None:
    sweep(parts.StoreFlush).expect_clean()


def test_what_a_flush_acknowledged_survives_power_loss() -> None:
    power(parts.StoreFlush, limit=15).expect_clean()


@pytest.mark.slow
def test_a_flush_with_power_lost_at_every_call() -> None:
    power(parts.StoreFlush).expect_clean()


@pytest.mark.parametrize(
    "scenario", [pytest.param(parts.StoreFlushWithAnnex, marks=pytest.mark.slow), parts.StoreFlushWithLittleAnnex]
)
def test_a_flush_of_what_a_helper_stored(scenario: type) -> None:
    sweep(scenario, limit=15).expect_clean()
    power(scenario, limit=10).expect_clean()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [parts.StoreFlushWithAnnex, parts.StoreFlushWithLittleAnnex])
def test_a_flush_of_what_a_helper_stored_at_every_call(scenario: type) -> None:
    sweep(scenario).expect_clean()
    power(scenario).expect_clean()


@pytest.mark.parametrize("build", [parts.StoreFlushWithoutFileSync, parts.StoreFlushWithoutFolderSync])
def test_a_store_that_forgets_an_fsync_is_caught(build: type) -> None:
    power(build, limit=10, until=LOSSES).expect_caught(*LOSSES)
