"""`rfs migrate` with real Alembic and Django projects and folders of SQL, on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli_app import SERVICE as SCRIPT
from cli_app import App, Ran
from migrating_apps import Alembic, Django, Folder
from postgresql_shop import Shop, shop_of

from pg_server import Server
from rfs.production.rollback.detect import detect
from rfs.production.rollback.draft import render

TOML = """\
[app]
name = "shop"
[components.code]
kind = "files"
path = "."
exclude = ["rfs.toml", "service.log", "__pycache__/", "home/", "*.key"]
[components.db]
{database}
migrations = "{migrations}"
[store]
path = ".rfs"
key = "file:shop.key"
"""
SQLITE = 'kind = "sqlite"\npath = "notes.db"'


class World(NamedTuple):
    """An application with two migrations in force and a checkpoint of that."""

    app: App
    project: Any
    ask: Callable[[str], list[Any]]
    versions: tuple[str, str, str]

    def rfs(self, *words: str) -> Ran:
        return self.app.rfs(*words)

    def migrate_third(self) -> None:
        self.project.add(self.names[2])
        self.project.up()

    @property
    def names(self) -> tuple[str, str, str]:
        found: tuple[str, str, str] = self.project.names
        return found

    @property
    def applied(self) -> list[str]:
        found: list[str] = self.app.json("migrate", "status")[0]["applied"]
        return found


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An application with an empty database, the words of its component, and how Alembic and Django reach it."""
    capsys = request.getfixturevalue("capsys")
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    if request.param == "sqlite":
        app: App = request.getfixturevalue("bare")
        app.sql("DROP TABLE notes")
        path = str(tmp_path / "notes.db")
        yield app, SQLITE, f"sqlite:///{path}", {"ENGINE": "django.db.backends.sqlite3", "NAME": path}, app.sql
        return
    server: Server = request.getfixturevalue("pg_server")
    with shop_of(tmp_path, capsys, monkeypatch, server) as shop:
        empty(shop)
        words = f'kind = "postgresql"\nurl = "env:SHOP_DATABASE"\nbin = "{server.bin}"\nwait = "2s"'
        url = f"postgresql+psycopg://{shop.owner}@/{shop.database}?host={server.socket}"
        django = {"ENGINE": "django.db.backends.postgresql", "NAME": shop.database, "USER": shop.owner}
        django["HOST"] = str(server.socket)

        def ask(query: str) -> list[Any]:
            with shop.connect() as connection:
                done = connection.execute(query.encode())
                return done.fetchall() if done.description else []

        yield shop, words, url, django, ask


def empty(shop: Shop) -> None:
    shop.do("DROP SCHEMA public CASCADE")
    shop.do("CREATE SCHEMA public")
    shop.do("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")


def pairs(*usual: str, tools: tuple[str, ...] = ("sql", "alembic", "django")) -> pytest.MarkDecorator:
    """Run a test with these pairs of tool and database, and where there is time with all pairs of the tools."""
    every = [f"{tool}-{database}" for tool in tools for database in ("sqlite", "postgresql")]
    found = [pytest.param(*id_.split("-"), marks=[] if id_ in usual else [pytest.mark.slow], id=id_) for id_ in every]
    return pytest.mark.parametrize(("tool", "database"), found, indirect=["database"])


@pytest.fixture
def world(tool: str, database: Any, tmp_path: Path) -> World:
    app, words, url, django, ask = database
    if tool == "alembic":
        project: Any = Alembic(tmp_path, url)
        names, versions, path = ("a1", "b2", "c3"), ("a1", "b2", "c3"), "alembic.ini"
    elif tool == "django":
        project = Django(tmp_path, django)
        names = ("0001_initial", "0002_note", "0003_paid")
        versions, path = tuple(f"shop.{name}" for name in names), "manage.py"
    else:
        project = Folder(tmp_path, ask)
        names, versions, path = ("001_orders", "002_note", "003_lines"), ("1", "2", "3"), "sql"
    project.names = names
    for name in names[:2]:
        project.add(name)
    project.up()
    app.configure(TOML.format(database=words, migrations=path))
    if not (app.folder / ".rfs").exists():
        assert app.rfs("init").code == 0
    return World(app, project, ask, (versions[0], versions[1], versions[2]))


