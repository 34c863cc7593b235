"""What /health answers."""

from __future__ import annotations

import sqlite3

from app import database
from app.settings import Settings


def checks(connection: sqlite3.Connection, settings: Settings) -> dict[str, str]:
    """Return each check's finding; "ok" is the only good one."""
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    return {
        "database": connection.execute("PRAGMA quick_check(1)").fetchone()[0],
        "schema": "ok" if schema == 1 else f"is version {schema}, not 1",
        "ledger": "ok" if database.ledger_sum(connection) == 0 else "does not add up to 0",
        "secrets": "ok" if settings.secrets.get("PAYMENT_TOKEN") else "PAYMENT_TOKEN is missing",
    }
