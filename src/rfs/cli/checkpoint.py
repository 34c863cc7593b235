"""`rfs checkpoint` and its subcommands."""

from __future__ import annotations

from typing import Any

import click

from rfs.cli.answer import Answer
from rfs.cli.common import CommonGroup
from rfs.cli.differences import compare, ways
from rfs.cli.selecting import COMPONENTS, complete_checkpoint
from rfs.cli.session import Session, bad_usage
from rfs.cli.style import style
from rfs.cli.text import counted, nice_seconds, nice_size
from rfs.cli.views import (
    capture_warnings,
    checkpoint_json,
    checkpoint_table,
    checkpoint_text,
    health_phrase,
    migration_notes,
)


@click.group(cls=CommonGroup, invoke_without_command=True)
@click.option("-m", "--message", default="", help="What it is for.")
@click.option("--tag", "tags", multiple=True, help="A name to find it by; may be given again.")
@click.option("--only", type=COMPONENTS, default="", help="Only these components, with commas between.")
@click.option("--except", "without", type=COMPONENTS, default="", help="All but these components.")
@click.option("--version", "version", default="", help="The deployed version; also finds it later.")
@click.option("--deployment", default="", metavar="ID", help="Your name for the deployment.")
@click.pass_context
def checkpoint(
    ctx: click.Context,
    *,
    message: str,
    tags: tuple[str, ...],
    only: tuple[str, ...],
    without: tuple[str, ...],
    version: str,
    deployment: str,
) -> Answer | None:
    """Take a checkpoint of the whole application, while it runs."""
    session: Session = ctx.obj
    given = [message, tags, only, without, version, deployment]
    if ctx.invoked_subcommand is not None:
        if any(given):
            bad_usage(
                "The options of a new checkpoint stand before a subcommand",
                f"Leave out the options, or the word {ctx.invoked_subcommand}.",
            )
        return None
    from rfs.production.rollback.plan import select

    reason = session.take_reason()
    with session.application(changes=not session.dry_run) as app:
        if session.dry_run:
            names = select(list(app.parts), only, without)
            return Answer({"dry_run": True, "components": names}, f"It would capture {', '.join(names)}.")
        metadata = {"version": version} if version else {}
        taken = app.checkpoint(
            message=message or reason,
            tags=tags,
            only=only,
            without=without,
            deployment_id=deployment,
            metadata=metadata,
        )
    size = sum(capture.size for capture in taken.captures.values())
    stored = sum(capture.stored for capture in taken.captures.values())
    text = (
        f"Checkpoint {style(taken.checkpoint_id, fg='cyan')}: {counted(len(taken.captures), 'component')}, "
        f"{nice_size(size)} ({nice_size(stored)} new) in {nice_seconds(taken.seconds)}, {health_phrase(taken.health)}."
    )
    notes, warnings = migration_notes(taken), tuple(capture_warnings(taken))
    return Answer(checkpoint_json(taken), text, taken.checkpoint_id, notes, warnings)


@checkpoint.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that rollbacks took for safety.")
@click.option("--tag", default="", help="Only those with this tag.")
@click.pass_obj
def list_them(session: Session, everything: bool, tag: str) -> Answer:
    """List the checkpoints, newest first."""
    with session.application(changes=False) as app:
        everything = everything or session.verbose
        found = app.catalog.checkpoints() if everything else list(app.catalog.ordinary())
        hidden = 0 if everything else app.catalog.count_safety()
    found = [each for each in found if not tag or tag in each.tags]
    text = checkpoint_table(found) if found else "There are no checkpoints. Take one with `rfs checkpoint`."
    if hidden:
        text += f"\n{counted(hidden, 'safety checkpoint')} of rollbacks not shown (--all)."
    brief = "\n".join(each.checkpoint_id for each in found)
    return Answer([checkpoint_json(each) for each in found], text, brief, paged=True)