@pairs("sql-sqlite")
def test_a_migration_is_taken_back_users_rows_stay_and_undo_brings_it_forth(world: World) -> None:
    app, project, ask, (_, second, third) = world
    taken = app.checkpoint()
    world.migrate_third()
    orders = "shop_order" if isinstance(project, Django) else "orders"
    columns = (
        "(id, note, paid) VALUES (7, 'kept', 1)" if isinstance(project, Django) else "(id, note) VALUES (7, 'kept')"
    )
    ask(f"INSERT INTO {orders} {columns}")
    (found,) = app.json("migrate", "status")
    assert found["heads"][-1 if not isinstance(project, Django) else found["heads"].index(third)] == third
    assert (found["since"], found["checkpoint"], found["missing"]) == ([third], taken, {})
    shown = app.rfs("migrate", "down", second, "--sql")
    assert shown.code == 0, shown
    assert ("DROP" in shown.out) or ("CREATE TABLE" in shown.out), shown.out
    assert third in app.json("migrate", "status")[0]["applied"]
    done = app.rfs("migrate", "down", second, "--reason", "it is slow", "--yes")
    assert done.code == 0, done
    assert third not in app.json("migrate", "status")[0]["applied"]
    assert second in app.json("migrate", "status")[0]["applied"]
    assert ask(f"SELECT note FROM {orders}") == [("kept",)]
    again = app.rfs("migrate", "down", second, "--reason", "again", "--yes", "--json")
    assert (again.code, again.data["error"]["key"]) == (1, "migration.nothing")
    (logged,) = app.json("log")
    assert (logged["kind"], logged["status"], logged["reason"]) == ("migration", "completed", "it is slow")
    assert logged["downgrade"]["versions"] == [third]
    assert app.rfs("undo", "--yes").code == 0
    assert third in app.json("migrate", "status")[0]["applied"]
    assert ask(f"SELECT note FROM {orders}") == [("kept",)]


@pairs("sql-postgresql", "alembic-sqlite")
def test_the_way_down_survives_the_code_that_went_back(world: World) -> None:
    """Captured with a checkpoint: code that goes back alone does not delete it, and the plan says what will not fit."""
    app, project, _, (_, second, third) = world
    before = app.checkpoint()
    world.migrate_third()
    planned = app.rfs("plan", before, "--only", "code", "--json")
    said = " ".join(planned.envelope["warnings"])
    assert third in said, said
    assert ("lines" in said) or ("paid" in said), said
    assert "does not know" in said
    rolled = app.rfs("rollback", before, "--only", "code", "--reason", "bad code", "--yes")
    assert rolled.code == 0, rolled
    assert not project.path(project.names[2]).exists()
    (found,) = app.json("migrate", "status")
    (operation,) = app.json("log")
    assert found["missing"][third] in (operation["safety"], operation["backup_id"])
    assert app.rfs("prune").code == 0  # what a checkpoint needs of scripts stays
    back = app.rfs("migrate", "down", "@latest", "--reason", "after the code", "--yes")
    assert back.code == 0, back
    (found,) = app.json("migrate", "status")
    assert (third in found["applied"], second in found["applied"], found["missing"]) == (False, True, {})
    assert not app.rfs("plan", before, "--only", "code", "--json").out.count("does not know")


# — what goes wrong —


