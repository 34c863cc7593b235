"""Marks the fault tests by their folder, so that `make test` can leave their slow ones to `make crash`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pg_server import Server, running

CRASH = Path(__file__).parent / "crash"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(CRASH):
            item.add_marker("crash")


# Started by nohup or in the background of a script, a run inherits ignored signals and would hand them
# on to the commands that the tests interrupt.
for _number, _usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.fixture(scope="session")
def pg_server() -> Iterator[Server]:
    """A PostgreSQL server for the whole run; each test makes databases of its own in it."""
    with running() as server:
        yield server
