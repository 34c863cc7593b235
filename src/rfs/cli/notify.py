"""`rfs notify`: who is told, what could not be told yet, and whether it works."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rfs.cli.answer import Answer
from rfs.cli.common import CommonGroup
from rfs.cli.session import Session
from rfs.cli.style import style
from rfs.cli.text import counted, nice_time, printable, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rfs.production.rollback.outbox import Outbox
    from rfs.production.rollback.outbox_table import Delivery

COUNTS = ("sent", "waiting", "dead")


@click.group(cls=CommonGroup)
def notify() -> None:
    """Tell who is told of what happens, and what could not be told yet."""


@contextmanager
def _outbox(session: Session, *, changes: bool) -> Iterator[tuple[Outbox, Any]]:
    from rfs.production.rollback.outbox import Outbox

    with session.application(changes=changes) as app:
        yield Outbox(app.settings, app.catalog), app


def _row(delivery: Delivery) -> dict[str, Any]:
    told = delivery.message
    return {
        "number": delivery.number,
        "endpoint": delivery.endpoint,
        "id": told["id"],
        "event": told["event"],
        "title": told["title"],
        "dead": delivery.dead,
        "since": delivery.since.isoformat(),
        "due": None if delivery.dead else delivery.due.isoformat(),
        "attempts": delivery.attempts,
        "error": delivery.error,
    }


@notify.command("list")
@click.pass_obj
def list_(session: Session) -> Answer:
    """List who is told, what waits to be told, and dead letters."""
    from rfs.production.rollback.sending import shown

    with _outbox(session, changes=False) as (outbox, app):
        sent = app.catalog.endpoints()
        deliveries = app.catalog.deliveries()
    tables = [
        {
            "name": each.key,
            "what": shown(each),
            "on": list(each.on),
            "sent": sent.get(each.key, (0, None))[0],
            "last_sent": sent.get(each.key, (0, None))[1],
            "waiting": sum(not d.dead for d in deliveries if d.endpoint == each.key),
            "dead": sum(d.dead for d in deliveries if d.endpoint == each.key),
        }
        for each in outbox.tables
    ]
    rows = [_row(each) for each in deliveries]
    head = [
        (each["name"], printable(each["what"]), ", ".join(each["on"]), *(str(each[key]) for key in COUNTS))
        for each in tables
    ]
    titles = ("NAME", "WHERE", "ON", *(key.upper() for key in COUNTS))
    text = table(head, titles) if head else "Nobody is told: see [[notify]]."
    if deliveries:
        lines = [
            (
                str(each.number),
                each.endpoint,
                printable(each.message["title"]),
                style("dead", fg="red") if each.dead else f"next at {nice_time(each.due)}",
                str(each.attempts),
                printable(each.error),
            )
            for each in deliveries
        ]
        text += "\n\n" + table(lines, ("LETTER", "FOR", "WHAT", "", "TRIED", "WHY NOT"))
    return Answer({"endpoints": tables, "letters": rows}, text, "\n".join(str(each["number"]) for each in rows))


@notify.command()
@click.argument("number", metavar="[LETTER]", type=int, required=False)
@click.pass_obj
def retry(session: Session, number: int | None) -> Answer:
    """Try one letter, or all of them, again now; dead letters included."""
    from rfs.production.rollback.errors import NotFoundError, RollbackError
    from rfs.production.rollback.lock import exclusive
    from rfs.production.rollback.outbox import outbox_lock

    with _outbox(session, changes=not session.dry_run) as (outbox, app):
        letters = [each for each in app.catalog.deliveries() if number is None or each.number == number]
        if number is not None and not letters:
            raise NotFoundError("notify.no_letter", number=number)
        if session.dry_run:
            text = f"{counted(len(letters), 'letter')} would be tried again."
            return Answer({"dry_run": True, "letters": [_row(each) for each in letters]}, text)
        wanted = {each.number for each in letters}
        with exclusive(outbox_lock(app.settings), "notifications", 5.0):
            app.catalog.revive(wanted)
            outbox.deliver()
        left = [each for each in app.catalog.deliveries() if each.number in wanted]
    sent = len(wanted) - len(left)
    if left:
        why = next((each.error for each in left if each.error), "")
        raise RollbackError("notify.not_sent", sent=sent, left=len(left), why=why)
    return Answer({"sent": sent}, f"{counted(sent, 'letter')} sent.")


@notify.command()
@click.argument("name", required=False)
@click.pass_obj
def test(session: Session, name: str | None) -> Answer:
    """Send a test message to NAME, or to everybody, now."""
    from rfs.production.rollback.errors import NotFoundError, RollbackError

    with _outbox(session, changes=False) as (outbox, _):
        chosen = [each for each in outbox.tables if name is None or each.key == name]
        if not chosen:
            raise NotFoundError("notify.nobody", name=name or "anybody")
        if session.dry_run:
            data = {"dry_run": True, "endpoints": [each.key for each in chosen]}
            return Answer(data, "Nothing was sent (--dry-run).")
        failed = {each.key: why for each in chosen if (why := outbox.test(each))}
    if failed:
        raise RollbackError("notify.test", why="; ".join(f"{key}: {why}" for key, why in failed.items()))
    names = ", ".join(each.key for each in chosen)
    return Answer({"sent": [each.key for each in chosen]}, f"A test message was sent to {names}.", names)
