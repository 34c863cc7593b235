"""`rfs status`, `rfs log`, `rfs show`: they change nothing."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from rfs.cli import later
from rfs.cli.answer import Answer
from rfs.cli.common import CommonCommand
from rfs.cli.selecting import complete_operation
from rfs.cli.session import Session
from rfs.cli.status import current

if TYPE_CHECKING:
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.operationlog import SmallOperation


@click.command(cls=CommonCommand)
@click.option(
    "--exit-code", is_flag=True, help="End with 15 on drift, with 31 when an operation is held or interrupted."
)
@click.pass_obj
def status(session: Session, exit_code: bool) -> Answer:
    """Compare the live state with the last checkpoint; show what is running or held."""
    return current(session, exit_code=exit_code)


@click.command(cls=CommonCommand)
@click.option("-n", "limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.pass_obj
def log(session: Session, limit: int) -> Answer:
    """List the operations, newest first: rollbacks, undos, versions of configurations, tracked changes."""
    from rfs.cli.logview import log_table, logged_json

    with session.application(changes=False) as app:
        # One more than is shown: counting them all would take the longer, the longer the log.
        found = list(islice(app.log.history(), None if session.verbose else limit + 1))
        alive = app.is_worked_on()
        asked = later.without_operation(app, None if session.verbose else limit)
    shown = found if session.verbose else found[:limit]
    text = log_table(shown, alive=alive) if shown else "Nothing was done yet."
    if len(found) > len(shown):
        text += "\n… and older ones (-v or -n shows them)"
    if asked:
        text += "\n\n" + later.asked_table(asked)
    brief = "\n".join(each.operation_id for each in shown)
    return Answer([*(later.deferred_json(each) for each in asked), *map(logged_json, shown)], text, brief, paged=True)


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="[OPERATION]", default="@latest", shell_complete=complete_operation)
@click.pass_obj
def show(session: Session, selector: str) -> Answer:
    """Show one operation (the latest): its steps, its outage, what was written late; or the values it changed."""
    from rfs.cli.views import as_json, journal_table, operation_json, operation_text
    from rfs.production.rollback.operation import Operation

    with session.application(changes=False) as app:
        if (asked := later.only_asked(app, selector)) is not None:
            return later.shown(asked)
        operation = app.log.find(selector)
        if not isinstance(operation, Operation):
            return _show_small(app, operation)
        journal = app.catalog.journal(operation.operation_id)
        alive = app.is_worked_on()
    text = operation_text(operation, everything=session.verbose, alive=alive)
    if journal:
        text += "\n\n" + journal_table(journal)
    data: dict[str, Any] = {**operation_json(operation), "journal": as_json(journal)}
    return Answer(data, text, operation.operation_id, notes=operation.warnings, paged=True)


def _show_small(app: Application, operation: SmallOperation) -> Answer:
    from rfs.cli.logview import logged_json, small_text
    from rfs.production.rollback.changelog import sides_of
    from rfs.production.rollback.undo import change_of

    change = change_of(app, operation)
    sides = sides_of(change)
    data = {**logged_json(operation), "change_type": change.change_type, **sides}
    return Answer(data, small_text(operation, change, sides), operation.operation_id, paged=True)
