"""`rfs migrate`: the migrations of the application's databases, and the way down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rfs.cli.answer import Answer
from rfs.cli.common import CommonGroup
from rfs.cli.consent import BREAK_GLASS, REQUEST, consent_of
from rfs.cli.session import Session, bad_usage
from rfs.cli.style import style
from rfs.cli.text import counted, printable
from rfs.cli.views import as_json, done_text, fresh_warnings, operation_json, plan_json, plan_text
from rfs.production.rollback.errors import IrreversibleError

if TYPE_CHECKING:
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.downgrading import MigrationStatus
    from rfs.production.rollback.model import Downgrade
    from rfs.production.rollback.operation import Operation

_SHOWN = 5


@click.group(cls=CommonGroup)
def migrate() -> None:
    """Tell which migrations are in force; take some back where the data is."""


@migrate.command()
@click.pass_obj
def status(session: Session) -> Answer:
    """Show which migrations are in force, which have no way down, and what came since the last checkpoint."""
    from rfs.production.rollback.downgrading import statuses

    with session.application(changes=False) as app:
        found = statuses(app.catalog, app.parts)
    text = "\n\n".join(_status_text(each, everything=session.verbose) for each in found)
    brief = "\n".join(f"{each.component} {' '.join(each.heads)}" for each in found)
    warnings = tuple(f"{each.component}: {each.why}" for each in found if each.why)
    return Answer(as_json(found), text, brief, warnings=warnings)


def _status_text(found: MigrationStatus, *, everything: bool) -> str:
    lines = [f"{style(found.component, bold=True)} ({found.tool or 'unknown'})"]
    if found.why:
        return lines[0]
    lines.append(f"  in force: {len(found.applied):,}, the newest {printable(', '.join(found.heads)) or 'none'}")
    for what, versions in (
        ("not yet applied", found.pending),
        (f"since checkpoint {found.checkpoint}", found.since),
        (f"at checkpoint {found.checkpoint}, and no more", found.gone),
    ):
        if versions:
            lines.append(f"  {what}: {_some(versions, everything=everything)}")
    for version, holder in found.missing.items():
        where = f"in checkpoint {holder}" if holder else style("nowhere", fg="red")
        lines.append(f"  its way down is not in the application: {printable(version)}; it is {where}")
    return "\n".join(lines)


def _some(versions: tuple[str, ...], *, everything: bool) -> str:
    shown = versions if everything else versions[:_SHOWN]
    more = f" and {len(versions) - len(shown)} more (-v shows them)" if len(versions) > len(shown) else ""
    return printable(", ".join(shown)) + more


@migrate.command()
@click.argument("target", metavar="TARGET")
@click.option("--component", metavar="C", help="Which database, where several have migrations.")
@click.option("--sql", is_flag=True, help="Print what would be run; run nothing.")
@click.option(
    "--or-checkpoint",
    is_flag=True,
    help="Where a down script is missing: bring the database back to the checkpoint at TARGET, rows and all.",
)
@REQUEST
@BREAK_GLASS
@click.pass_obj
def down(
    session: Session,
    *,
    target: str,
    component: str | None,
    sql: bool,
    or_checkpoint: bool,
    request: str | None,
    break_glass: bool,
) -> Answer:
    """Take back the migrations after TARGET, newest first, where the data is: what users wrote stays.

    TARGET is a revision of Alembic (or base, -1), APP.MIGRATION of Django (or APP.zero), a number of a folder of SQL
    (or base), or a checkpoint by its word with @, for what was in force then. Services are stopped meanwhile. If it
    fails, the database is restored; when it is done, `rfs undo` takes it back.
    """
    if or_checkpoint and sql:
        bad_usage("--sql prints scripts, and --or-checkpoint is for where there are none", "Leave one of them out.")
    if sql or session.dry_run:
        session.take_reason()
        with session.application(changes=False) as app:
            way = _way(app, target, component, or_checkpoint=or_checkpoint)
            if isinstance(way, IrreversibleError):
                return _covered(session, app, way, "")
            script = app.sql_down(way) if sql else None
        data = {"dry_run": True, **as_json(way), **({} if script is None else {"sql": script})}
        return Answer(data, _way_text(way) if script is None else script, " ".join(way.versions))
    reason = session.ask_reason()
    session.must_answer("Take them back?")
    consent = consent_of(request=request, break_glass=break_glass, reason=reason)
    with session.application(changes=True) as app:
        app.consent = consent
        expected: Downgrade | None = None
        if or_checkpoint or not session.yes:
            way = _way(app, target, component, or_checkpoint=or_checkpoint)
            if isinstance(way, IrreversibleError):
                return _covered(session, app, way, reason)
            expected = way
        if expected is not None and not session.yes:
            session.show_and_confirm(_way_text(expected), (), "Take them back?")
        operation = app.migrate_down(target, component=component, reason=reason, expected=expected)
    return Answer(operation_json(operation), done_text(operation), operation.operation_id, warnings=_fresh(operation))


def _way(app: Application, target: str, component: str | None, *, or_checkpoint: bool) -> Downgrade | IrreversibleError:
    """Return the way down; where there is none and that is agreed to, what names the checkpoint instead."""
    try:
        return app.plan_down(target, component)
    except IrreversibleError as error:
        if not or_checkpoint or error.key != "migrate.covered":
            raise
        return error


def _covered(session: Session, app: Application, instead: IrreversibleError, reason: str) -> Answer:
    """Roll the database back to the checkpoint that is where the way down would have led, or with --dry-run plan it."""
    checkpoint, only = str(instead.fields["checkpoint"]), [str(instead.fields["component"])]
    expected = app.plan(checkpoint, only=only)
    everything = session.verbose or session.json
    text = plan_text(expected, checked=bool(app.settings.health), everything=everything)
    if session.dry_run:
        data = {"dry_run": True, **plan_json(expected, everything=everything)}
        return Answer(data, text, expected.hash, notes=expected.warnings)
    if not session.yes:
        session.show_and_confirm(text, expected.warnings, f"{instead} Roll the database back?")
    operation = app.rollback(checkpoint, only=only, reason=reason, expected=None if session.yes else expected)
    notes = operation.plan.warnings if session.yes else ()
    answer = operation_json(operation), done_text(operation), operation.operation_id
    return Answer(*answer, notes, _fresh(operation))


def _fresh(operation: Operation) -> tuple[str, ...]:
    return tuple(fresh_warnings(operation))


def _way_text(way: Downgrade) -> str:
    scripts = f"checkpoint {way.source}" if way.source else "the application"
    head = f"{counted(len(way.versions), 'migration')} of {way.component} down to {' '.join(way.targets)}"
    return "\n".join([printable(f"{head}, by the scripts of {scripts}:"), *(f"  {printable(v)}" for v in way.versions)])
