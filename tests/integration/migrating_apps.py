"""Small real projects that migrate a database: Alembic's, Django's, and a folder of SQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ALEMBIC_INI = """\
[alembic]
script_location = %(here)s/db
prepend_sys_path = .
"""
ENV = """\
import os
from alembic import context
from sqlalchemy import create_engine, pool
import app_settings

if context.is_offline_mode():
    context.configure(url=app_settings.URL, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(app_settings.URL, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection, render_as_batch=True)
        with context.begin_transaction():
            context.run_migrations()
"""
REVISION = '''\
"""{title}"""

from alembic import op
import sqlalchemy as sa

revision: str = "{version}"
down_revision: "str | None" = {parent!r}


def upgrade() -> None:
    {up}


def downgrade() -> None:
    {down}
'''
REVISIONS = [
    ("a1", None, "orders", 'op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True))', 'op.drop_table("orders")'),
    ("b2", "a1", "notes of orders", 'op.add_column("orders", sa.Column("note", sa.Text))',
     'with op.batch_alter_table("orders") as t: t.drop_column("note")'),
    ("c3", "b2", "lines", 'op.create_table("lines", sa.Column("n", sa.Integer))', 'op.drop_table("lines")'),
]  # fmt: skip


class Alembic:
    """An Alembic project in a folder; `up` migrates as its owner would."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        (folder / "db" / "versions").mkdir(parents=True)
        (folder / "alembic.ini").write_text(ALEMBIC_INI)
        (folder / "db" / "env.py").write_text(ENV)
        (folder / "db" / "script.py.mako").write_text("${up_revision}")
        (folder / "app_settings.py").write_text(f"URL = {url!r}\n")

    def path(self, version: str) -> Path:
        return self.folder / "db" / "versions" / f"{version}_it.py"

    def add(self, version: str, **other: str) -> None:
        (found,) = [each for each in REVISIONS if each[0] == version]
        words = dict(zip(("version", "parent", "title", "up", "down"), found, strict=True)) | other
        self.path(version).write_text(REVISION.format(**words))

    def up(self, version: str = "head") -> None:
        command = [sys.executable, "-m", "alembic", "upgrade", version]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


MANAGE = """\
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
SETTINGS = """\
SECRET_KEY = "x"
INSTALLED_APPS = ["shop"]
DATABASES = {{"default": {database!r}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""
MIGRATION = """\
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = {needs!r}
    operations = [{operation}]
"""
ORDER = """\
migrations.CreateModel("Order", [("id", models.BigAutoField(primary_key=True))])"""
MIGRATIONS = {
    "0001_initial": ([], ORDER),
    "0002_note": (["0001_initial"], 'migrations.AddField("Order", "note", models.TextField(default=""))'),
    "0003_paid": (["0002_note"], 'migrations.AddField("Order", "paid", models.IntegerField(default=0))'),
    "0004_once": (["0003_paid"], "migrations.RunPython(lambda apps, editor: None)"),
}


class Django:
    """A Django project in a folder, with one app, `shop`."""

    def __init__(self, folder: Path, database: dict[str, str]) -> None:
        self.folder = folder
        (folder / "shop" / "migrations").mkdir(parents=True)
        for name in ("shop/__init__.py", "shop/models.py", "shop/migrations/__init__.py"):
            (folder / name).touch()
        (folder / "manage.py").write_text(MANAGE)
        (folder / "site_settings.py").write_text(SETTINGS.format(database=database))

    def path(self, name: str) -> Path:
        return self.folder / "shop" / "migrations" / f"{name}.py"

    def add(self, name: str) -> None:
        needs, operation = MIGRATIONS[name]
        self.path(name).write_text(MIGRATION.format(needs=[("shop", each) for each in needs], operation=operation))

    def up(self) -> None:
        command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


SCRIPTS = {
    "001_orders": ("CREATE TABLE orders (id integer PRIMARY KEY)", "DROP TABLE orders"),
    "002_note": ("ALTER TABLE orders ADD COLUMN note text", "ALTER TABLE orders DROP COLUMN note"),
    "003_lines": ("CREATE TABLE lines (n integer)", "BEGIN; DROP TABLE lines; COMMIT;"),
}


class Folder:
    """A folder of SQL; `do` runs a statement in the database."""

    def __init__(self, folder: Path, do: Callable[[str], list[tuple[str]]]) -> None:
        self.folder = folder / "sql"
        self.folder.mkdir()
        self._do = do
        do("CREATE TABLE migration_history (version text PRIMARY KEY, down_script text)")

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.down.sql"

    def add(self, name: str, down: str | None = None) -> None:
        (self.folder / f"{name}.up.sql").write_text(SCRIPTS[name][0])
        self.path(name).write_text(SCRIPTS[name][1] if down is None else down)

    def up(self) -> None:
        for name in sorted(path.name.removesuffix(".up.sql") for path in self.folder.glob("*.up.sql")):
            version = str(int(name[:3]))
            if self._do(f"SELECT version FROM migration_history WHERE version = '{version}'"):
                continue
            self._do((self.folder / f"{name}.up.sql").read_text())
            self._do(f"INSERT INTO migration_history (version) VALUES ('{version}')")
