"""Deploys version 2 over an installed shop, as a deployment script would: `python deploy_v2.py FOLDER`.

It stops the programs, lays v2/ over the folder, deletes what v2 no longer has, edits the
settings and .env, migrates the database and starts the programs again. Every part of the
application changes, and most of it for the worse: see v2/README.md.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from app import database, settings
from install import mark_release

OVERLAY = Path(__file__).resolve().parent / "v2"
DELETED = ("app/stock.py", "static/icon.svg")
SETTINGS = (
    ('name = "Teapot & Sons"', 'name = "TEAPOT™ Cloud"'),
    ('currency = "EUR"          # one currency; prices in the database are in its cents', 'currency = "USD"'),
    ("flat_cents = 490\n", ""),
    ("free_from_cents = 5_000   # agreed with Kim in March", "free_from_cents = 0\nexpress_cents = 1_990"),
)


def deploy(folder: Path) -> None:
    """Deploy version 2 over the shop in `folder`; supervisord runs there.

    Raises:
        subprocess.CalledProcessError: supervisorctl could not stop or start the programs.
    """
    supervisorctl(folder, "stop", "all")
    lay_over(folder)
    change_settings(folder)
    change_env(folder)
    migrate(folder)
    supervisorctl(folder, "start", "all")


def lay_over(folder: Path) -> None:
    """Copy v2's files and delete those it no longer has."""
    for part in ("app", "templates", "static"):
        shutil.copytree(OVERLAY / part, folder / part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in DELETED:
        (folder / name).unlink()
    static = folder / "static"
    (static / "touch-icon.svg").unlink()
    shutil.copy(static / "logo.svg", static / "touch-icon.svg")  # was one file with two names
    (static / "logo.svg").chmod(0o600)  # the classic: a file that only its owner may read
    (static / "current.css").symlink_to("style.css")
    mark_release(folder / "app", "2.0.0")
    (folder / "RELEASE").write_text("2.0.0\n", encoding="utf-8")


def change_settings(folder: Path) -> None:
    path = folder / "config" / "settings.toml"
    text = path.read_text(encoding="utf-8")
    for old, new in SETTINGS:
        if old not in text:
            raise ValueError(f"{path} has no line {old!r}")
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def change_env(folder: Path) -> None:
    """A new payment token, the session key gone for another name, one more secret."""
    path = folder / ".env"
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(("SESSION_KEY=", "PAYMENT_TOKEN="))]
    new = [
        f"COOKIE_KEY={secrets.token_hex(16)}",
        f'PAYMENT_TOKEN="live_{secrets.token_hex(12)}"',
        f"DISCOUNT_API_KEY={secrets.token_hex(8)}",
    ]
    path.write_text("\n".join([*kept, *new, ""]), encoding="utf-8")


def migrate(folder: Path) -> None:
    url = settings.read_env(folder / ".env").get("DATABASE_URL")
    script = OVERLAY / "migrations" / f"002_prices_{'postgresql' if url else 'sqlite'}.sql"
    with database.opened(url or folder / "data" / "shop.db") as connection:
        if not url:
            connection.execute("PRAGMA foreign_keys = OFF")  # as for every program that does not ask for them
        connection.run(script.read_text(encoding="utf-8"))


def supervisorctl(folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", "supervisord.conf", *words]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python deploy_v2.py FOLDER")
    deploy(Path(sys.argv[1]).resolve())
    print("Version 2.0.0 is deployed.")
