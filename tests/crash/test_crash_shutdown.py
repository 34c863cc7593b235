"""Checkpoint and rollback on real file systems that are shut down in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.crash import whole
from tests.crash.harness import PROBLEMS
from tests.crash.shutdown import mounted, unavailable
from tests.crash.sweeps import Found, needs_shim, shutdown

pytestmark = needs_shim


def run(kind: str, scenario: type, folder: Path, limit: int, until: Sequence[str] = ()) -> Found:
    why = unavailable(kind)
    if why is not None:
        pytest.skip(f"NO {kind} SHUTDOWN TEST: {why}")
    with mounted(kind, folder) as (device, mount):
        return shutdown(scenario, device, mount, limit, until=until)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_rollback_on_a_file_system_that_is_shut_down(kind: str, tmp_path: Path) -> None:
    run(kind, whole.Rollback, tmp_path, 60).expect_clean()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_forgotten_fsync_is_caught_on_a_file_system_that_is_shut_down(kind: str, tmp_path: Path) -> None:
    run(kind, whole.RollbackWithoutFileSync, tmp_path, 60, PROBLEMS).expect_caught()
