"""`rfs audit`: who did what, in a log that shows when somebody edited it."""

from __future__ import annotations

import csv
import io
import json

import click

from rfs.cli.answer import Answer
from rfs.cli.codes import ExitCode
from rfs.cli.common import CommonGroup
from rfs.cli.session import Session
from rfs.cli.text import counted

COLUMNS = ("n", "at", "when", "who", "what", "outcome", "subject", "detail", "key", "prev", "hash")


@click.group(cls=CommonGroup)
def audit() -> None:
    """Who did what, in a log each entry of which holds the hash of the one before it."""


@audit.command()
@click.option(
    "--head", "heads", metavar="HASH", multiple=True, help="The hash of an entry, noted elsewhere; again and again."
)
@click.pass_obj
def verify(session: Session, heads: tuple[str, ...]) -> Answer:
    """Find entries that were edited, removed, added or moved. Ends with 12 when there is one.

    Note the hash that it prints in another place: the same one, with --head, shows later that nobody has made the
    whole log anew.
    """
    with session.application(changes=False) as app:
        found = app.audit.verify([head.lower() for head in heads])
        path = app.audit.path
    data = {
        "path": path,
        "entries": found.entries,
        "head": found.head,
        "findings": [{"line": each.line, "what": each.what} for each in found.findings],
    }
    if not found.findings:
        text = f"The audit log is whole: {counted(found.entries, 'entry', 'entries')}, the last one is {found.head}."
        return Answer(data, text, found.head, notes=found.notes)
    lines = [f"  line {each.line} {each.what}" if each.line else f"  {each.what}" for each in found.findings]
    text = "\n".join([f"The audit log {path} is NOT whole:", *lines])
    return Answer(data, text, "\n".join(lines), notes=found.notes, code=int(ExitCode.INTEGRITY))


@audit.command()
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.pass_obj
def export(session: Session, form: str) -> Answer:
    """Print the log: as it stands (jsonl), or as a table (csv). What is no entry is left out of a table."""
    from rfs.production.rollback.audit import entry_of

    with session.application(changes=False) as app:
        data = app.audit.read() or b""
        found = app.audit.verify()
    entries = [entry for line in data.split(b"\n") if (entry := entry_of(line)) is not None]
    notes = ("It is not whole: `rfs audit verify` tells.",) if found.findings else ()
    if form == "jsonl":
        return Answer(entries, data.decode("utf-8", "backslashreplace").rstrip("\n"), notes=notes)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in entries:
        detail = json.dumps(entry["detail"], ensure_ascii=False, sort_keys=True)
        writer.writerow([_cell(detail if name == "detail" else entry[name]) for name in COLUMNS])
    return Answer(entries, table.getvalue().rstrip("\n"), notes=notes)


def _cell(value: object) -> str:
    """Return a value as a cell that no spreadsheet takes for a formula."""
    text = str(value)
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") and text else text
