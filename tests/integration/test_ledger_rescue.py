"""A damaged ledger: what can be read is saved, the rest is said to be lost, and the damaged file is kept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from cli_app import CommandLine
from small import Small

from rfs.production.rollback import IncrementalRollback
from rfs.production.rollback.ledger_rescue import rescue

CHANGES = 40


class Shop(Small, CommandLine):
    """An application with many tracked changes of one key, which is at the last value."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(home)
        self._capsys = capsys
        self.ledger = self.store / "ledger.db"
        log = IncrementalRollback(home)
        for number in range(CHANGES):
            asyncio.run(log.track_change("settings", "update", number, number + 1, key="version")).unwrap()
        settings = self.tree / "settings.toml"
        settings.write_text(settings.read_text().replace("version = 1", f"version = {CHANGES}"))

    def ids(self) -> set[str]:
        return {each["rollback_id"] for each in self.json("log", "-n", "100")}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    found = Shop(tmp_path / "shop", capsys)
    monkeypatch.chdir(found.home)
    return found


def test_what_can_be_read_is_saved_and_the_rest_is_said_to_be_lost(shop: Shop) -> None:
    before = shop.ids()
    damaged = bytearray(shop.ledger.read_bytes())
    middle = len(damaged) // 2 // 4096 * 4096
    damaged[middle : middle + 4096] = os.urandom(4096)
    shop.ledger.write_bytes(damaged)
    ran = shop.rfs("recover", "--rebuild")
    assert ran.code == 0, ran
    assert "The ledger was damaged" in ran.err
    (kept,) = (shop.store / "damaged").iterdir()
    assert (kept / "ledger.db").read_bytes()[:middle] == bytes(damaged[:middle])
    assert shop.ledger.stat().st_mode & 0o777 == 0o600
    after = shop.ids()
    assert after <= before
    assert len(before) - 20 < len(after)
    shop.json("checkpoint")
    assert "The ledger was damaged" not in shop.rfs("recover", "--rebuild").err
    assert shop.ids() == after


@pytest.mark.slow
def test_one_that_is_no_database_any_more_is_put_aside_and_work_goes_on(shop: Shop) -> None:
    shop.ledger.write_bytes(os.urandom(50_000))
    ran = shop.rfs("log")
    assert (ran.code, "what can be read of it is saved" in ran.err) == (1, True), ran
    ran = shop.rfs("recover", "--rebuild")
    assert (ran.code, "0 records of it were saved" in ran.err) == (0, True), ran
    assert shop.json("log") == []
    with shop.open() as app:
        assert rescue(app.store) is None
