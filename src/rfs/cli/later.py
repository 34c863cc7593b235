"""Rollbacks that are made later, on the command line: asked for, called off, shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rfs.cli.answer import Answer
from rfs.cli.session import bad_usage
from rfs.cli.style import style
from rfs.cli.text import nice_time, printable, table

if TYPE_CHECKING:
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.deferred import Deferred


def asked_for(at: str | None, when: str | None, *, trial: bool, break_glass: bool) -> dict[str, Any]:
    """Return what --at or --when says, as `Application.defer` takes it; empty without them.

    Raises:
        UsageError: it is no time, or over; or another flag makes no sense with it.
    """
    if at is None and when is None:
        return {}
    flag = "--at" if at is not None else "--when"
    if at is not None and when is not None:
        bad_usage("--at and --when contradict each other", "Give one of them.")
    if trial:
        bad_usage(f"{flag} and --confirm contradict each other", "Nobody may be there to confirm it: leave one out.")
    if break_glass:
        bad_usage("--break-glass is for an emergency, which is now", f"Leave out {flag}.")
    if at is None:
        return {"condition": when}
    from rfs.production.rollback.deferred import parse_at
    from rfs.production.rollback.model import utc_now

    return {"at": parse_at(at, utc_now())}


def deferred(app: Application, found: Deferred) -> Answer:
    """Answer with a rollback that was just written down."""
    from rfs.production.rollback.lock import holder
    from rfs.production.rollback.scheduled import lock_path

    what = "is scheduled for" if found.at is not None else "is armed:"
    when = nice_time(found.at) if found.at is not None else f"it is made when {printable(found.condition)} trips"
    name = style(found.rollback_id, fg="cyan")
    text = f"Rollback {name} to {found.target} {what} {when}; `rfs cancel {found.rollback_id}` calls it off."
    asleep = "`rfs watch` does not run, and without it the rollback is not made: start it in time."
    warnings = () if holder(lock_path(app.settings)) else (asleep,)
    return Answer(deferred_json(found), text, found.rollback_id, warnings=warnings)


def deferred_json(found: Deferred) -> dict[str, Any]:
    """Return what programs may know of it."""
    from rfs.cli import views  # with the records, which a command that only looks may not need

    return views.deferred_json(found)


def meant(app: Application, selector: str | None) -> Deferred | None:
    """Return the scheduled or armed rollback that an id given to `rfs cancel` means, or None."""
    if selector is None:
        return None
    guarded = app.catalog.open_deployment()
    if guarded is not None and guarded.guard_id.startswith(selector):
        return None
    if not any(each.rollback_id.startswith(selector) for each in app.catalog.deferred()):
        return None
    return app.find_deferred(selector)


def would_call_off(found: Deferred) -> Answer:
    """Answer to `rfs cancel --dry-run`."""
    what = "would not be made" if found.waits else f"is {found.status}, and cannot be called off"
    text = f"The {found.strategy} rollback {found.rollback_id} {what}."
    return Answer({"dry_run": True, **deferred_json(found)}, text, found.rollback_id)


def called_off(found: Deferred) -> Answer:
    """Answer to `rfs cancel`."""
    text = f"The {found.strategy} rollback {found.rollback_id} is not made."
    return Answer(deferred_json(found), text, found.rollback_id)


# — looking —


def without_operation(app: Application, limit: int | None) -> list[Deferred]:
    """Return those of which there is no operation in the log, newest first: at most `limit`, but all that wait."""
    found = [each for each in app.catalog.deferred() if each.waits or each.operation_id is None]
    over = [each.rollback_id for each in found if not each.waits]
    shown = set(over if limit is None else over[:limit])
    return [each for each in found if each.waits or each.rollback_id in shown]


def asked_table(found: list[Deferred]) -> str:
    """Return one line for each."""
    rows = [
        (
            style(each.rollback_id, fg="cyan"),
            nice_time(each.at) if each.at is not None else f"when {printable(each.condition)} trips",
            printable(each.target),
            str(each.status) + (f" ({printable(each.why)})" if each.why else ""),
            each.actor,
            printable(each.reason),
        )
        for each in found
    ]
    return table(rows, ("ID", "FOR", "TO", "STATUS", "BY", "REASON"))


def only_asked(app: Application, selector: str) -> Deferred | None:
    """Return the one that an id given to `rfs show` means, if it is no operation yet."""
    if selector.startswith("@"):
        return None
    found = [each for each in without_operation(app, None) if each.rollback_id.startswith(selector)]
    return found[0] if len(found) == 1 and not app.log.ids(selector, 1) else None


def shown(found: Deferred) -> Answer:
    """Answer to `rfs show`."""
    facts = [
        ("rollback", style(found.rollback_id, fg="cyan")),
        ("status", str(found.status)),
        ("to checkpoint", printable(found.target)),
        ("at", nice_time(found.at) if found.at is not None else ""),
        ("condition", printable(found.condition)),
        ("rule", printable(found.rule)),
        ("components", ", ".join(found.components)),
        ("reason", printable(found.reason)),
        ("by", found.actor),
        ("asked for", nice_time(found.created_at)),
        ("why", printable(found.why)),
    ]
    text = table([(name, value) for name, value in facts if value])
    return Answer(deferred_json(found), text, found.rollback_id)
