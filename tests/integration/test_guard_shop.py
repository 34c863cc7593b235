"""A guarded deployment of the example shop, with its web server and worker under a real supervisor."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rfs.demo import witness
from rfs.demo.shop import Shop, source

# Version 2 has forgotten to look at its ledger, which is what it breaks.
HEALTH = """
[[health]]
name = "http"
http = "http://127.0.0.1:{port}/health"
body = "ledger"
retries = 2
"""


@pytest.fixture
def shop() -> Iterator[Shop]:
    """The shop with a store; pytest's own folders have paths too long for its socket."""
    with tempfile.TemporaryDirectory(prefix="rfs-shop-") as folder:
        base = Path(folder) / "one"
        base.mkdir()
        shop = Shop(base)
        shop.install()
        try:
            shop.start()
            assert rfs(shop, "init", "--store", str(base / "store")).returncode == 0
            config = shop.folder / "rfs.toml"
            config.write_text(config.read_text() + HEALTH.format(port=shop.port))
            yield shop
        finally:
            assert shop.stop() == []
            assert list(shop.running()) == []


def rfs(shop: Shop, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rfs.cli.main", *words]
    environment = {**shop.environment, "XDG_CONFIG_HOME": str(shop.base / "config")}
    return subprocess.run(command, cwd=shop.folder, env=environment, capture_output=True, text=True, check=False)


def guarded(shop: Shop, *flags: str) -> subprocess.CompletedProcess[str]:
    deploy = [sys.executable, str(source() / "deploy_v2.py"), str(shop.folder)]
    return rfs(shop, "guard", "--version", "2.0.0", *flags, "--", *deploy)


@pytest.mark.slow
def test_a_version_that_fails_its_health_check_is_wholly_gone_again(shop: Shop) -> None:
    before = witness.rows(shop.database)
    ran = guarded(shop)
    assert ran.returncode == 20, ran.stderr
    assert "Version 2.0.0 is deployed." in ran.stdout
    assert "without 'ledger' in its body" in ran.stderr
    assert shop.health()["version"] == "1.4.2"
    assert witness.rows(shop.database) == before
    drift = json.loads(rfs(shop, "status", "--json").stdout)["data"]["drift"]
    assert [each["component"] for each in drift if not each["equal"]] == []
    assert guarded(shop).returncode == 21
    assert guarded(shop, "--no-rollback").returncode == 21
    assert shop.health()["version"] == "1.4.2"
