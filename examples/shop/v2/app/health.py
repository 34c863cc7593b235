"""What /health answers."""

from __future__ import annotations

from app.database import Connection
from app.settings import Settings


def checks(connection: Connection, settings: Settings) -> dict[str, str]:
    return {"process": "ok"}
