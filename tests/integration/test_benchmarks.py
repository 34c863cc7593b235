"""The benchmarks at a small scale: that they run to their end, and that their tables say what was measured."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_small_run_without_peers(tmp_path: Path) -> None:
    if shutil.which("rsync") is None:
        pytest.skip("NOT TESTED: rsync is not installed")
    table = tmp_path / "table.md"
    command = [sys.executable, "-m", "benchmarks.quick", "--files", "400", "--peers", ""]
    command += ["--place", str(tmp_path), "--out", str(table)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    text = table.read_text(encoding="utf-8")
    assert "| first checkpoint | rfs" in text
    assert "8 files had been modified, added or deleted" in text
    assert "(0 differences)" in text
    assert "| peak memory ≤ 200 MB |" in text
    assert list(tmp_path.iterdir()) == [table]


@pytest.mark.slow
def test_databases_at_a_small_scale(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    command = [sys.executable, "-m", "benchmarks.databases", "--scale", "0.01", "--rounds", "1", "--without-dslr"]
    command += ["--place", str(tmp_path), "--out", str(table)]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = table.read_text(encoding="utf-8")
    assert "| first checkpoint | rfs |" in text
    assert "| roll 1 % back | rfs |" in text
    assert "| outage of a rollback ≤ 0.30 × dslr | | not measured |" in text
    assert "Other rows than before were left by: nobody." in text
    assert list(tmp_path.iterdir()) == [table]


def test_conditions_on_a_few_histories() -> None:
    command = [sys.executable, "-m", "benchmarks.conditions", "--histories", "16"]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert "Rollbacks from missing data or errors alone: 0**" in done.stdout
    assert "| requests fail | bad | 1 | 0 | 0 | 0 | 0 |" in done.stdout


def test_the_table_of_conditions_is_a_whole_run_that_misses_nothing_as_recommended() -> None:
    page = (REPOSITORY / "benchmarks" / "results" / "conditions.md").read_text(encoding="utf-8")
    assert page.startswith("# Conditions on 10,000 histories\n")
    assert "Rollbacks from missing data or errors alone: 0**" in page
    assert re.search(r"^\| as recommended \| \d+ \| 0 \|", page, re.MULTILINE)
