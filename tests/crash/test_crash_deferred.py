"""A daemon killed before and after everything that it writes while it makes a scheduled rollback: it is made once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

# Where the small application lives; a run of this folder alone does not know it.
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from small import Small

from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.watching import Told, Watcher

KILLED = 9
LAST = 1000


def watch(small: Small) -> list[Told]:
    told: list[Told] = []
    Watcher(str(small.home / "rfs.toml"), told.append).run(once=True)
    return told


def killed(small: Small, number: int, *, before: bool) -> bool:
    """Run the daemon once in a process that dies at the nth thing it writes down; tell whether it came that far."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, KILLED)
        return status == KILLED
    try:
        _die_at(number, before)
        watch(small)
        os._exit(0)
    finally:  # whatever it was: the tests must not go on in a second process
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


def sweep(folder: Path, numbers: range, *, before: bool) -> int:
    """Kill at each of the writes; return how many there were."""
    for number in numbers:
        small = Small(folder / str(number))
        v1 = small.state()
        with small.open() as app:
            app.checkpoint()
            small.version(2)
            found = app.defer("@latest", at=utc_now() + timedelta(hours=1), reason="at night")
            app.catalog.change_deferred(found.rollback_id, lambda old: msgspec.structs.replace(old, at=utc_now()))
        reached = killed(small, number, before=before)
        watch(small)  # recovers, and may find it made
        watch(small)
        assert small.state() == v1
        with small.open() as app:
            done = [each for each in app.catalog.operations() if each.status == "completed"]
            assert len(done) == 1, "made once"
            assert app.find_deferred(found.rollback_id).status == "completed"
            assert app.catalog.waiting_deferred() == []
        small.version(3)
        watch(small)
        assert small.is_at(3), "and never again"
        if not reached:
            return number
    return len(numbers)


def test_a_daemon_killed_at_some_writes(tmp_path: Path) -> None:
    assert sweep(tmp_path, range(2, 12, 4), before=False) == 3


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_a_daemon_killed_at_every_write(tmp_path: Path, before: bool) -> None:
    assert sweep(tmp_path, range(1, LAST), before=before) > 10
