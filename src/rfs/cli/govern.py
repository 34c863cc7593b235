"""`rfs approve`, `rfs reject`, `rfs freeze`, `rfs unfreeze`: what the policy asks of people."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from rfs.cli.answer import Answer
from rfs.cli.common import CommonCommand
from rfs.cli.session import Session, bad_usage, seconds_of
from rfs.cli.text import counted, nice_time, printable
from rfs.cli.views import as_json, plan_text, request_json, request_line
from rfs.production.rollback.model import in_utc, utc_now

if TYPE_CHECKING:
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.approvals import ApprovalRequest
    from rfs.production.rollback.freezing import Freeze


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="[REQUEST]", required=False)
@click.pass_obj
def approve(session: Session, selector: str | None) -> Answer:
    """Agree to a rollback that waits for approvals, as one of [approvals] approvers; without REQUEST, list them.

    The plan is shown as it is now; what is approved is that plan, and no other. Nobody approves what they asked for.
    """
    if selector is None:
        session.take_reason()
        with session.application(changes=False) as app:
            found = app.governance.waiting()
        text = "\n".join(request_line(request, stand) for request, stand in found) or "Nothing waits for an approval."
        data = [request_json(request, stand) for request, stand in found]
        return Answer(data, text, "\n".join(request.request_id for request, _ in found))
    return _vote(session, selector, approves=True)


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="REQUEST")
@click.pass_obj
def reject(session: Session, selector: str) -> Answer:
    """Refuse a rollback that waits for approvals: one rejection ends it. Whoever asked withdraws it so, too."""
    return _vote(session, selector, approves=False)


def _vote(session: Session, selector: str, *, approves: bool) -> Answer:
    word = "Approve" if approves else "Reject"
    reason = session.take_reason()
    if not session.dry_run:
        session.must_answer(f"{word} it?")
    with session.application(changes=not session.dry_run) as app:
        request, stand = app.governance.find(selector)
        if session.dry_run or not session.yes:
            text, warnings = _shown(session, app, request)
            if session.dry_run:
                return Answer({"dry_run": True, **request_json(request, stand)}, text, notes=warnings)
            session.show_and_confirm(text, warnings, f"{word} it?")
        request, stand = app.vote(request.request_id, approves=approves, reason=reason)
        table = app.governance.table
    done = f"Request {request.request_id} is {stand}"
    if approves and table is not None:
        done += f": {len(request.votes_of(table))} of {counted(table.required, 'approval')}"
    return Answer(request_json(request, stand), f"{done}.", request.request_id)


def _shown(session: Session, app: Application, request: ApprovalRequest) -> tuple[str, tuple[str, ...]]:
    """Return a request with the plan as it is now, and the warnings."""
    line = request_line(request, app.governance.find(request.request_id)[1])
    if request.plan is None:
        way = request.downgrade
        return f"{line}\nIt takes back: {printable(', '.join(way.versions)) if way is not None else ''}", ()
    asked = request.plan
    undoes = app.catalog.operation(request.undoes) if request.undoes is not None else None
    made = app.plan(asked.target, only=asked.components, selection=asked.selection, undoes=undoes)
    changed = ("The plan is another one by now: the request is of no use any more.",) * (made.hash != asked.hash)
    text = plan_text(made, checked=bool(app.settings.health), everything=session.verbose)
    return f"{line}\n{text}", (*changed, *made.warnings)


@click.command(cls=CommonCommand)
@click.option("--until", metavar="TIME", help='Until then, e.g. "2026-12-24T08:00" (local time).')
@click.option("--for", "span", metavar="TIME", help='For so long, e.g. "2h".')
@click.pass_obj
def freeze(session: Session, until: str | None, span: str | None) -> Answer:
    """Let nothing be deployed, for --reason: until a time, for so long, or until `rfs unfreeze`.

    Guarded deployments, checkpoints before a deployment and scheduled rollbacks are refused (14); rollbacks never are.
    """
    if until is not None and span is not None:
        bad_usage("--until and --for contradict each other", "Give one of them.")
    end = _moment(until) if until is not None else None
    if span is not None:
        end = utc_now() + timedelta(seconds=seconds_of(span, "--for"))
    if session.dry_run:
        session.take_reason()
        told = f"until {nice_time(end)}" if end is not None else "until `rfs unfreeze`"
        return Answer({"dry_run": True, "until": as_json(end)}, f"Deployments would be frozen {told}.")
    reason = session.ask_reason()
    with session.application(changes=True) as app:
        made = app.freeze(reason, end)
    told = f"until {nice_time(made.until)}" if made.until is not None else "until `rfs unfreeze`"
    return Answer(_freeze_json(made), f"Deployments are frozen {told}.", made.freeze_id)


@click.command(cls=CommonCommand)
@click.pass_obj
def unfreeze(session: Session) -> Answer:
    """Lift what `rfs freeze` declared. A window of rfs.toml ends by itself."""
    reason = session.take_reason()
    if session.dry_run:
        with session.application(changes=False) as app:
            held = [each for each in app.governance.declared() if each.holds(utc_now())]
        text = f"{counted(len(held), 'freeze')} would be lifted."
        return Answer({"dry_run": True, "lifted": [_freeze_json(each) for each in held]}, text)
    with session.application(changes=True) as app:
        lifted = app.unfreeze(reason)
        left = app.frozen()
    text = "Deployments may be made again." if left is None else f"Deployments are still frozen {left.told}."
    return Answer([_freeze_json(each) for each in lifted], text, "\n".join(each.freeze_id for each in lifted))


def _freeze_json(made: Freeze) -> dict[str, object]:
    return {key: value for key, value in as_json(made).items() if key != "format"}


def _moment(text: str) -> datetime:
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        bad_usage(f"--until: {text!r} is no time", 'Write "2026-12-24T08:00", or with a zone "2026-12-24T08:00+09:00".')
