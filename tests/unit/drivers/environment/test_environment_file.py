from __future__ import annotations

from pathlib import Path

import pytest

from rfs.production.rollback.drivers.environment import EnvironmentDriver
from rfs.testing import MemoryStore, component


def said(home: Path, old: bytes, new: bytes, **options: str) -> list[tuple[str, ...]]:
    driver, store = EnvironmentDriver(), MemoryStore()
    path = home / "shop.env"
    path.write_bytes(old)
    c = component("environment", home, path="shop.env", **options)
    want = driver.capture(c, store, None)
    path.write_bytes(new)
    return [
        (change.kind.value, change.key, *(ref.label if ref else "" for ref in (change.before, change.after)))
        for change in driver.changes(c, store, want, None)
    ]


def test_every_value_is_masked(tmp_path: Path) -> None:
    found = said(tmp_path, b"A=1\nPORT=8000\nSAME=x\n", b"PORT=9000\nSAME=x\nB=\n")
    assert found == [("removed", "A", "••••", ""), ("added", "B", "", "••••"), ("changed", "PORT", "••••", "••••")]


def test_sizes_of_values_are_not_told(tmp_path: Path) -> None:
    driver, store = EnvironmentDriver(), MemoryStore()
    path = tmp_path / ".env"
    path.write_bytes(b"PIN=1234\n")
    c = component("environment", tmp_path, path=".env")
    want = driver.capture(c, store, None)
    path.write_bytes(b"PIN=123456\n")
    (change,) = driver.changes(c, store, want, None)
    assert change.before
    assert change.after
    assert (change.before.size, change.after.size) == (0, 0)


@pytest.mark.parametrize(
    ("options", "old", "new", "keys"),
    [
        ({}, b"; systemd\nA=x # y\n", b"; systemd\nA=x # z\n", ["A"]),
        ({}, b"A=x # y\n", b"A=x # z\n", ["file:layout"]),
        ({"format": "systemd"}, b"A=x # y\n", b"A=x # z\n", ["A"]),
        ({"format": "dotenv"}, b"export A=1\n", b"export A=2\n", ["A"]),
        ({"format": "systemd"}, b"export A=1\n", b"export A=2\n", [""]),
    ],
)
def test_the_two_formats(tmp_path: Path, options: dict[str, str], old: bytes, new: bytes, keys: list[str]) -> None:
    assert [change[1] for change in said(tmp_path, old, new, **options)] == keys


def test_a_file_that_a_distribution_keeps_for_units_is_systemd(tmp_path: Path) -> None:
    driver = EnvironmentDriver()
    c = component("environment", tmp_path, path="/etc/default/shop")
    from rfs.production.rollback.drivers.onefile import File

    assert driver.path(c) == "/etc/default/shop"
    assert driver.invalid(c, File("file", None, b"export A=1\n")) is not None
    other = component("environment", tmp_path, path="/srv/shop/.env")
    assert driver.invalid(other, File("file", None, b"export A=1\n")) is None


def test_a_secret_without_a_name_is_not_taken_for_one(tmp_path: Path) -> None:
    found = said(tmp_path, b"A=1\n", b"A=1\nhunter2-without-a-name\n")
    assert found == [("changed", "", "4 bytes", "27 bytes")]
    assert "hunter2" not in repr(said(tmp_path, b"A=1\n", b"ghp_hunter2hunter2=1\n"))