@pytest.mark.parametrize(("tool", "database"), [("sql", "sqlite")], indirect=["database"])
def test_migrations_that_cannot_be_read_stop_no_checkpoint_and_are_told(world: World) -> None:
    whole = world.app.checkpoint()
    assert re.search(r"migrations of db +2\n", world.rfs("checkpoint", "show", whole).out)
    world.project.folder.rename(world.project.folder.with_name("gone"))
    taken = world.rfs("checkpoint", "--json")
    assert taken.code == 0
    (note,) = [each for each in taken.envelope["warnings"] if "migrations of db were not recorded" in each]
    assert "sql" in note
    said = world.rfs("plan", whole, "--only", "code", "--json").envelope["warnings"]
    assert any("cannot be told" in each for each in said)
    assert "migrations of db cannot be read" in world.rfs("doctor").out
    status = world.rfs("migrate", "status")
    assert (status.code, "cannot be read" in status.err) == (3, True)
    assert refused(world, "2") == (1, "migration.nothing")  # told by the scripts of a checkpoint
    assert world.rfs("migrate", "down", "1", "--reason", "x", "--yes").code == 0


SERVICE = """
[components.web]
kind = "service"
manager = "command"
start = ["./service", "start"]
stop = ["./service", "stop"]
status = ["./service", "status"]
"""


def schema(world: World) -> Any:
    if isinstance(world.app, Shop):
        query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    else:
        query = "SELECT m.name, p.name FROM sqlite_schema m JOIN pragma_table_info(m.name) p"
    return sorted(world.ask(query)), sorted(world.ask("SELECT version FROM migration_history"))


def refused(world: World, target: str) -> tuple[int, str]:
    """Run a down that must be refused before anything is touched; return its code and the error's key."""
    before, operations = schema(world), world.app.json("log")
    ran = world.rfs("migrate", "down", target, "--reason", "x", "--yes", "--json")
    assert (schema(world), world.app.json("log")) == (before, operations)
    return ran.code, ran.data["error"]["key"]


