"""What /health answers."""

from __future__ import annotations

import sqlite3

from app.settings import Settings


def checks(connection: sqlite3.Connection, settings: Settings) -> dict[str, str]:
    return {"process": "ok"}