@checkpoint.command("show")
@click.argument("selector", metavar="CHECKPOINT", default="@latest", shell_complete=complete_checkpoint)
@click.pass_obj
def show(session: Session, selector: str) -> Answer:
    """Show one checkpoint: what it holds, how large it is, whether the application was healthy."""
    with session.application(changes=False) as app:
        found = app.find(selector)
    notes = (*capture_warnings(found), *migration_notes(found))
    return Answer(checkpoint_json(found), checkpoint_text(found), found.checkpoint_id, notes=notes)


@checkpoint.command("diff")
@click.argument("a", metavar="A", default="@latest", shell_complete=complete_checkpoint)
@click.argument("b", metavar="[B]", required=False, shell_complete=complete_checkpoint)
@ways
@click.pass_obj
def diff(session: Session, /, a: str, b: str | None, **how: Any) -> Answer:
    """Show the changes from checkpoint A to checkpoint B, or to the live state."""
    return compare(session, a, b, **how)


@checkpoint.command("verify")
@click.argument("selector", metavar="CHECKPOINT", default="@latest", shell_complete=complete_checkpoint)
@click.pass_obj
def verify(session: Session, selector: str) -> Answer:
    """Read everything that a checkpoint needs back from the store."""
    from rfs.cli.upkeep import verified

    return verified(session, selector)


@checkpoint.command("pin")
@click.argument("selectors", metavar="CHECKPOINT...", nargs=-1, required=True, shell_complete=complete_checkpoint)
@click.pass_obj
def pin(session: Session, selectors: tuple[str, ...]) -> Answer:
    """Keep checkpoints whatever the retention rules say."""
    return _amend(session, selectors, pinned=True)


@checkpoint.command("unpin")
@click.argument("selectors", metavar="CHECKPOINT...", nargs=-1, required=True, shell_complete=complete_checkpoint)
@click.pass_obj
def unpin(session: Session, selectors: tuple[str, ...]) -> Answer:
    """Let the retention rules decide about checkpoints again."""
    return _amend(session, selectors, pinned=False)


def _amend(session: Session, selectors: tuple[str, ...], *, pinned: bool) -> Answer:
    with session.application(changes=not session.dry_run) as app:
        # All are looked for before one is changed: a typing error in the third must not leave two done.
        ids = [app.find(selector).checkpoint_id for selector in selectors]
        done = [app.find(each) if session.dry_run else app.amend(each, pinned=pinned) for each in ids]
    word = "pinned" if pinned else "unpinned"
    would = "would be " if session.dry_run else ""
    text = "\n".join(f"{each} {would}{word}." for each in ids)
    return Answer([checkpoint_json(each) for each in done], text)


@checkpoint.command("tag")
@click.argument("selector", metavar="CHECKPOINT", shell_complete=complete_checkpoint)
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.pass_obj
def tag(session: Session, selector: str, tags: tuple[str, ...]) -> Answer:
    """Give a checkpoint names to find it by."""
    with session.application(changes=not session.dry_run) as app:
        found = app.find(selector)
        if not session.dry_run:
            found = app.amend(found.checkpoint_id, add_tags=tags)
    would = "would be " if session.dry_run else ""
    return Answer(checkpoint_json(found), f"{found.checkpoint_id} {would}tagged {', '.join(tags)}.")


@checkpoint.command("forget")
@click.argument("selectors", metavar="CHECKPOINT...", nargs=-1, required=True, shell_complete=complete_checkpoint)
@click.pass_obj
def forget(session: Session, selectors: tuple[str, ...]) -> Answer:
    """Remove checkpoints. Their space comes back with the next `rfs prune`."""
    from rfs.production.rollback import upkeep

    if not session.dry_run:
        session.must_answer("Remove them for ever?")
    with session.application(changes=not session.dry_run) as app:
        ids = [app.find(selector).checkpoint_id for selector in selectors]
        listed = ", ".join(ids)
        if session.dry_run:
            return Answer({"dry_run": True, "forget": ids}, f"It would remove {listed}.")
        session.confirm(f"Remove {counted(len(ids), 'checkpoint')} for ever ({listed})?")
        gone = upkeep.forget(app, ids)
    names = [each.checkpoint_id for each in gone]
    return Answer({"forgotten": names}, f"Removed {', '.join(names)}. `rfs prune` gives back the space.")
