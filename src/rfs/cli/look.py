"""`rfs status`, `rfs diff`, `rfs log`, `rfs show`: they change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rfs.cli.answer import Answer
from rfs.cli.codes import ExitCode
from rfs.cli.selecting import COMPONENTS, complete_checkpoint
from rfs.cli.session import CommonCommand, Session
from rfs.cli.text import counted, nice_time, printable, table

if TYPE_CHECKING:
    from rfs.production.rollback.application import Drift, Status


@click.command(cls=CommonCommand)
@click.option("--exit-code", is_flag=True, help="End with 15 on drift, with 31 when an operation is held.")
@click.pass_obj
def status(session: Session, exit_code: bool) -> Answer:
    """Compare the live state with the last checkpoint; show what is running or held."""
    from rfs.cli.views import checkpoint_json, operation_json

    with session.application(changes=False) as app:
        found = app.status()
    drifted = [each.component for each in found.drift if each.equal is False]
    data = {
        "app": found.app,
        "latest": checkpoint_json(found.latest) if found.latest is not None else None,
        "drift": [
            {"component": d.component, "kind": d.kind, "equal": d.equal, "detail": d.detail} for d in found.drift
        ],
        "open_operation": operation_json(found.open_operation) if found.open_operation is not None else None,
        "running": found.running,
    }
    code = 0
    if exit_code and found.open_operation is not None and found.open_operation.status == "held":
        code = int(ExitCode.HELD)
    elif exit_code and drifted:
        code = int(ExitCode.CONFLICT)
    return Answer(data, _status_text(found), ", ".join(drifted), code=code)


def _status_text(found: Status) -> str:
    from rfs.cli.views import health_word, status_word

    lines = [click.style(found.app, bold=True)]
    latest = found.latest
    if latest is None:
        lines.append("There is no checkpoint yet: take one with `rfs checkpoint`.")
    else:
        about = f' "{printable(latest.message)}"' if latest.message else ""
        taken = f"{click.style(latest.checkpoint_id, fg='cyan')}, {nice_time(latest.created_at)}{about}"
        lines.append(f"Last checkpoint: {taken}, {health_word(latest.health)}")
    lines.append(table([_drift_row(each) for each in found.drift]))
    if found.running:
        lines.append(f"Running now: {found.running}")
    operation = found.open_operation
    if operation is not None:
        lines.append(f"Open: {operation.kind} {operation.operation_id}, {status_word(operation.status)}")
        if operation.error:
            lines.append(f"  {printable(operation.error)}")
        lines.append(f"  `rfs show {operation.operation_id}` tells more; `rfs resume` goes on, `rfs abort` turns back.")
    return "\n".join(line for line in lines if line)


def _drift_row(drift: Drift) -> tuple[str, str, str]:
    word = {
        True: click.style("as it was", fg="green"),
        False: click.style("changed since", fg="yellow"),
        None: "unknown",
    }
    detail = f" ({printable(drift.detail)})" if drift.detail else ""
    return f"  {drift.component}", drift.kind, word[drift.equal] + detail


@click.command(cls=CommonCommand)
@click.argument("a", metavar="[A]", default="@latest", shell_complete=complete_checkpoint)
@click.argument("b", metavar="[B]", required=False, shell_complete=complete_checkpoint)
@click.option("--only", type=COMPONENTS, default="", help="Only these components, with commas between.")
@click.option("--exit-code", is_flag=True, help="End with 15 when something differs.")
@click.pass_obj
def diff(session: Session, a: str, b: str | None, only: tuple[str, ...], exit_code: bool) -> Answer:
    """Show the changes from checkpoint A (the latest) to checkpoint B, or to the live state."""
    return compare(session, a, b, only, exit_code=exit_code)


def compare(session: Session, a: str, b: str | None, only: tuple[str, ...], *, exit_code: bool) -> Answer:
    """Answer with the changes from one checkpoint to another, or to the live state."""
    from rfs.cli.views import as_json, changes_text

    with session.application(changes=False) as app:
        changes = app.diff(a, b, only=only)
    code = int(ExitCode.CONFLICT) if exit_code and changes else 0
    text = changes_text(changes, everything=session.verbose)
    brief = "\n".join(f"{change.component} {printable(change.key)}" for change in changes)
    return Answer(as_json(changes), text, brief, code=code)


@click.command(cls=CommonCommand)
@click.option("-n", "limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.pass_obj
def log(session: Session, limit: int) -> Answer:
    """List the operations, newest first."""
    from rfs.cli.views import operation_json, operation_table

    with session.application(changes=False) as app:
        operations = app.catalog.operations()
    shown = operations if session.verbose else operations[:limit]
    text = operation_table(shown) if shown else "Nothing was rolled back yet."
    if len(shown) < len(operations):
        text += f"\n… and {counted(len(operations) - len(shown), 'older one')} (-v or -n shows them)"
    brief = "\n".join(each.operation_id for each in shown)
    return Answer([operation_json(each) for each in shown], text, brief)


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="[OPERATION]", default="@latest")
@click.pass_obj
def show(session: Session, selector: str) -> Answer:
    """Show one operation (the latest): its steps, its outage, what was written late."""
    from rfs.cli.views import as_json, operation_json, operation_text
    from rfs.production.rollback.selectors import find_id

    with session.application(changes=False) as app:
        operation = app.catalog.operation(find_id(selector, [each.operation_id for each in app.catalog.operations()]))
        journal = app.catalog.journal(operation.operation_id)
    rows = [(nice_time(mark.at), mark.step or "—", str(mark.mark), printable(mark.note)) for mark in journal]
    text = operation_text(operation, everything=session.verbose)
    if rows:
        text += "\n\n" + table(rows, ("AT", "STEP", "MARK", ""))
    data: dict[str, Any] = {**operation_json(operation), "journal": as_json(journal)}
    return Answer(data, text, operation.operation_id, notes=operation.warnings)
