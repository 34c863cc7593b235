"""`rfs prune` and `rfs verify`."""

from __future__ import annotations

import click

from rfs.cli.answer import Answer
from rfs.cli.codes import ExitCode
from rfs.cli.common import CommonCommand
from rfs.cli.selecting import complete_checkpoint
from rfs.cli.session import Session, bad_usage
from rfs.cli.style import style
from rfs.cli.text import counted, nice_size, nice_time, table


@click.command(cls=CommonCommand)
@click.option(
    "--forget-damaged",
    "given_up",
    metavar="CHECKPOINT",
    multiple=True,
    shell_complete=complete_checkpoint,
    help="Give up this damaged checkpoint, also where it is kept to undo something.",
)
@click.pass_obj
def prune(session: Session, given_up: tuple[str, ...]) -> Answer:
    """Remove the checkpoints that retention does not keep, and give back the space that nothing needs.

    --dry-run shows the reason for each.
    """
    from rfs.cli.views import as_json
    from rfs.production.rollback import upkeep

    with session.application(changes=not session.dry_run) as app:
        times = {each.checkpoint_id: each.created_at for each in app.catalog.briefs()}
        if session.dry_run or not session.yes:
            cleaned = upkeep.prune(app, dry_run=True, forget_damaged=given_up)
            gone = cleaned.retained.remove
            if gone and not session.dry_run:
                damaged = f" and the damaged {', '.join(given_up)}" if given_up else ""
                count = counted(len(gone) - len(given_up), "checkpoint")
                session.confirm(f"Remove {count} that no rule keeps{damaged}?")
        if not session.dry_run:
            cleaned = upkeep.prune(app, dry_run=False, forget_damaged=given_up)
    gone = cleaned.retained.remove
    would = "would be " if session.dry_run else ""
    lines = []
    if session.dry_run or session.verbose:
        rows = [
            (
                style("keep", fg="green") if each in cleaned.retained.keep else style("remove", fg="red"),
                each,
                nice_time(times.get(each)),
                ", ".join(why),
            )
            for each, why in cleaned.retained.reasons.items()
        ]
        lines.append(table(rows, ("", "ID", "TAKEN", "WHY")))
    lines.append(
        f"{counted(len(gone), 'checkpoint')} {would}removed, {len(cleaned.retained.keep)} kept; "
        f"{nice_size(cleaned.pruned.freed)} {would}given back."
    )
    if cleaned.changes:
        lines.append(f"{counted(cleaned.changes, 'old change')} {would}removed from the log.")
    data = {"dry_run": session.dry_run, **as_json(cleaned)}
    warnings = tuple(
        f"Checkpoint {each} is damaged ({', '.join(names)}) and kept: {', '.join(cleaned.retained.reasons[each])}. "
        f"What it needs is not known, so that no space was given back; --forget-damaged {each} gives it up."
        for each, names in cleaned.unreadable.items()
    )
    text = "\n".join(line for line in lines if line)
    return Answer(data, text, "\n".join(gone), notes=(*cleaned.pruned.left, *cleaned.discarded), warnings=warnings)


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="[CHECKPOINT]", required=False, shell_complete=complete_checkpoint)
@click.option("--store", "whole_store", is_flag=True, help="Everything in the store; so it is without CHECKPOINT.")
@click.pass_obj
def verify(session: Session, selector: str | None, whole_store: bool) -> Answer:
    """Read stored data back, and say what is damaged and which checkpoints are whole."""
    if selector is not None and whole_store:
        bad_usage("--store and CHECKPOINT contradict each other", "Give one of them.")
    return verified(session, selector)


def verified(session: Session, selector: str | None) -> Answer:
    """Answer with what a verification of one checkpoint, or of the whole store, found."""
    from rfs.production.rollback import upkeep

    with session.application(changes=False) as app:
        found = upkeep.verify(app, selector)
    lines = [f"{counted(len(found.whole), 'checkpoint')} whole."]
    if found.damaged:
        damaged = style(", ".join(found.damaged), fg="red")
        lines.append(f"DAMAGED: {damaged}. Whole: {', '.join(found.whole) or 'none'}.")
    lines += [f"  {problem}" for problem in found.damage.packs]
    if found.damage.blobs:
        lines.append(f"  {counted(len(found.damage.blobs), 'blob')} without a good copy.")
    lines.append(f"Read {counted(found.damage.checked, 'blob')}, {nice_size(found.damage.size)}.")
    code = int(ExitCode.INTEGRITY) if found.damaged or found.damage else 0
    data = {
        "whole": list(found.whole),
        "damaged": list(found.damaged),
        "blobs": sorted(blob.hex() for blob in found.damage.blobs),
        "packs": list(found.damage.packs),
        "checked": found.damage.checked,
        "size": found.damage.size,
    }
    return Answer(data, "\n".join(lines), "\n".join(found.damaged), code=code)