@pairs("sql-sqlite", tools=("sql",))
def test_what_cannot_be_done_is_refused_before_anything_is_touched(world: World) -> None:
    world.migrate_third()
    assert refused(world, "3") == (1, "migration.nothing")
    assert refused(world, "x") == (10, "migration.unknown")
    assert refused(world, "@latest") == (10, "checkpoint.none")
    world.project.path("002_note").unlink()
    assert refused(world, "1") == (16, "migrate.no_way")
    assert "Write the down scripts" in world.rfs("migrate", "down", "1", "--reason", "x", "--yes").err
    assert world.rfs("migrate", "down", "2", "--dry-run").code == 0
    assert refused(world, "3") == (1, "migration.nothing")
    world.project.add("002_note", "DROP TABLE orders; COMMIT; SELECT 1")
    assert refused(world, "1") == (2, "migration.transaction")
    ran = world.rfs("migrate", "down", "1", "--yes", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (2, "flag.needed")


def without_a_way_down(world: World) -> None:
    """Apply the third migration, of which there is no way back: no script, nor one in a checkpoint."""
    if isinstance(world.project, Alembic):
        world.project.add("c3", down="raise NotImplementedError")
    elif isinstance(world.project, Django):
        world.project.add("0003_paid")
        path = world.project.path("0003_paid")
        once = "migrations.RunPython(lambda apps, editor: None)"
        path.write_text(path.read_text().replace("operations = [", f"operations = [{once}, "))
    else:
        world.project.add("003_lines", " ")
    world.project.up()


@pairs("sql-sqlite", "sql-postgresql")
def test_a_checkpoint_covers_what_has_no_script_when_that_is_asked_for(world: World) -> None:
    """It is a rollback of the database: rows go with it, which the plan says first, and undo brings them forth."""
    app, project, ask, (first, second, third) = world
    orders, paid = ("shop_order", ", paid, note") if isinstance(project, Django) else ("orders", "")
    older = app.checkpoint()
    ask(f"INSERT INTO {orders} (id{', note' if paid else ''}) VALUES (1{', 0' if paid else ''})")
    covering = app.checkpoint()
    without_a_way_down(world)
    ask(f"INSERT INTO {orders} (id{paid}) VALUES (2{', 0, 0' if paid else ''})")
    assert older != covering
    before, operations = world.applied, app.json("log")
    ran = world.rfs("migrate", "down", second, "--reason", "x", "--yes", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (16, "migrate.covered")
    assert covering in ran.data["error"]["hint"]
    assert "--or-checkpoint" in ran.data["error"]["hint"]
    assert (world.applied, app.json("log")) == (before, operations)
    shown = app.json("migrate", "down", second, "--or-checkpoint", "--dry-run", "--debug")
    assert orders in str(shown["losses"]), shown
    assert (world.applied, app.json("log")) == (before, operations)
    done = world.rfs("migrate", "down", second, "--or-checkpoint", "--reason", "no way", "--yes")
    assert done.code == 0, done
    assert third not in world.applied
    assert second in world.applied
    assert ask(f"SELECT id FROM {orders}") == [(1,)]
    (logged,) = app.json("log")
    assert (logged["kind"], logged["status"], logged["reason"]) == ("rollback", "completed", "no way")
    assert app.rfs("undo", "--yes").code == 0
    assert third in world.applied
    assert ask(f"SELECT id FROM {orders} ORDER BY id") == [(1,), (2,)]
    assert world.rfs("migrate", "down", first, "--or-checkpoint", "--sql").code == 2


@pairs("sql-sqlite", tools=("sql",))
def test_leave_for_a_checkpoint_is_not_used_where_there_are_scripts(world: World) -> None:
    world.app.checkpoint()
    world.migrate_third()
    world.ask("INSERT INTO orders (id) VALUES (7)")
    assert world.rfs("migrate", "down", "2", "--or-checkpoint", "--reason", "x", "--yes").code == 0
    assert (world.applied, world.ask("SELECT id FROM orders")) == (["1", "2"], [(7,)])


@pairs("sql-sqlite", tools=("sql",))
def test_a_checkpoint_from_elsewhere_on_the_way_is_named_and_not_taken(world: World) -> None:
    """It is not where the way down would have led: on to it, and then by scripts."""
    between = world.app.checkpoint()
    world.project.add("003_lines", " ")
    world.project.up()
    assert refused(world, "1") == (16, "migrate.no_way")
    ran = world.rfs("migrate", "down", "1", "--or-checkpoint", "--reason", "x", "--yes")
    assert (ran.code, f"rfs rollback {between} --only db" in ran.err) == (16, True), ran
    assert world.applied == ["1", "2", "3"]
    assert world.rfs("migrate", "down", "2", "--or-checkpoint", "--reason", "x", "--yes").code == 0
    assert world.rfs("migrate", "down", "1", "--reason", "x", "--yes").code == 0
    assert world.applied == ["1"]


@pairs("sql-sqlite", tools=("sql",))
def test_a_checkpoint_without_the_database_or_below_the_target_covers_nothing(world: World) -> None:
    below = world.app.checkpoint()
    world.migrate_third()
    assert world.rfs("checkpoint", "--except", "db").code == 0
    world.ask("INSERT INTO migration_history (version) VALUES ('4')")
    assert refused(world, "3") == (16, "migrate.no_way")
    said = world.rfs("migrate", "down", "3", "--or-checkpoint", "--reason", "x", "--yes").err
    assert (below in said, "Write the down scripts" in said) == (False, True)
    assert world.rfs("migrate", "down", "2", "--or-checkpoint", "--reason", "x", "--yes").code == 0
    assert world.applied == ["1", "2"]


@pairs("sql-sqlite", tools=("sql",))
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("DROP TABLE nonsense", "nonsense"),
        ("DELETE FROM migration_history", "rows of migration_history"),
    ],
)
def test_a_script_that_fails_leaves_everything_as_it_was(world: World, script: str, said: str) -> None:
    world.migrate_third()
    world.ask("INSERT INTO orders (id, note) VALUES (1, 'kept')")
    before = schema(world)
    world.project.add("002_note", script)
    ran = world.rfs("migrate", "down", "1", "--reason", "x", "--yes")
    assert ran.code == 30, ran
    assert said in ran.err
    assert schema(world) == before
    assert world.ask("SELECT note FROM orders") == [("kept",)]
    assert world.app.json("log")[0]["status"] == "reverted"


