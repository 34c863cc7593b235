"""Rollbacks in waves: `rfs rollback --strategy gradual`; what `resume`, `abort` and `status` do with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rfs.cli.answer import Answer
from rfs.cli.session import Session
from rfs.cli.style import style
from rfs.cli.text import printable
from rfs.cli.views import plan_json, plan_text

if TYPE_CHECKING:
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.gradual import Gradual
    from rfs.production.rollback.gradually import Rolling
    from rfs.production.rollback.plan import Plan


def gradual_json(found: Gradual) -> dict[str, Any]:
    """Return a gradual rollback as programs get it."""
    return {
        "gradual": found.gradual_id,
        "status": found.stage,
        "target": found.target,
        "reason": found.reason,
        "waves": [list(wave) for wave in found.waves],
        "instances": [
            {
                "name": instance,
                "version": version,
                "at_target": instance in found.done,
                "operation": found.done.get(instance),
                "failed": found.failed.get(instance),
            }
            for instance, version in found.where().items()
        ],
        "why": found.why,
        "created_at": found.created_at,
        "finished_at": found.finished_at,
    }


def gradual_text(found: Gradual) -> str:
    """Return a gradual rollback as people see it: how far it is, and what each instance runs."""
    head = f"Gradual rollback {style(found.gradual_id, fg='cyan')} to {found.target}: {found.stage}, {found.told()}."
    lines = [head, *([f"  {printable(found.why)}"] if found.why else [])]
    for number, wave in enumerate(found.waves, 1):
        shown = [f"{name} {style(printable(found.where()[name]), fg=_colour(found, name))}" for name in wave]
        lines.append(f"  wave {number}: {', '.join(shown)}")
    if found.stage == "paused":
        lines.append("  `rfs resume` goes on with it, `rfs abort` takes back what was done.")
    return "\n".join(lines)


def _colour(found: Gradual, instance: str) -> str:
    return "green" if instance in found.done else "red" if instance in found.failed else "yellow"


def roll_back(
    session: Session, app: Application, target: str, only: tuple[str, ...], without: tuple[str, ...]
) -> Answer:
    """Roll back wave by wave, once that is agreed to; with --dry-run only show what it would do."""
    rolling = _rolling(session, app)
    if session.dry_run:
        made = rolling.plan(target, only=only, without=without)
        session.take_reason()
        waves = rolling.waves(made)
        data = {"dry_run": True, "waves": [list(wave) for wave in waves], **plan_json(made, everything=session.verbose)}
        return Answer(data, _plan_text(session, app, made, waves), made.hash, notes=made.warnings)
    expected = None
    app.find(target)
    reason = session.ask_reason()
    if not session.yes:
        expected = rolling.plan(target, only=only, without=without)
        text = _plan_text(session, app, expected, rolling.waves(expected))
        session.show_and_confirm(text, expected.warnings, "Roll back, wave by wave?")
    return _done(rolling, lambda: rolling.begin(target, reason=reason, only=only, without=without, expected=expected))


def is_meant(app: Application, selector: str | None) -> Gradual | None:
    """Return the gradual rollback that `resume` or `abort` is about: the open one, unless an operation is open."""
    found = app.waves()
    if found is None or app.catalog.open_operation() is not None:
        return None
    return found if selector is None or found.gradual_id.startswith(selector) else None


def carry_on(session: Session, app: Application, found: Gradual) -> Answer:
    """Go on with one that is paused."""
    if session.dry_run:
        session.take_reason()
        return Answer({"dry_run": True, "gradual": gradual_json(found)}, f"It would go on with:\n{gradual_text(found)}")
    rolling = _rolling(session, app)
    session.take_reason()
    return _done(rolling, rolling.resume)


def take_back(session: Session, app: Application, found: Gradual) -> Answer:
    """Take back what was done of one that is paused."""
    reason = session.take_reason()
    if session.dry_run:
        return Answer({"dry_run": True, "gradual": gradual_json(found)}, f"It would take back:\n{gradual_text(found)}")
    rolling = _rolling(session, app)
    return _done(rolling, lambda: rolling.abort(reason))


def _rolling(session: Session, app: Application) -> Rolling:
    from rfs.production.rollback.gradually import Rolling

    return Rolling(app, _teller(session))


def _teller(session: Session) -> Callable[[str], None]:
    import click  # `rfs status`, which shows one, does without

    quiet = session.quiet or session.json
    return (lambda _: None) if quiet else lambda text: click.echo(text, err=True)


def _done(rolling: Rolling, act: Callable[[], Gradual]) -> Answer:
    found = act()
    return Answer(gradual_json(found), gradual_text(found), found.gradual_id, warnings=tuple(rolling.warnings))


def _plan_text(session: Session, app: Application, made: Plan, waves: list[tuple[str, ...]]) -> str:
    text = plan_text(made, checked=bool(app.settings.health), everything=session.verbose)
    lines = [f"  wave {number}: {', '.join(wave)}" for number, wave in enumerate(waves, 1)]
    return "\n".join([text, "Wave by wave, with the others left running:", *lines])
