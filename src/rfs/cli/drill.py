"""`rfs drill`."""

from __future__ import annotations

import click

from rfs.cli.answer import Answer
from rfs.cli.codes import ExitCode
from rfs.cli.common import CommonCommand
from rfs.cli.selecting import COMPONENTS, complete_checkpoint
from rfs.cli.session import Session
from rfs.cli.style import style
from rfs.cli.text import nice_size, nice_time, printable, table


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="[CHECKPOINT]", default="@latest", shell_complete=complete_checkpoint)
@click.option("--only", type=COMPONENTS, default="", help="Only these components, with commas between.")
@click.option("--except", "without", type=COMPONENTS, default="", help="All but these components.")
@click.option("--into", metavar="FOLDER", help="A new or empty folder, in which the state stays to be looked at.")
@click.pass_obj
def drill(session: Session, selector: str, only: tuple[str, ...], without: tuple[str, ...], into: str | None) -> Answer:
    """Bring a checkpoint back in a scratch folder, to see that it can be and how long it takes.

    Nothing live is touched. Files, configuration, environment and SQLite are restored and read back; a PostgreSQL
    database is staged beside the live one and dropped again; services are not started. CHECKPOINT is the latest when
    it is left out.
    """
    from rfs.cli.views import as_json, checkpoint_json
    from rfs.production.rollback.drilling import drill as rehearse

    with session.application(changes=False) as app:
        found = rehearse(app, selector, only=only, without=without, into=into)
    rows = [
        (
            f"  {each.component}",
            each.kind,
            style("FAILED", fg="red") if each.problem else style(_WORDS[each.how], fg="green"),
            f"{each.seconds:.1f} s",
            nice_size(each.size),
            printable(each.problem or each.why),
        )
        for each in found.components
    ]
    about = f"{style(found.checkpoint.checkpoint_id, fg='cyan')}, {nice_time(found.checkpoint.created_at)}"
    lines = [f"Drill with {about}: {found.seconds:.1f} s. Nothing live was touched.", table(rows)]
    if found.folder is not None:
        lines.append(f"It is in {found.folder}.")
    data = {
        "checkpoint": checkpoint_json(found.checkpoint),
        "components": [as_json(each) for each in found.components],
        "seconds": found.seconds,
        "folder": found.folder,
    }
    code = 0
    if found.problems:
        damaged = any(each.damaged for each in found.problems)
        code = int(ExitCode.INTEGRITY if damaged else ExitCode.ERROR)
    return Answer(data, "\n".join(lines), "\n".join(each.component for each in found.problems), code=code)


_WORDS = {"restored": "restored, equal", "staged": "staged, whole", "read": "read, whole"}
