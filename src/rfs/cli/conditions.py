"""`rfs conditions`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from rfs.cli.answer import Answer
from rfs.cli.common import CommonCommand
from rfs.cli.session import Session
from rfs.cli.sparkline import chart, sparkline
from rfs.cli.style import style
from rfs.cli.text import nice_time, printable, table

if TYPE_CHECKING:
    from rfs.production.rollback.judging import Standing
    from rfs.production.rollback.samples import Event

_COLORS = {"ok": "green", "failing": "yellow", "tripped": "red", "error": "yellow", "no data": "yellow"}
_WIDTH = 30
_HISTORY = 120
_LISTED = 10


@click.command(cls=CommonCommand)
@click.argument("name", metavar="[NAME]", required=False)
@click.pass_obj
def conditions(session: Session, name: str | None) -> Answer:
    """Show the conditions of rfs.toml, what they measured lately, and which of them trip; of NAME, more of that.

    In the line of each, what rises above the middle is beyond its threshold. It shows what `rfs watch` and `rfs guard`
    measured, and measures nothing itself.
    """
    from rfs.production.rollback.lock import holder
    from rfs.production.rollback.ruling import events_of, standings
    from rfs.production.rollback.scheduled import lock_path

    with session.application(changes=False) as app:
        found = standings(app, name)
        events = events_of(app, name) if name is not None else []
        watched = bool(holder(lock_path(app.settings)))
    data = [_json(each, None if name is not None else _WIDTH) for each in found]
    notes = () if watched or not found else ("`rfs watch` does not run: nobody measures them.",)
    if name is not None:
        whole = {**data[0], "events": [_event_json(each) for each in events]}
        return Answer(whole, _detail(found[0], events), str(found[0].state), notes)
    text = _list(found) if found else "There are no conditions in rfs.toml."
    return Answer(data, text, "\n".join(f"{each.rule.name} {each.state}" for each in found), notes)


def _json(found: Standing, limit: int | None) -> dict[str, Any]:
    rule, last = found.rule, found.samples[-1] if found.samples else None
    return {
        "name": rule.name,
        "state": str(found.state),
        "action": rule.action,
        "dry_run": rule.dry_run,
        "value": last.measured if last is not None else None,
        "measured_at": last.at.isoformat() if last is not None else None,
        "error": last.error if last is not None else "",
        "threshold": rule.threshold,
        "below": rule.below,
        "failing": found.verdict.failing,
        "since": found.verdict.since.isoformat() if found.verdict.since is not None else None,
        "why": found.verdict.why,
        "disarmed_until": found.disarmed_until.isoformat() if found.disarmed_until is not None else None,
        "samples": [
            {"at": each.at.isoformat(), "value": each.measured, "weight": each.weight, "error": each.error}
            for each in found.samples[-limit if limit is not None else 0 :]
        ],
    }


def _event_json(event: Event) -> dict[str, Any]:
    return {"at": event.at.isoformat(), "what": event.what, "text": event.text}


def _list(found: Sequence[Standing]) -> str:
    rows = [
        (
            printable(each.rule.name),
            style(str(each.state), fg=_COLORS.get(each.state)),
            _value(each),
            _bound(each),
            _line(each),
            nice_time(each.verdict.since) if each.verdict.since is not None else "-",
            _does(each),
        )
        for each in found
    ]
    return table(rows, ("NAME", "STATE", "VALUE", "TRIPS", "LATELY", "FAILING SINCE", "DOES"))


def _value(found: Standing) -> str:
    value = found.samples[-1].measured if found.samples else None
    return f"{value:g}" if value is not None else "-"


def _bound(found: Standing) -> str:
    return f"{'<' if found.rule.below else '>'} {found.rule.threshold:g}"


def _line(found: Standing) -> str:
    rule = found.rule
    return sparkline(found.samples, rule.threshold, below=rule.below, width=_WIDTH, plain=_plain())


def _plain() -> bool:
    """Tell whether what is written to can show ASCII alone."""
    return "utf" not in (sys.stdout.encoding or "").lower()


def _does(found: Standing) -> str:
    words: list[str] = [found.rule.action]
    if found.rule.dry_run:
        words.append("dry run")
    if found.disarmed_until is not None:
        words.append(f"disarmed until {nice_time(found.disarmed_until)}")
    return ", ".join(words)


def _detail(found: Standing, events: Sequence[Event]) -> str:
    rule, verdict = found.rule, found.verdict
    last = found.samples[-1] if found.samples else None
    facts = [
        ("condition", style(printable(rule.name), fg="cyan")),
        ("state", style(str(found.state), fg=_COLORS.get(found.state))),
        ("value", f"{_value(found)} at {nice_time(last.at)}" if last is not None else ""),
        ("error", printable(last.error) if last is not None else ""),
        ("trips", _bound(found)),
        ("clears", f"{'>' if rule.below else '<'} {rule.clear:g}" if rule.clear is not None else ""),
        ("failing", f"{verdict.failing} times since {nice_time(verdict.since)}" if verdict.failing else ""),
        ("why", printable(verdict.why)),
        ("does", _does(found)),
    ]
    parts = [table([(word, text) for word, text in facts if text])]
    if any(each.measured is not None for each in found.samples):
        width = max(20, min(_HISTORY, shutil.get_terminal_size().columns - 12))
        drawn = chart(found.samples, rule.threshold, below=rule.below, width=width, plain=_plain())
        parts.append("\n".join(drawn))
        shown = found.samples[-_LISTED:]
        rows = [
            (nice_time(each.at), f"{each.measured:g}" if each.measured is not None else "-", printable(each.error))
            for each in shown
        ]
        parts.append(table(rows, ("MEASURED", "VALUE", "ERROR")))
    if events:
        rows = [(nice_time(each.at), each.what, printable(each.text)) for each in events]
        parts.append(table(rows, ("AT", "WHAT", "")))
    return "\n\n".join(parts)
