"""`rfs init` looks at folders: what it finds, what it leaves alone, and that what it writes is valid."""

from __future__ import annotations

import os
import sqlite3
import tomllib
from pathlib import Path

import pytest

from rfs.production.rollback import draft
from rfs.production.rollback.detect import Detected, detect
from rfs.production.rollback.draft import render, store_path
from rfs.production.rollback.drivers.service.options import ServiceOptions
from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.settings import convert_table, parse

SUPERVISOR = """\
[unix_http_server]
file=%(here)s/run/supervisor.sock ; the socket
[supervisord]
nodaemon=false
[group:shop]
programs=web,worker
[program:web]
command=python web.py
[program:worker]
command=python worker.py
[program:mailer]
command=python mailer.py
numprocs=3
process_name=%(program_name)s_%(process_num)d
[include]
files = conf.d/*.conf
"""

NO_DATABASE = "No database was found. A rollback leaves one as it is until rfs.toml has a component for it."
NO_SERVICE = "No service was found. What runs is not stopped by a rollback until rfs.toml has a component for it."


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "My shop"
    for path, text in {
        "web.py": "print()",
        ".env": "SECRET=hunter2\nPORT=8123\nDATABASE_URL=postgresql+asyncpg://u:hunter2@h/db\n",
        ".env.example": "SECRET=\n",
        "config/settings.toml": "[http]\nport = 8001\n",
        "config/logging.yaml": "version: 1\n",
        "app.ini": "[a]\nb=c\n",
        "pyproject.toml": "[project]\n",
        "package.json": "{}\n",
        "tsconfig.json": "{}\n",
        "locales/en.json": "{}\n",
        "static/config.json": "{}\n",
        "data/notes.json": "{}\n",
        "node_modules/x/config.json": "{}\n",
        "uploads/picture.png": "x",
        "logs/app.log": "x",
        "__pycache__/web.pyc": "x",
        ".git/config": "x",
        ".coverage": "SQLite format 3\x00" + "x" * 600,
        "notes.db": "no database",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    with sqlite3.connect(folder / "data" / "shop.db") as db:
        db.execute("CREATE TABLE orders (id INTEGER)")
    db.close()
    return folder


def looked(folder: Path, system: Path | None = None) -> Detected:
    return detect(str(folder), system=str(system or folder.parent / "no-system"))


def paths(found: Detected, kind: str) -> list[str]:
    return [component.options["path"] for component in found.components if component.kind == kind]


def said(found: Detected) -> str:
    return "\n".join(line for each in found.suggestions for line in (each.why, *each.lines))


def test_it_finds_what_the_application_consists_of(app: Path) -> None:
    found = looked(app)
    assert found.name == "My-shop"
    assert paths(found, "environment") == [".env"]
    assert paths(found, "config") == ["app.ini", "config/logging.yaml", "config/settings.toml"]
    assert paths(found, "sqlite") == ["data/shop.db"]
    (release,) = [component for component in found.components if component.kind == "files"]
    assert release.options["path"] == "."
    assert release.options["keep"] == ["/uploads/"]
    assert {"/logs/", "*.log", "__pycache__/", ".git/", "/rfs.toml"} <= set(release.options["exclude"])
    assert "tmp/" not in release.options["exclude"], "only what is there is named"


def test_installed_packages_belong_to_the_release_and_are_not_looked_into(app: Path) -> None:
    """An upgrade replaces them, so a rollback that left them out would start old code on a new framework."""
    for path in ("env/pyvenv.cfg", "env/lib/x/.env", "env/lib/x/config/app.toml", ".venv/config/app.toml"):
        (app / path).parent.mkdir(parents=True, exist_ok=True)
        (app / path).write_text("A=1\n", encoding="utf-8")
    found = looked(app)
    assert paths(found, "environment") == [".env"]
    assert paths(found, "config") == ["app.ini", "config/logging.yaml", "config/settings.toml"]
    (release,) = [component for component in found.components if component.kind == "files"]
    assert not {"env/", ".venv/", "node_modules/"} & set(release.options["exclude"])


def test_a_package_called_log_is_code_and_odd_names_are_escaped(app: Path) -> None:
    for path in ("lib/log/writer.py", "a[1]/uploads/x", "lib/tmp/x.txt"):
        (app / path).parent.mkdir(parents=True)
        (app / path).write_text("x", encoding="utf-8")
    options = looked(app).components[0].options
    assert "/lib/tmp/" in options["exclude"]
    assert not [pattern for pattern in options["exclude"] if "log/" in pattern]
    assert options["keep"] == ["/a\\[1\\]/uploads/", "/uploads/"]


def test_names_are_short_and_never_given_twice(app: Path) -> None:
    names = [component.name for component in looked(app).components]
    assert names == ["release", "config-app", "config-logging", "config-settings", "env", "db"]
    for folder in ("a", "a-"):
        (app / folder).mkdir()
        (app / folder / "x.env").write_text("A=1\n", encoding="utf-8")
    names = [component.name for component in looked(app).components if component.kind == "environment"]
    assert names == ["env", "env-a-x", "env-a-x-2"]


def test_what_it_writes_is_valid_and_has_no_secret(app: Path) -> None:
    text = render(looked(app))
    settings = parse(text, str(app / "rfs.toml"))
    assert [table.name for table in settings.components] == [component.name for component in looked(app).components]
    assert settings.store.key.endswith(".key")
    assert "hunter2" not in text
    assert text.startswith("#:schema file:///")


def test_every_suggestion_is_valid_when_its_marks_are_taken_off(app: Path) -> None:
    (app / "shop.service").write_text("[Service]\n", encoding="utf-8")
    (app / "compose.yaml").write_text("services: {}\n", encoding="utf-8")
    text = render(looked(app))
    parse(text, str(app / "rfs.toml"))
    opened = "\n".join(line.removeprefix("#   ") for line in text.splitlines())
    settings = parse(opened, str(app / "rfs.toml"))
    assert {"services", "containers"} <= {table.name for table in settings.components}
    for table in settings.components:
        if table.kind == "service":
            assert convert_table(settings, table.options, ServiceOptions, ("components", table.name))
    assert settings.health == ({"name": "http", "http": "http://127.0.0.1:8123/health", "required": True},)
    assert 'manager = "systemd"' in text


def test_a_database_that_is_not_covered_is_said_aloud(app: Path) -> None:
    assert looked(app).notices == (
        ".env names a PostgreSQL database. A rollback leaves it as it is until rfs.toml has a component for it.",
        NO_SERVICE,
    )
    assert 'kind = "postgresql"\n#   url = "env:DATABASE_URL"' in render(looked(app))
    (app / ".env").write_text("CACHE='redis://h'\n", encoding="utf-8")
    notice, _ = looked(app).notices
    assert notice == ".env names a Redis database. This release does not capture it: a rollback leaves it as it is."


def test_it_says_that_no_database_and_no_service_were_found(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    found = looked(tmp_path / "app")
    assert found.notices == (NO_DATABASE, NO_SERVICE)
    opened = "\n".join(line.removeprefix("#   ") for line in render(found).splitlines())
    settings = parse(opened, str(tmp_path / "app" / "rfs.toml"))
    assert [table.kind for table in settings.components] == ["files", "postgresql", "service"]


def test_it_is_silent_about_what_it_found(app: Path) -> None:
    (app / ".env").unlink()
    (app / "supervisord.conf").write_text(SUPERVISOR, encoding="utf-8")
    assert looked(app).notices == ()
    (app / "data" / "shop.db").unlink()
    assert looked(app).notices == (NO_DATABASE,)
    (app / "supervisord.conf").unlink()
    (app / "compose.yaml").write_text("services: {}\n", encoding="utf-8")
    assert looked(app).notices == (NO_DATABASE,)


def test_supervisor_groups_includes_and_several_processes(app: Path) -> None:
    (app / "supervisord.conf").write_text(SUPERVISOR, encoding="utf-8")
    (app / "conf.d").mkdir()
    (app / "conf.d" / "cron.conf").write_text("[program:cron]\ncommand=cron\n", encoding="utf-8")
    services = [component for component in looked(app).components if component.kind == "service"]
    assert [component.options for component in services] == [
        {
            "manager": "supervisor",
            "config": "supervisord.conf",
            "units": ["cron", "mailer:*", "shop:web", "shop:worker"],
        }
    ]


def test_a_supervisor_that_nobody_can_reach_is_only_suggested(app: Path) -> None:
    text = SUPERVISOR.replace("[unix_http_server]\nfile=%(here)s/run/supervisor.sock ; the socket\n", "")
    (app / "supervisord.conf").write_text(text, encoding="utf-8")
    found = looked(app)
    assert not [component for component in found.components if component.kind == "service"]
    assert "no [unix_http_server] section" in said(found)
    (app / "supervisord.conf").write_text("[supervisord]\n[program:x\n", encoding="utf-8")
    assert "supervisor" not in said(looked(app))


def test_units_of_the_system_that_run_this_folder(app: Path, tmp_path: Path) -> None:
    system = tmp_path / "system"
    units, programs = system / "etc/systemd/system", system / "etc/supervisor/conf.d"
    units.mkdir(parents=True)
    programs.mkdir(parents=True)
    (system / "etc/shop.env").write_text("A=1\n", encoding="utf-8")
    environment = system / "etc/shop.env"
    (units / "shop.service").write_text(
        f"[Service]\nWorkingDirectory={app}\nEnvironmentFile=-{environment}\n", encoding="utf-8"
    )
    (units / "other.service").write_text(f"[Service]\nWorkingDirectory={app}-other\n", encoding="utf-8")
    (programs / "shop.conf").write_text(f"[program:shop]\ndirectory={app}\n", encoding="utf-8")
    (programs / "other.conf").write_text("[program:other]\n", encoding="utf-8")
    found = looked(app, system)
    assert paths(found, "environment") == [".env", str(environment)]
    assert "shop is for systemd, but is not installed here, or systemd does not run here" in said(found)
    assert "Name it:" in said(found), "its supervisord.conf is not there"
    (system / "etc/supervisor/supervisord.conf").write_text("[supervisord]\n", encoding="utf-8")
    (service,) = [component for component in looked(app, system).components if component.kind == "service"]
    assert service.options["units"] == ["shop"]


def test_units_of_a_systemd_that_runs_become_a_component(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/kim")
    system = tmp_path / "system"
    units, own = system / "etc/systemd/system", system / "home/kim/.config/systemd/user"
    for folder in (units, own, system / "run/systemd/system"):
        folder.mkdir(parents=True)
    for path in (units / "shop.service", units / "shop-worker@.service", own / "mail.service"):
        path.write_text(f"[Service]\nWorkingDirectory={app}\n", encoding="utf-8")
    (units / "web.service").symlink_to("shop.service")
    (app / "shop.service").write_text("[Service]\n", encoding="utf-8")
    found = looked(app, system)
    assert [each.options for each in found.components if each.kind == "service"] == [
        {"manager": "systemd", "units": ["shop-worker@*", "shop"]},
        {"manager": "systemd", "scope": "user", "units": ["mail"]},
    ]
    assert "systemd" not in said(found)
    settings = parse(render(found), str(app / "rfs.toml"))
    for table in settings.components:
        if table.kind == "service":
            assert convert_table(settings, table.options, ServiceOptions, ("components", table.name))


def test_a_port_that_listens_is_believed_most(app: Path, tmp_path: Path) -> None:
    table = tmp_path / "system/proc/net/tcp"
    table.parent.mkdir(parents=True)
    row = "   0: 0100007F:{:04X} 00000000:0000 {} 00000000:00000000 00:00000000 00000000 0 0 1\n"
    table.write_text("  sl  local_address\n" + row.format(8123, "01") + row.format(8001, "0A"), encoding="ascii")
    assert "127.0.0.1:8001/health" in said(looked(app, tmp_path / "system"))
    assert "127.0.0.1:8123/health" in said(looked(app))


def test_a_release_behind_a_link_is_the_component(tmp_path: Path) -> None:
    (tmp_path / "app/releases/1/uploads").mkdir(parents=True)
    (tmp_path / "app/releases/1/settings.toml").write_text("", encoding="utf-8")
    (tmp_path / "app/shared/uploads").mkdir(parents=True)
    (tmp_path / "app/shared/log").mkdir(parents=True)
    (tmp_path / "app/shared/.env").write_text("", encoding="utf-8")
    (tmp_path / "app/current").symlink_to("releases/1")
    found = looked(tmp_path / "app")
    assert found.components[0].options["path"] == "current"
    assert found.components[0].options["keep"] == ["/uploads/"]
    assert not [pattern for pattern in found.components[0].options["exclude"] if ".." in pattern]
    assert paths(found, "config") == ["current/settings.toml"]
    assert paths(found, "environment") == ["shared/.env"]


def test_what_lies_beside_the_link_is_found_and_the_rest_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "app"
    (folder / "releases/1").mkdir(parents=True)
    (folder / "uploads").mkdir()
    (folder / "current").symlink_to("releases/1")
    (folder / ".env").write_text("", encoding="utf-8")
    (folder / "app.db").write_bytes(b"SQLite format 3\0" + bytes(600))
    text = "[unix_http_server]\nfile=s\n[supervisord]\n[program:web]\ncommand=x\n"
    (folder / "supervisord.conf").write_text(text, encoding="utf-8")
    found = looked(folder)
    assert paths(found, "environment") == [".env"]
    assert paths(found, "sqlite") == ["app.db"]
    assert [each.options["config"] for each in found.components if each.kind == "service"] == ["supervisord.conf"]
    assert any("what lies beside it" in notice for notice in found.notices)


@pytest.mark.parametrize("target", ["nowhere", "app.py"])
def test_a_link_that_leads_to_no_folder_is_no_release(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.py").write_text("", encoding="utf-8")
    (folder / "current").symlink_to(target)
    assert looked(folder).components[0].options["path"] == "."


def test_names_that_are_not_text_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    for name in (b"\xff.env", b"a\nb.env"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(b"A=1\n")
    found = looked(folder)
    assert paths(found, "environment") == []
    tomllib.loads(render(found))


def test_an_empty_folder_gives_a_file_that_works(tmp_path: Path) -> None:
    folder = tmp_path / "..."
    folder.mkdir()
    settings = parse(render(looked(folder)), str(folder / "rfs.toml"))
    assert settings.name == "app"
    assert [table.kind for table in settings.components] == ["files"]


@pytest.mark.parametrize("folder", ["/", "~"])
def test_a_whole_system_or_home_is_no_application(folder: str) -> None:
    with pytest.raises(UsageError) as caught:
        detect(os.path.expanduser(folder))
    assert caught.value.key == "init.too_broad"


def test_root_keeps_the_store_in_var_lib_others_beside_the_file(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked(app)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert store_path(found) == ".rfs"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert store_path(found) == "/var/lib/rfs/My-shop"
    monkeypatch.setattr(draft.os.path, "lexists", lambda path: True)
    assert store_path(found).startswith("/var/lib/rfs/My-shop-")
