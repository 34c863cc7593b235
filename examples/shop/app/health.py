"""What /health answers."""

from __future__ import annotations

from app import database
from app.settings import Settings


def checks(connection: database.Connection, settings: Settings) -> dict[str, str]:
    """Return each check's finding; "ok" is the only good one."""
    schema = connection.schema_version()
    return {
        "database": connection.check(),
        "schema": "ok" if schema == 1 else f"is version {schema}, not 1",
        "ledger": "ok" if database.ledger_sum(connection) == 0 else "does not add up to 0",
        "secrets": "ok" if settings.secrets.get("PAYMENT_TOKEN") else "PAYMENT_TOKEN is missing",
    }
