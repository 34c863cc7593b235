"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_app import App
from disks import mounted
from systemd_host import systemd_host  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from postgresql_shop import Shop

    from pg_server import Server


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Call the body of a test that is marked so inside the namespaces of a systemd of its own."""
    if pyfuncitem.get_closest_marker("inside_systemd") is None:
        return None
    wanted = pyfuncitem._fixtureinfo.argnames
    given = {name: pyfuncitem.funcargs[name] for name in wanted}
    pyfuncitem._request.getfixturevalue("systemd_host").call(lambda: pyfuncitem.obj(**given))
    return True


@pytest.fixture
def bare(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> App:
    """The application before `rfs init` was run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("NO_COLOR", "XDG_CONFIG_HOME", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    return App(tmp_path, capsys)


@pytest.fixture
def notes_app(bare: App) -> App:
    """The application with a store."""
    assert bare.rfs("init").code == 0
    return bare


@pytest.fixture
def shop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pg_server: Server
) -> Iterator[Shop]:
    """A shop on the PostgreSQL server that the run shares."""
    from postgresql_shop import shop_of  # with psycopg, which few tests need

    with shop_of(tmp_path, capsys, monkeypatch, pg_server) as found:
        yield found


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB: too small for a reserve."""
    yield from mounted(tmp_path / "tiny", 8)
