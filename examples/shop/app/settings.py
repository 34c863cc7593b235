"""What the shop reads at start and again at /-/reload: config/settings.toml and .env."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """The shop's settings; amounts of money are in cents, times in seconds, sizes in bytes.

    `database` is the path of a SQLite file, or the URL of a PostgreSQL database.
    """

    name: str
    currency: str
    host: str
    port: int
    database: Path | str
    uploads: Path
    max_upload: int
    poll: float
    free_shipping_from: int
    shipping: int
    secrets: dict[str, str]

    @property
    def cart_key(self) -> str:
        return self.secrets["SESSION_KEY"]


def load(root: Path = ROOT) -> Settings:
    """Return the settings of the shop in `root`.

    Raises:
        OSError, ValueError, KeyError: a file is missing or makes no sense; the shop does not start then.
    """
    with (root / "config" / "settings.toml").open("rb") as file:
        data = tomllib.load(file)
    secrets = read_env(root / ".env")
    return Settings(
        name=data["shop"]["name"],
        currency=data["shop"]["currency"],
        host=data["http"]["host"],
        port=data["http"]["port"],
        database=secrets.get("DATABASE_URL") or root / data["database"]["path"],
        uploads=root / data["uploads"]["folder"],
        max_upload=data["uploads"]["max_bytes"],
        poll=data["worker"]["poll_seconds"],
        free_shipping_from=data["shipping"]["free_from_cents"],
        shipping=data["shipping"]["flat_cents"],
        secrets=secrets,
    )


def read_env(path: Path) -> dict[str, str]:
    """Return the NAME=value lines of a .env file; quotes around a value are taken off."""
    values: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            values[name.strip()] = value.strip().strip("\"'")
    return values
