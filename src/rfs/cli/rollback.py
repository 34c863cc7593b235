"""`rfs plan`, `rfs rollback`, `rfs undo`."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from rfs.cli import later
from rfs.cli.answer import Answer
from rfs.cli.common import CommonCommand
from rfs.cli.consent import BREAK_GLASS, REQUEST, consent_of
from rfs.cli.selecting import COMPONENTS, complete_checkpoint, complete_operation
from rfs.cli.session import Session, bad_usage, seconds_of
from rfs.cli.text import counted, printable
from rfs.cli.views import done_text, fresh_warnings, operation_json, plan_json, plan_text
from rfs.production.rollback.errors import ConflictError, UsageError

if TYPE_CHECKING:
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.merging import Resolution
    from rfs.production.rollback.model import Consent
    from rfs.production.rollback.operationlog import AnyOperation
    from rfs.production.rollback.plan import Plan
    from rfs.production.rollback.restorers import Decide


class _Parts:
    """What --path, --key and --table say."""

    def __init__(self, paths: tuple[str, ...], keys: tuple[str, ...], tables: tuple[str, ...]) -> None:
        self.paths, self.keys, self.tables = paths, keys, tables

    def __bool__(self) -> bool:
        return bool(self.paths or self.keys or self.tables)

    def of(self, app: Application) -> dict[str, tuple[str, ...]]:
        """Return what of which components is meant."""
        from rfs.production.rollback.selection import chosen

        return chosen(app.parts, self.paths, self.keys, self.tables)


_path = click.option("--path", "paths", multiple=True, help="Only this file or folder of a files component.")
_key = click.option("--key", "keys", multiple=True, metavar="A.B.C", help="Only this key of a configuration.")
_table = click.option("--table", "tables", multiple=True, help="Only this table of a database.")


@click.command(cls=CommonCommand)
@click.argument("target", metavar="[CHECKPOINT]", default="@latest", shell_complete=complete_checkpoint)
@click.option("--only", type=COMPONENTS, default="", help="Only these components, with commas between.")
@click.option("--except", "without", type=COMPONENTS, default="", help="All but these components.")
@click.option("--out", metavar="FILE", help="Write the plan down, for `rfs rollback --plan FILE`.")
@_path
@_key
@_table
@click.pass_obj
def plan(
    session: Session,
    *,
    target: str,
    only: tuple[str, ...],
    without: tuple[str, ...],
    out: str | None,
    paths: tuple[str, ...],
    keys: tuple[str, ...],
    tables: tuple[str, ...],
) -> Answer:
    """Show what a rollback to CHECKPOINT (the latest) would do, lose, need and cost. Changes nothing."""
    parts = _Parts(paths, keys, tables)
    with session.application(changes=False) as app:
        made = app.plan(target, only=only, without=without, selection=parts.of(app))
        checked = bool(app.settings.health)
        left = app.catalog.open_operation()
    notes: tuple[str, ...] = ()
    if left is not None:
        text = f"The {left.kind} {left.operation_id} is not over, so that what is live is in between: see `rfs status`."
        session.notices.append(text)
    if out is not None and session.dry_run:
        notes = (f"{out} was not written (--dry-run).",)
    elif out is not None:
        _write_plan(made, out)
        notes = (f"Written to {out}; `rfs rollback --plan {out}` carries it out unless it changed meanwhile.",)
    everything = session.verbose or session.json
    text = plan_text(made, checked=checked, everything=everything)
    brief = "nothing to do" if made.nothing_to_do else made.hash
    return Answer(plan_json(made, everything=everything), text, brief, notes=(*made.warnings, *notes))


def _write_plan(made: Plan, path: str) -> None:
    import msgspec

    try:
        # Names of files are in it, which are nobody else's business.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
    except OSError as error:
        raise UsageError("plan.unwritable", path=path, why=error.strerror) from error


def _read_plan(path: str) -> Plan:
    import msgspec

    from rfs.production.rollback.plan import Plan

    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Plan)
    except OSError as error:
        raise UsageError("plan.file", path=path, why=error.strerror) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError("plan.file", path=path, why=str(error)) from error


def _plan_alone(path: str, named: bool) -> Plan:
    """The plan in a file, where the command line names nothing (`named`) that is in it."""
    if named:
        hint = "Leave CHECKPOINT, --only, --except, --path, --key and --table out."
        bad_usage("--plan names the target and the components itself", hint)
    return _read_plan(path)


@click.command(cls=CommonCommand)
@click.argument("target", metavar="CHECKPOINT", required=False, shell_complete=complete_checkpoint)
@click.option("--only", type=COMPONENTS, default="", help="Only these components, with commas between.")
@click.option("--except", "without", type=COMPONENTS, default="", help="All but these components.")
@click.option("--plan", "plan_file", metavar="FILE", help="A plan written by `rfs plan --out`; refused if it changed.")
@_path
@_key
@_table
@click.option("--confirm", "span", metavar="TIME", help="Go back by itself unless `rfs confirm` comes within it.")
@click.option("--at", metavar="TIME", help='Later: "2026-12-01T03:00+09:00", "03:00" or "in 2h". `rfs watch` does it.')
@click.option(
    "--strategy", type=click.Choice(["immediate", "gradual"]), default="immediate", help="All at once, or in waves."
)
@click.option("--when", metavar="CONDITION", help="Later: when this condition of rfs.toml trips. `rfs watch` does it.")
@REQUEST
@BREAK_GLASS
@click.pass_obj
def rollback(
    session: Session,
    *,
    target: str | None,
    only: tuple[str, ...],
    without: tuple[str, ...],
    plan_file: str | None,
    paths: tuple[str, ...],
    keys: tuple[str, ...],
    tables: tuple[str, ...],
    span: str | None,
    at: str | None,
    when: str | None,
    strategy: str,
    request: str | None,
    break_glass: bool,
) -> Answer:
    """Bring the application to CHECKPOINT; if that fails, bring it back to the state before.

    The state before is kept: `rfs undo` goes back to it. Where [policy] asks for approvals it ends with 13 and the id
    of a request; once that is approved, the same command goes on.
    """
    seconds = seconds_of(span, "--confirm") if span is not None else None
    from rfs.production.rollback.plan import select

    expected: Plan | None = None
    parts = _Parts(paths, keys, tables)
    if plan_file is not None:
        expected = _plan_alone(plan_file, bool(target or only or without or parts))
        target, only = expected.target, expected.components
    consent = consent_of(request=request, break_glass=break_glass, reason=session.reason)
    if target is None:
        bad_usage("CHECKPOINT is missing", "Name one, or @latest or @last-good; `rfs checkpoint list` shows them.")
    put_off = later.asked_for(at, when, trial=seconds is not None, break_glass=break_glass)
    if strategy == "gradual":
        if parts or span is not None or put_off or plan_file is not None:
            raise UsageError("gradual.part")
        return _gradual(session, target, only, without, consent=consent)
    if session.dry_run:
        return _only_planned(session, target, only, without, parts=parts, expected=expected)
    question = "Roll back, when it is time?" if put_off else "Roll back?"
    session.must_answer(question, why=True)
    with session.application(changes=True) as app:
        app.consent = consent
        # Nobody is asked why before it is sure that there is something to do.
        app.find(target)
        select(list(app.parts), only, without)
        selection = parts.of(app) if expected is None else expected.selection
        reason = session.ask_reason()
        if not session.yes:
            seen = app.plan(target, only=only, without=without, selection=selection)
            _refuse_if_changed(expected, seen)
            text = plan_text(seen, checked=bool(app.settings.health), everything=session.verbose)
            session.show_and_confirm(text, seen.warnings, question)
            expected = seen
        meant: dict[str, Any] = {"only": only, "without": without, "selection": selection, "expected": expected}
        if put_off:
            return later.deferred(app, app.defer(target, reason=reason, **put_off, **meant))
        act = partial(app.rollback, target, reason=reason, **meant)
        if seconds is None:
            operation = act()
        else:
            from rfs.cli.guard import guarding

            with guarding(session, app) as guard:
                operation, _ = guard.confirmed_rollback(partial(act, confirm=seconds))
    warnings = tuple(fresh_warnings(operation))
    notes = operation.plan.warnings if session.yes else ()  # otherwise they were shown before the question
    return Answer(operation_json(operation), done_text(operation), operation.operation_id, notes, warnings)


def _gradual(
    session: Session, target: str, only: tuple[str, ...], without: tuple[str, ...], *, consent: Consent
) -> Answer:
    from rfs.cli.gradual import roll_back

    if not session.dry_run:
        session.must_answer("Roll back, wave by wave?", why=True)
    with session.application(changes=not session.dry_run) as app:
        app.consent = consent
        return roll_back(session, app, target, only, without)


def _only_planned(
    session: Session,
    target: str,
    only: tuple[str, ...],
    without: tuple[str, ...],
    *,
    parts: _Parts,
    expected: Plan | None,
) -> Answer:
    with session.application(changes=False) as app:
        selection = parts.of(app) if expected is None else expected.selection
        made = app.plan(target, only=only, without=without, selection=selection)
        checked = bool(app.settings.health)
    _refuse_if_changed(expected, made)
    everything = session.verbose or session.json
    data = {"dry_run": True, **plan_json(made, everything=everything)}
    session.take_reason()
    text = plan_text(made, checked=checked, everything=everything)
    return Answer(data, text, made.hash, notes=made.warnings)


def _refuse_if_changed(expected: Plan | None, made: Plan) -> None:
    from rfs.production.rollback.plan import differs

    if expected is not None and (change := differs(expected, made)):
        raise ConflictError("plan.changed", what=change)


_ours = click.option("--ours", is_flag=True, help="What was changed since stays as it is; the rest is taken back.")
_theirs = click.option("--theirs", is_flag=True, help="What was changed since is overwritten, too.")
_edit = click.option("--edit", is_flag=True, help="Decide about it in $VISUAL or $EDITOR: of one key, version or file.")


@click.command(cls=CommonCommand)
@click.argument("named", metavar="[OPERATION]", required=False, shell_complete=complete_operation)
@click.option("-n", "number", type=int, default=1, help="How many operations, newest first.")
@click.option("--component", metavar="NAME", help="Only operations that touched it count, and only it is taken back.")
@_ours
@_theirs
@_edit
@REQUEST
@BREAK_GLASS
@click.pass_obj
def undo(
    session: Session,
    *,
    named: str | None,
    number: int,
    component: str | None,
    ours: bool,
    theirs: bool,
    edit: bool,
    request: str | None,
    break_glass: bool,
) -> Answer:
    """Take back the last operations, newest first, or the one that is named. An undo can be undone: name it.

    Of a change to one key, file or row, what others changed since is kept; where they changed the same, nothing is
    done unless --ours, --theirs or --edit says what then (15).
    """
    if named is not None and number != 1:
        bad_usage("-n counts from the newest operation", "Leave out -n or OPERATION.")
    how, decide = _resolution(ours, theirs, edit)
    reason = session.take_reason()
    if not session.dry_run:
        session.must_answer("Undo it?")
    consent = consent_of(request=request, break_glass=break_glass, reason=reason)
    with session.application(changes=not session.dry_run) as app:
        app.consent = consent
        return _undone(session, app, number, named, component=component, reason=reason, how=how, decide=decide)


@click.command(cls=CommonCommand)
@_ours
@_theirs
@_edit
@REQUEST
@BREAK_GLASS
@click.pass_obj
def redo(session: Session, *, ours: bool, theirs: bool, edit: bool, request: str | None, break_glass: bool) -> Answer:
    """Take back the last undo, unless something else was done since; again, and the one before it."""
    from rfs.production.rollback.undo import settle
    from rfs.production.rollback.undoing import to_redo

    how, decide = _resolution(ours, theirs, edit)
    reason = session.take_reason()
    if not session.dry_run:
        session.must_answer("Redo it?")
    consent = consent_of(request=request, break_glass=break_glass, reason=reason)
    with session.application(changes=not session.dry_run) as app:
        app.consent = consent
        if not session.dry_run:
            settle(app)
        return _undone(session, app, 1, to_redo(app.log), component=None, reason=reason, how=how, decide=decide)


def _resolution(ours: bool, theirs: bool, edit: bool) -> tuple[Resolution, Decide | None]:
    """Return what becomes of conflicts, and who decides about them instead."""
    from rfs.production.rollback.merging import Resolution

    if ours + theirs + edit > 1:
        bad_usage("--ours, --theirs and --edit contradict each other", "Give one of them.")
    if not edit:
        return Resolution.OURS if ours else Resolution.THEIRS if theirs else Resolution.REFUSE, None
    from rfs.cli.editing import Editor, require_terminal

    require_terminal()
    return Resolution.REFUSE, Editor()


def _undone(
    session: Session,
    app: Application,
    number: int,
    named: str | None,
    *,
    component: str | None,
    reason: str,
    how: Resolution,
    decide: Decide | None,
) -> Answer:
    """Take operations back, once that is agreed to; or with --dry-run say what that would do."""
    from rfs.cli.logview import logged_json, small_done_text
    from rfs.production.rollback import undo
    from rfs.production.rollback.operation import Operation

    if not session.dry_run:
        undo.settle(app)
    if session.dry_run or not session.yes:
        meant = undo.to_undo(app, number, named, component)
        which = meant[0][0].operation_id if len(meant) == 1 else named
        shown = [_undo_plan(session, app, operation, names, (which, how)) for operation, names in meant]
        text = "\n\n".join(each for each, _, _ in shown)
        warnings = tuple(dict.fromkeys(warning for _, _, found in shown for warning in found))
        if session.dry_run:
            return Answer({"dry_run": True, "undo": [data for _, data, _ in shown]}, text, notes=warnings)
        session.show_and_confirm(text, warnings, f"Take back {counted(len(meant), 'operation')}?")
        if number == 1:
            named = meant[0][0].operation_id  # what was agreed to, whatever was done meanwhile
    done = undo.undo(app, number, operation=named, component=component, reason=reason, how=how, decide=decide)
    text = "\n".join(done_text(each) if isinstance(each, Operation) else small_done_text(each) for each in done)
    plans = [each for each in done if isinstance(each, Operation)]
    fresh = tuple(dict.fromkeys(warning for operation in plans for warning in fresh_warnings(operation)))
    brief = "\n".join(operation.operation_id for operation in done)
    return Answer([logged_json(operation) for operation in done], text, brief, warnings=fresh)


def _undo_plan(
    session: Session,
    app: Application,
    operation: AnyOperation,
    names: tuple[str, ...],
    meant: tuple[str | None, Resolution],
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Return what taking an operation back would do, for people and programs, and the warnings."""
    from rfs.cli.logview import KINDS, short
    from rfs.production.rollback import undo
    from rfs.production.rollback.changelog import sides_of, told
    from rfs.production.rollback.operation import Operation

    head = f"{'Undo' if operation.undoes is None else 'Redo'} of {KINDS.get(operation.kind, operation.kind)}"
    head = f"{head} {short(operation.operation_id)}:"
    if isinstance(operation, Operation):
        chosen, part, texts = app.part_to_undo(operation, names, *meant)
        made = app.plan(operation.state_before, only=chosen, selection=part, undoes=operation)
        text = plan_text(made, checked=bool(app.settings.health), everything=session.verbose)
        merged = {name: sorted(each) for name, each in texts.items()}
        data = {"undoes": operation.operation_id, "merged": merged, **plan_json(made, everything=session.verbose)}
        if merged:
            listed = ", ".join(f"{name} {printable(key)}" for name, keys in merged.items() for key in keys)
            text += f"\nWhat was changed since in other lines of these stays: {listed}."
        return f"{head}\n{text}", data, made.warnings
    sides = sides_of(undo.change_of(app, operation))
    clashes = [told(clash) for clash in undo.conflicts(app, [operation])]
    lines = [head, f"  {printable(operation.destination)}  {printable(sides['after'])} → {printable(sides['before'])}"]
    lines += [
        f"  conflict at {printable(each['where'])}: {printable(each['before'])} before it, "
        f"{printable(each['after'])} after it, {printable(each['now'])} now"
        for each in clashes
    ]
    data = {"undoes": operation.operation_id, "what": operation.destination, **sides, "conflicts": clashes}
    return "\n".join(lines), data, ()
