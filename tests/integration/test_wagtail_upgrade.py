"""docs/upgrading-wagtail.md: every command of it is run, on releases of Wagtail as they were published."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from pg_server import Server

PAGE = (Path(__file__).parents[2] / "docs" / "upgrading-wagtail.md").read_text()
SITE, BEFORE, UPGRADE, WRITING, PLAN, ROLLBACK, PROOF, UNDO = re.findall(
    r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
)
(SAID,) = re.findall(r"\n\n```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
(LOCAL_PY,) = re.findall(r"^```python\n# blog/settings/local.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
(COMPONENT,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


class Database(ABC):
    """Where the site keeps its pages; what is compared is asked for without rfs."""

    def site(self) -> str:
        return SITE

    def before(self) -> str:
        return BEFORE

    @abstractmethod
    def pages(self) -> set[str]: ...

    @abstractmethod
    def schema(self) -> str: ...


class Sqlite(Database):
    def __init__(self, folder: Path) -> None:
        self._path = folder / "db.sqlite3"

    def pages(self) -> set[str]:
        return set(self._column("SELECT slug FROM wagtailcore_page"))

    def schema(self) -> str:
        return "\n".join(sorted(self._column("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")))

    def _column(self, query: str) -> list[str]:
        with closing(sqlite3.connect(self._path)) as db:
            return [value for (value,) in db.execute(query)]


class PostgreSql(Database):
    def __init__(self, server: Server) -> None:
        self._server = server
        server.create("blog")

    def site(self) -> str:
        migrate = "venv/bin/python manage.py migrate"
        settings = f"cat > blog/settings/local.py <<END\n{self._here(LOCAL_PY)}END\n"
        before, after = SITE.replace(" gunicorn", " gunicorn 'psycopg[binary]'").split(migrate)
        return f"{before}{settings}{migrate}{after}"

    def before(self) -> str:
        doctor = "rfs doctor"
        before, after = BEFORE.split(doctor)
        programs = f'bin = "{self._server.bin}"'
        return f"{before}cat >> rfs.toml <<END\n\n{self._here(COMPONENT)}{programs}\nEND\n{doctor}{after}"

    def pages(self) -> set[str]:
        with psycopg.connect(self._server.dsn("blog")) as c:
            return {slug for (slug,) in c.execute("SELECT slug FROM wagtailcore_page")}

    def schema(self) -> str:
        """Return it as it is spelled after one restore: PostgreSQL spells some conditions anew, once."""
        self._server.create("spelled", "blog_owner")
        self._client("psql", "--quiet", "--set", "ON_ERROR_STOP=1", "spelled", given=self._dump("blog"))
        spelled = self._dump("spelled")
        self._client("dropdb", "spelled")
        return spelled

    def _dump(self, name: str) -> str:
        said = self._client("pg_dump", "--schema-only", name)
        return re.sub(r"^\\(un)?restrict .*$", "", said, flags=re.MULTILINE)  # a word that is new in each dump

    def _client(self, program: str, *words: str, given: str = "") -> str:
        command = [self._server.bin / program, "--host", self._server.socket, "--username", "blog_owner", *words]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout

    def _here(self, text: str) -> str:
        return text.replace("/run/postgresql", str(self._server.socket))


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    def do(self, block: str) -> str:
        """Run a block of the page as a shell would; return what it printed."""
        home = self.folder.parent / "home"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        environment |= {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.replace("8077", str(self._port))],
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
        said = self.do("venv/bin/python -c 'import wagtail, django; print(wagtail.__version__, django.__version__)'")
        return said.strip()

    def answers(self, path: str) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=20) as answer:
            return bool(answer.status == 200)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    index = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), "wagtail==6.3.8"]
    if subprocess.run(index, capture_output=True, timeout=120, check=False).returncode != 0:
        pytest.skip("no package index can be reached from here, so that there is no Wagtail to upgrade")
    folder = tmp_path / "site"
    folder.mkdir()
    site = Site(folder)
    try:
        yield site
    finally:
        if (folder / "supervisord.pid").exists():
            end = "supervisorctl --configuration supervisord.conf shutdown"
            site.do(f"{end}; while [ -e supervisord.pid ]; do sleep 0.1; done")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, site: Site) -> Database:
    return Sqlite(site.folder) if request.param == "sqlite" else PostgreSql(request.getfixturevalue("pg_server"))


@pytest.mark.slow
def test_the_page_is_true(site: Site, database: Database) -> None:
    site.do(database.site())
    assert "services (service)" in site.do(database.before())
    old, schema = site.release(), database.schema()
    assert old == "6.3.8 4.2.30"
    assert "Applying wagtailcore.0098_apitoken... OK" in site.do(UPGRADE)
    site.do(WRITING)
    new, migrated = site.release(), database.schema()
    assert new == "8.0.1 5.2.19"
    assert migrated != schema
    assert "written" in database.pages()
    assert SAID in site.do(PLAN)
    site.do(ROLLBACK)
    assert (site.release(), database.schema()) == (old, schema)
    assert "written" not in database.pages()
    assert site.answers("/")
    assert site.answers("/admin/login/")
    site.do(PROOF)
    site.do(UNDO)
    assert (site.release(), database.schema()) == (new, migrated)
    assert "written" in database.pages()
    assert site.answers("/admin/login/")
