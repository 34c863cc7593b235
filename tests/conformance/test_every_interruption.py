"""A restore interrupted at up to 120 calls, for the drivers of which the other files of this folder take fewer."""

from __future__ import annotations

from pathlib import Path

import pytest
import test_config_driver
import test_files_driver
import test_service_driver
import test_sqlite_driver

from rfs.testing import DriverSuite

SUITES = (
    test_config_driver.TestConfig,
    test_config_driver.TestEnvironment,
    test_files_driver.TestFilesThatAreExcluded,
    test_service_driver.TestDefinitions,
    test_service_driver.TestRunning,
    test_sqlite_driver.TestSqliteWithAWriteAheadLog,
    test_sqlite_driver.TestSqliteWithARollbackJournal,
    test_sqlite_driver.TestSqliteThatChangesItsPages,
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUITES)
def test_a_restore_converges_and_turns_back_wherever_it_was_interrupted(
    kind: type[DriverSuite], tmp_path: Path
) -> None:
    suite = kind()
    suite.most_interruptions = 120
    for name in ("converges", "turns_back"):
        folder = tmp_path / name
        folder.mkdir()
        getattr(suite, f"test_restore_{name}_after_it_was_interrupted")(folder)
