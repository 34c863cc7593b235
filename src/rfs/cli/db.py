"""`rfs db`: what rollbacks set aside instead of throwing it away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from rfs.cli.answer import Answer
from rfs.cli.common import CommonGroup
from rfs.cli.selecting import complete_operation
from rfs.cli.session import Session
from rfs.cli.text import nice_size, table

if TYPE_CHECKING:
    from rfs.production.rollback.drivers.postgresql import Surplus


@click.group(cls=CommonGroup)
def db() -> None:
    """List the databases that rollbacks set aside; bring out rows that only they have."""


@db.command("list")
@click.pass_obj
def listing(session: Session) -> Answer:
    """List the databases that were live before a rollback, and the checkpoints that need them."""
    from rfs.production.rollback import displaced

    with session.application(changes=False) as app:
        found = displaced.databases(app)
    rows = [
        (each.name, each.component, nice_size(each.size), each.since[:16].replace("T", " "), ", ".join(needed) or "-")
        for each, needed in found
    ]
    text = table(rows, ("DATABASE", "COMPONENT", "SIZE", "SET ASIDE (UTC)", "NEEDED BY")) if rows else "There are none."
    data = [
        {
            "database": each.name,
            "component": each.component,
            "oid": each.oid,
            "since": each.since,
            "size": each.size,
            "checkpoints": list(needed),
        }
        for each, needed in found
    ]
    return Answer(data, text, "\n".join(each.name for each, _ in found))


@db.command("salvage")
@click.argument("selector", metavar="OPERATION", default="@latest", shell_complete=complete_operation)
@click.option("--table", "tables", multiple=True, metavar="TABLE", help="Only this table; may be given again.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "sql", "json"]),
    default="csv",
    show_default=True,
    help="How to write.",
)
@click.pass_obj
def salvage(session: Session, selector: str, tables: tuple[str, ...], form: str) -> Answer:
    """Write the rows that a rollback took away: those that the state before has and its checkpoint has not.

    They are told by the primary key, in a table without one by the whole row.
    """
    from rfs.cli.views import as_json
    from rfs.production.rollback import displaced
    from rfs.production.rollback.errors import UsageError

    with session.application(changes=False) as app:
        found = displaced.salvaged(app, selector, tables)
    if form == "csv" and len(found) > 1 and not session.json:
        raise UsageError("postgresql.export_tables", tables=", ".join(each.table for each in found))
    write = {"csv": _csv, "sql": _sql, "json": _json}[form]
    text = "\n".join(line for each in found for line in write(each))
    counts = ", ".join(f"{len(each.rows):,} of {each.table}" for each in found)
    return Answer(as_json(found), text, text, notes=(f"Rows: {counts or 'none'}.",))


def _csv(found: Surplus) -> list[str]:
    """As COPY … CSV HEADER reads it: NULL is nothing, and an empty text is quoted."""
    rows = [",".join("" if value is None else _quoted(value, '"') for value in row) for row in found.rows]
    return [",".join(_quoted(column, '"') for column in found.columns), *rows]


def _sql(found: Surplus) -> list[str]:
    columns = ", ".join(_quoted(column, '"') for column in found.columns)
    name = ".".join(_quoted(part, '"') for part in (found.schema, found.name))
    into = f"INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE VALUES"
    rows = [", ".join("NULL" if value is None else _quoted(value, "'") for value in row) for row in found.rows]
    return [f"{into} ({row});" for row in rows]


def _json(found: Surplus) -> list[str]:
    columns = found.columns
    return [
        json.dumps({"table": found.table, "row": dict(zip(columns, row, strict=True))}, ensure_ascii=False)
        for row in found.rows
    ]


def _quoted(text: str, mark: str) -> str:
    return mark + text.replace(mark, mark * 2) + mark