@pairs("sql-sqlite", "sql-postgresql", tools=("sql",))
def test_what_no_transaction_holds_is_written_down_and_restored_when_it_fails(world: World) -> None:
    apart = "VACUUM" if not isinstance(world.app, Shop) else "DROP INDEX CONCURRENTLY quick"
    world.ask("CREATE INDEX quick ON orders (note)")
    world.migrate_third()
    world.project.add("003_lines", f"DROP TABLE lines; {apart}; SELECT 1;")
    before = schema(world)
    world.project.add("002_note", "DROP TABLE nonsense")
    assert world.rfs("migrate", "down", "1", "--reason", "x", "--yes").code == 30
    assert schema(world) == before
    world.project.add("002_note")
    world.ask("DROP INDEX IF EXISTS quick" if not isinstance(world.app, Shop) else "SELECT 1")
    done = world.rfs("migrate", "down", "2", "--reason", "x", "--yes")
    assert done.code == 0, done
    assert world.applied == ["1", "2"]
    journal = world.app.json("show")["journal"]
    noted = [(each["mark"], each["note"]) for each in journal if each["mark"] in ("begun", "ended")]
    assert noted == [(mark, f"3 statement {n}") for n in (1, 2, 3) for mark in ("begun", "ended")]


@pairs("sql-sqlite", tools=("sql",))
def test_services_are_stopped_meanwhile_and_a_sick_application_is_only_told(world: World) -> None:
    """Between the migration and the code that fits it, an application may rightly be unwell."""
    app = world.app
    if isinstance(app, Shop):
        (app.folder / "service").write_text(SCRIPT)
        (app.folder / "service").chmod(0o755)
        (app.folder / "running").touch()
    world.migrate_third()
    app.configure(
        (app.folder / "rfs.toml").read_text() + SERVICE + '[[health]]\nname = "x"\ncommand = ["false"]\nretries = 0\n'
    )
    done = world.rfs("migrate", "down", "2", "--reason", "x", "--yes")
    assert done.code == 3, done
    assert "health check failed" in done.err
    assert world.applied == ["1", "2"]
    words = (app.folder / "service.log").read_text().split()
    assert words.index("stop") < len(words) - 1 - words[::-1].index("start")


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "database"), [("alembic", "sqlite")], indirect=["database"])
def test_a_tool_that_reaches_another_database_is_refused(world: World, tmp_path: Path) -> None:
    world.migrate_third()
    (tmp_path / "app_settings.py").write_text(f"URL = 'sqlite:///{tmp_path}/other.db'\n")
    ran = world.rfs("migrate", "down", "b2", "--reason", "x", "--yes", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (15, "migrate.elsewhere")
    (tmp_path / "app_settings.py").write_text("raise ValueError('no settings')\n")
    ran = world.rfs("migrate", "down", "b2", "--reason", "x", "--yes", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (1, "migrate.tool")
    assert "no settings" in ran.data["error"]["message"]
    assert world.applied == ["a1", "b2", "c3"]


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "database"), [("django", "postgresql")], indirect=["database"])
def test_django_says_which_migration_has_no_way_down(world: World) -> None:
    world.migrate_third()
    world.project.add("0004_once")
    world.project.up()
    ran = world.rfs("migrate", "down", "shop.0002", "--reason", "x", "--yes", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (16, "migrate.no_way")
    assert "shop.0004_once" in ran.data["error"]["message"]
    assert world.rfs("migrate", "down", "shop", "--reason", "x", "--yes").code == 2
    assert world.rfs("migrate", "down", "shop.0009", "--reason", "x", "--yes").code == 10


# — killed —


def journal(world: World) -> list[tuple[str, str, str]]:
    found = world.rfs("show", "--json")
    return [(each["step"], each["mark"], each["note"]) for each in found.data["journal"]] if found.code == 0 else []


def killed_at(world: World, reached: Callable[[], bool], *words: str) -> None:
    """Start a way down, and kill it when it has come so far."""
    child = world.app.start("migrate", "down", *words, "--reason", "x", "--yes")
    deadline = time.monotonic() + 60
    try:
        while not reached():
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)  # what another process has come to is told to nobody
    finally:
        child.kill()
        child.communicate()


