"""A guard killed before and after everything that it writes into the catalog: kept or back, never between."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Where the small application lives; a run of this folder alone does not know it.
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from small import Small

from rfs.production.rollback.application import Application
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.errors import GuardRevertedError
from rfs.production.rollback.guarded import Deployment
from rfs.production.rollback.guarding import FailedError, Guard, Trial

KILLED = 9
LAST = 1000


class Deploying:
    """Writes version 2, and then fails or not."""

    def __init__(self, small: Small, fails: bool) -> None:
        self._small = small
        self._fails = fails

    def check(self) -> None:
        pass

    def run(self, app: Application, deployment: Deployment) -> None:
        self._small.version(2)
        if self._fails:
            raise FailedError("it was meant to fail", 1)


def killed(small: Small, number: int, *, before: bool, fails: bool) -> bool:
    """Guard a change in a process that dies at the nth thing it writes down; tell whether it came that far."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, KILLED)
        return status == KILLED
    try:
        _die_at(number, before)
        with small.open() as app:
            Guard(app).run(Deploying(small, fails), Trial(metadata={"version": "v2"}))
        os._exit(0)
    except GuardRevertedError:
        os._exit(0)
    finally:  # whatever else it was: the tests must not go on in a second process
        os._exit(1)


def _die_at(number: int, before: bool) -> None:
    real = Catalog._change
    counted: list[int] = []

    def change(self: Catalog, act: Callable[[Any], None], *, frees: bool = False) -> None:
        counted.append(1)
        if before and len(counted) == number:
            os._exit(KILLED)
        real(self, act, frees=frees)
        if len(counted) == number:
            os._exit(KILLED)

    Catalog._change = change  # type: ignore[method-assign]  # in the forked child alone


def decided(small: Small, v1: dict[str, object]) -> str:
    """Recover, and return how it ended."""
    with small.open() as app:
        app.recover()
        found = next(app.catalog.deployments(), None)
        operations = app.catalog.count_operations()
        assert app.recover() == []
        assert app.catalog.count_operations() == operations, "a second one does nothing"
        assert app.deployments.open() is None
        last = app.catalog.latest_operation()
    phase = "none" if found is None else str(found.phase)
    assert phase in ("none", "cancelled", "reverted", "kept")
    assert (small.state() == v1) is (phase != "kept")
    assert small.is_at(2 if phase == "kept" else 1)
    assert (last is not None and last.kind == "deployment") is (phase == "kept"), "what stays is in the log"
    return phase


def sweep(folder: Path, numbers: range, *, fails: bool, before: bool) -> list[str]:
    ended = []
    for number in numbers:
        small = Small(folder / str(number))
        v1 = small.state()
        if not killed(small, number, before=before, fails=fails):
            return ended
        ended.append(decided(small, v1))
    return ended


def test_a_guard_killed_at_some_commits(tmp_path: Path) -> None:
    assert set(sweep(tmp_path, range(3, 7, 2), fails=False, before=False)) <= {"cancelled", "reverted"}


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_guard_killed_at_every_commit(tmp_path: Path, fails: bool, before: bool) -> None:
    ended = sweep(tmp_path, range(1, LAST), fails=fails, before=before)
    assert len(ended) > (10 if fails else 4)
    assert {"cancelled", "reverted"} <= set(ended)
    # Its entry in the log is written last; whoever is killed just before that has kept it.
    assert ("kept" in ended) is not fails
