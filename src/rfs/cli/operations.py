"""`rfs recover`, `rfs resume`, `rfs abort`: out of what a crash or a failure left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rfs.cli import gradual
from rfs.cli.answer import Answer
from rfs.cli.common import CommonCommand
from rfs.cli.selecting import COMPONENTS, complete_operation
from rfs.cli.session import Session
from rfs.cli.text import counted
from rfs.cli.views import deployment_json, done_text, fresh_warnings, operation_json, status_word
from rfs.production.rollback.errors import NotFoundError

if TYPE_CHECKING:
    from rfs.production.rollback.guarded import Deployment, Next


@click.command(cls=CommonCommand)
@click.option("--rebuild", is_flag=True, help="Make index and catalog again from the packs and the key.")
@click.pass_obj
def recover(session: Session, rebuild: bool) -> Answer:
    """Finish or revert whatever a crash interrupted. Every command that changes something does this first."""
    from rfs.production.rollback import upkeep

    with session.application(changes=not session.dry_run) as app:
        if session.dry_run:
            session.take_reason()
            return _would_recover(app.catalog.open_operation(), app.due(), rebuild=rebuild)
        if rebuild:
            count = upkeep.rebuild(app)
            text = f"{counted(count, 'record')} found in the packs; index and catalog are whole again."
            return Answer({"records": count}, text, str(count))
        due = app.due()
        settled = app.recover(reason=session.take_reason())
    text = "\n".join(done_text(operation) for operation in settled)
    if not text and due is None:  # what becomes of one that is due is told in any case
        text = "Nothing was interrupted."
    warnings = tuple(warning for operation in settled for warning in fresh_warnings(operation))
    return Answer([operation_json(operation) for operation in settled], text, warnings=warnings)


def _would_recover(operation: object, due: tuple[Deployment, Next, str] | None, *, rebuild: bool) -> Answer:
    from rfs.production.rollback.operation import Operation

    data: dict[str, Any] = {"dry_run": True, "rebuild": rebuild, "open_operation": None, "deployment": None}
    lines = ["It would make index and catalog again from the packs."] if rebuild else []
    if isinstance(operation, Operation):
        data["open_operation"] = operation_json(operation)
        lines.append(f"Open: {operation.kind} {operation.operation_id}, {status_word(operation.status)}.")
    if due is not None:
        found, step, why = due
        data["deployment"] = {**deployment_json(found), "due": str(step)}
        what = "it would be taken back" if step == "revert" else "that would be written down"
        lines.append(f"On trial: {found.kind} {found.guard_id}, {found.phase}; {what} ({why}).")
    if not lines:
        lines.append("Nothing was interrupted.")
    return Answer(data, "\n".join(lines))


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="[OPERATION]", required=False, shell_complete=complete_operation)
@click.option("--skip", metavar="STEP", help="Leave out this step, e.g. start:web.")
@click.option("--current", type=COMPONENTS, default="", help="Take these services as rfs.toml has them now.")
@click.pass_obj
def resume(session: Session, selector: str | None, skip: str | None, current: tuple[str, ...]) -> Answer:
    """Go on with a held operation from the step that failed, in the direction that it had, or with a paused rollback.

    --reason is kept in its journal.
    """
    with session.application(changes=not session.dry_run) as app:
        if (waves := gradual.is_meant(app, selector)) is not None:
            return gradual.carry_on(session, app, waves)
        if session.dry_run:
            operation = app.catalog.open_operation()
            if operation is None:
                raise NotFoundError("operation.none_open")
            done = {entry.step for entry in app.catalog.journal(operation.operation_id) if entry.mark == "done"}
            session.take_reason()
            text = f"It would go on with {operation.kind} {operation.operation_id}, {status_word(operation.status)}."
            return Answer({"dry_run": True, "done": sorted(done), "open_operation": operation_json(operation)}, text)
        if skip is not None:
            session.confirm(f"Leave out the step {skip}? What it would have done is then up to you.")
        operation = app.resume(selector, skip=skip, current=current, reason=session.take_reason())
    warnings = tuple(fresh_warnings(operation))
    return Answer(operation_json(operation), done_text(operation), operation.operation_id, warnings=warnings)


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="[OPERATION]", required=False, shell_complete=complete_operation)
@click.pass_obj
def abort(session: Session, selector: str | None) -> Answer:
    """Turn an open operation back now, to the state before it, or a paused gradual rollback. --reason is kept."""
    with session.application(changes=not session.dry_run) as app:
        if (waves := gradual.is_meant(app, selector)) is not None:
            return gradual.take_back(session, app, waves)
        if session.dry_run:
            found = app.catalog.open_operation()
            if found is None:
                raise NotFoundError("operation.none_open")
            session.take_reason()
            text = f"It would turn {found.kind} {found.operation_id} back to {found.state_before}."
            return Answer({"dry_run": True, "open_operation": operation_json(found)}, text)
        operation = app.abort(selector, reason=session.take_reason())
    text = f"{operation.kind.capitalize()} {operation.operation_id} was turned back: {status_word(operation.status)}."
    warnings = tuple(fresh_warnings(operation))
    return Answer(operation_json(operation), text, operation.operation_id, warnings=warnings)