ENDLESS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"


@pytest.mark.parametrize(("tool", "database"), [("sql", "sqlite")], indirect=["database"])
def test_killed_at_a_statement_that_no_transaction_holds_it_is_the_state_before(world: World) -> None:
    """Nobody knows whether the statement was carried out: so it is not run again, but everything restored."""
    world.migrate_third()
    before = schema(world)
    world.project.add("003_lines", f"DROP TABLE lines; VACUUM; {ENDLESS};")
    killed_at(world, lambda: ("migrate:db", "begun", "3 statement 3") in journal(world), "2")
    assert schema(world) != before
    world.project.add("003_lines", "DROP TABLE lines; VACUUM; SELECT 1;")
    recovered = world.rfs("recover")
    assert recovered.code == 30, recovered
    assert "Nobody knows whether statement 3" in recovered.err
    assert schema(world) == before
    assert world.rfs("migrate", "down", "2", "--reason", "x", "--yes").code == 0
    assert world.applied == ["1", "2"]


@pytest.mark.parametrize(("tool", "database"), [("sql", "sqlite")], indirect=["database"])
def test_killed_in_a_transaction_it_is_finished(world: World) -> None:
    world.migrate_third()
    world.project.add("003_lines", f"DROP TABLE lines; {ENDLESS};")
    killed_at(world, lambda: ("migrate:db", "intent", "") in journal(world), "1")
    world.project.add("003_lines")
    assert world.rfs("recover").code == 0
    assert world.applied == ["1"]
    assert world.app.json("log")[0]["status"] == "completed"


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "database"), [("alembic", "sqlite")], indirect=["database"])
def test_a_tool_does_not_outlive_who_started_it(world: World, tmp_path: Path) -> None:
    """Recovery must not meet it at work."""
    world.migrate_third()
    begun = tmp_path / "home" / "begun"
    begun.parent.mkdir(exist_ok=True)
    # It sleeps in the place of a migration that takes long: the test kills it there.
    down = f"import os, time; open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    world.project.add("c3", down=down)
    killed_at(world, lambda: begun.exists() and bool(begun.read_text()), "b2")
    pid = int(begun.read_text())
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)  # it is nobody's child now
    world.project.add("c3")
    assert world.rfs("recover").code == 0
    assert world.applied == ["a1", "b2"]


# — the page, and what `rfs init` writes —

PAGE = Path(__file__).parents[2] / "docs" / "migrations.md"


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tmp_path / "home"), "LC_ALL": "C.UTF-8"}
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (["alembic.ini", "db/env.py"], "alembic.ini"),
        (["manage.py"], "manage.py"),
        (["sql/001_a.up.sql", "sql/001_a.down.sql"], "sql"),
    ],
)
def test_init_sees_what_migrates_the_database(bare: App, made: list[str], wanted: str) -> None:
    for name in made:
        (bare.folder / name).parent.mkdir(exist_ok=True)
        (bare.folder / name).write_text("[alembic]\nscript_location = db\n# DJANGO_SETTINGS_MODULE\n")
    (bare.folder / "rfs.toml").unlink()
    assert f'migrations = "{wanted}"' in render(detect(str(bare.folder))).splitlines()
    (bare.folder / "other.ini").write_text("url = postgresql://localhost/x\n")
    (bare.folder / "more").mkdir()
    (bare.folder / "more" / "2_b.down.sql").touch()
    found = render(detect(str(bare.folder)))
    assert f'#   migrations = "{wanted}"' in found
    assert '#   migrations = "more"' in found
