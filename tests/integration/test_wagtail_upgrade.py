"""docs/upgrading-wagtail.md: every command of it is run, on releases of Wagtail as they were published."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "upgrading-wagtail.md").read_text()
SITE, BEFORE, UPGRADE, WRITING, PLAN, ROLLBACK, PROOF, UNDO = re.findall(
    r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
)


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def do(self, block: str) -> str:
        """Run a block of the page as a shell would; return what it printed."""
        home = self.folder.parent / "home"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        environment |= {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.replace("8077", str(self.port))],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{block}\nended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def release(self) -> str:
        return self.do(
            "venv/bin/python -c 'import wagtail, django; print(wagtail.__version__, django.__version__)'"
        ).strip()

    def pages(self) -> set[str]:
        with closing(sqlite3.connect(self.folder / "db.sqlite3")) as db:
            return {slug for (slug,) in db.execute("SELECT slug FROM wagtailcore_page")}

    def schema(self) -> set[str]:
        with closing(sqlite3.connect(self.folder / "db.sqlite3")) as db:
            return {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}

    def answers(self, path: str) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            return bool(answer.status == 200)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    index = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), "wagtail==6.3.8"]
    if subprocess.run(index, capture_output=True, timeout=120, check=False).returncode != 0:
        pytest.skip("no package index can be reached from here, so that there is no Wagtail to upgrade")
    site = Site(tmp_path / "site")
    try:
        yield site
    finally:
        if (site.folder / "supervisord.pid").exists():
            site.do(
                "supervisorctl --configuration supervisord.conf shutdown"
                "; while [ -e supervisord.pid ]; do sleep 0.1; done"
            )


@pytest.mark.slow
def test_the_page_is_true(site: Site) -> None:
    site.do(SITE)
    assert "services (service)" in site.do(BEFORE)
    old, schema = site.release(), site.schema()
    assert old == "6.3.8 4.2.30"
    assert "Applying wagtailcore.0098_apitoken... OK" in site.do(UPGRADE)
    site.do(WRITING)
    new, migrated = site.release(), site.schema()
    assert new == "8.0.1 5.2.19"
    assert migrated != schema
    assert "written" in site.pages()
    plan = site.do(PLAN)
    (said,) = re.findall(r"\n\n```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert said in plan
    site.do(ROLLBACK)
    assert (site.release(), site.schema()) == (old, schema)
    assert "written" not in site.pages()
    assert site.answers("/")
    assert site.answers("/admin/login/")
    site.do(PROOF)
    site.do(UNDO)
    assert (site.release(), site.schema()) == (new, migrated)
    assert "written" in site.pages()
    assert site.answers("/admin/login/")
