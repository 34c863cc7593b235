"""What holds for all tests: which are fault tests, which work in memory, and what a run inherits from its caller."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pg_server import USED, Server, running
from rfs.production.rollback.migrating import version_key

HERE = Path(__file__).parent
CRASH = HERE / "crash"  # `make test` leaves the slow ones of these to `make crash`

# Thousands of fsyncs prove nothing in these that needs a disk: what a power loss leaves is the matter of tests/crash.
IN_MEMORY = [
    HERE / name
    for name in (
        "conformance/test_config_driver.py",
        "conformance/test_service_driver.py",
        "conformance/test_sqlite_driver.py",
        "conformance/test_suite_catches.py",
        "unit/drivers/sqlite",
        "unit/store",
        "unit/test_catalog.py",
        "unit/test_engine.py",
        "unit/test_engine_migrations.py",
    )
]

# How long an example took says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A caller that wants no compiled modules would have every `rfs` of the tests compile itself, and each worker all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(CRASH):
            item.add_marker("crash")


# Started by nohup or in the background of a script, a run inherits ignored signals and would hand them
# on to the commands that the tests interrupt.
for _number, _usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.fixture
def tmp_path(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder in memory for the tests of IN_MEMORY, where there is one; for all others the usual one."""
    if not any(request.path.is_relative_to(place) for place in IN_MEMORY) or not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="rfs-test-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def pg_server() -> Iterator[Server]:
    """A PostgreSQL server for the whole run; each test makes databases of its own in it."""
    with running() as server:
        yield server


# — which version of PostgreSQL a test ran on —


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    USED.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        item.user_properties += [("postgresql", version) for version in sorted(USED)]  # they come from workers, too


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests of each file ran on which version."""
    found: Counter[tuple[str, str, str]] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            properties = getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ()
            for version in (value for name, value in properties if name == "postgresql"):
                found[Path(report.nodeid.partition("::")[0]).name, str(version), outcome] += 1
    if not found:
        return
    versions = sorted({version for _, version, _ in found}, key=version_key, reverse=True)
    width = max(len(file) for file, _, _ in found)
    terminalreporter.section("tests on PostgreSQL, by version")
    terminalreporter.line("  ".join([" " * width, *(f"{version:>12}" for version in versions)]))
    for file in sorted({file for file, _, _ in found}):
        cells = []
        for version in versions:
            passed, failed = found[file, version, "passed"], found[file, version, "failed"]
            cells.append(f"{passed or '-'}" + (f" + {failed} failed" if failed else ""))
        terminalreporter.line("  ".join([f"{file:<{width}}", *(f"{cell:>12}" for cell in cells)]))
