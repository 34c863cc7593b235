"""`rfs diff` and `rfs changes`: what differs between two states, by component. They change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from rfs.cli.answer import Answer
from rfs.cli.codes import ExitCode
from rfs.cli.common import CommonCommand
from rfs.cli.selecting import COMPONENTS, complete_checkpoint, complete_operation
from rfs.cli.session import Session, bad_usage
from rfs.cli.style import style
from rfs.cli.text import counted, printable, table

if TYPE_CHECKING:
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.model import Change

LINES = {"+": "green", "-": "red", "@": "cyan"}
_Show = Callable[["Application"], tuple[dict[str, Any], "Sequence[Change]"]]


def ways(command: Callable[..., Answer]) -> Callable[..., Answer]:
    """Add the options that say how changes are shown."""
    options = (
        click.option("--only", type=COMPONENTS, default="", help="Only these components, with commas between."),
        click.option("--stat", is_flag=True, help="Count them by component."),
        click.option("--text", is_flag=True, help="With the lines that differ in text files; secrets are masked."),
        click.option("--exit-code", is_flag=True, help="End with 15 when something differs."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(cls=CommonCommand)
@click.argument("a", metavar="[A]", default="@latest", shell_complete=complete_checkpoint)
@click.argument("b", metavar="[B]", required=False, shell_complete=complete_checkpoint)
@ways
@click.pass_obj
def diff(session: Session, /, a: str, b: str | None, **how: Any) -> Answer:
    """Show the changes from checkpoint A (the latest) to checkpoint B, or to the live state."""
    return compare(session, a, b, **how)


@click.command(cls=CommonCommand)
@click.argument("operation", metavar="[OPERATION]", required=False, shell_complete=complete_operation)
@ways
@click.pass_obj
def changes(session: Session, /, operation: str | None, only: tuple[str, ...], **how: Any) -> Answer:
    """Show what changed since the latest checkpoint; or what OPERATION changed, from the state before it."""
    if operation is None:
        return compare(session, "@latest", None, only, **how)

    def show(app: Application) -> tuple[dict[str, Any], Sequence[Change]]:
        from rfs.production.rollback.differences import made_by
        from rfs.production.rollback.operation import Operation

        found = app.log.find(operation)
        if not isinstance(found, Operation) or found.downgrade is not None:
            hint = f"`rfs show {operation}` tells what there is to know."
            bad_usage("It changed what it changed in place, with no state after it to compare with", hint)
        pairs, made = made_by(app, found)
        return pairs, [each for each in made if not only or each.component in only]

    return _answer(session, show, **how)


def compare(session: Session, a: str, b: str | None, only: tuple[str, ...], **how: Any) -> Answer:
    """Answer with the changes from one checkpoint to another, or to the live state."""

    def show(app: Application) -> tuple[dict[str, Any], Sequence[Change]]:
        from rfs.production.rollback.differences import between, captures_between

        pairs = captures_between(app, a, b, only)
        return pairs, between(app, pairs)

    return _answer(session, show, **how)


def _answer(session: Session, show: _Show, *, stat: bool, text: bool, exit_code: bool) -> Answer:
    from rfs.cli.views import as_json, changes_text

    lines: dict[int, list[str]] = {}
    with session.application(changes=False) as app:
        pairs, found = show(app)
        if text and not stat:
            from rfs.production.rollback.differences import texts

            lines = {id(change): diff_ for change, diff_ in texts(app, pairs, found)}
    code = int(ExitCode.CONFLICT) if exit_code and found else 0
    brief = "\n".join(f"{change.component} {printable(change.key)}" for change in found)
    if stat:
        counts = _counts(list(pairs), found)
        return Answer(counts, _stat_text(counts), brief, code=code)
    data = as_json(found)
    for each, change in zip(data, found, strict=True):
        if id(change) in lines:
            each["text"] = lines[id(change)]
    shown = changes_text(found, everything=session.verbose)
    blocks = ["\n".join(map(_colored, diff_)) for diff_ in lines.values()]
    return Answer(data, "\n\n".join([shown, *blocks]), brief, code=code, paged=True)


def _colored(line: str) -> str:
    return style(printable(line), fg=LINES.get(line[:1]))


def _counts(names: Sequence[str], changes: Sequence[Change]) -> dict[str, dict[str, int]]:
    counts = {name: {"added": 0, "changed": 0, "removed": 0, "size_before": 0, "size_after": 0} for name in names}
    for change in changes:
        own = counts[change.component]
        own[change.kind] += 1
        own["size_before"] += change.before.size if change.before is not None else 0
        own["size_after"] += change.after.size if change.after is not None else 0
    return counts


def _stat_text(counts: dict[str, dict[str, int]]) -> str:
    rows = [
        (name, *(f"{own[kind]:,} {kind}" if own[kind] else "" for kind in ("added", "changed", "removed")))
        for name, own in counts.items()
    ]
    total = sum(own[kind] for own in counts.values() for kind in ("added", "changed", "removed"))
    return f"{table(rows)}\n{counted(total, 'change')}"
