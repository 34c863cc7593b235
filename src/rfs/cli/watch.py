"""`rfs watch`."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Literal

import click

from rfs.cli.answer import Answer
from rfs.cli.common import CommonCommand
from rfs.cli.session import Session, bad_usage
from rfs.cli.text import nice_time, printable

if TYPE_CHECKING:
    from rfs.production.rollback.watching import Told


@click.command(cls=CommonCommand)
@click.option("--once", is_flag=True, help="Do what is due now, and end.")
@click.option(
    "--install",
    type=click.Choice(["systemd", "supervisor"]),
    help="Write the unit, or the program, that starts it; it is neither enabled nor started.",
)
@click.option("--into", metavar="FOLDER", help="Where --install writes; by default where the manager looks.")
@click.pass_obj
def watch(
    session: Session, *, once: bool, install: Literal["systemd", "supervisor"] | None, into: str | None
) -> Answer | None:
    """Do what [[schedules]] says when it is due, and settle what nobody looks after, until it is stopped.

    A guarded deployment whose deadline passes goes back, and an operation that a crash interrupted is finished or
    reverted. There is one for each store. SIGTERM ends it; SIGHUP lets it look at once.
    """
    if install is not None:
        if once:
            bad_usage("--install and --once contradict each other", "Give one of them.")
        return _install(session, install, into)
    if into is not None:
        bad_usage("--into belongs to --install", "Leave it out.")
    from rfs.production.rollback.settings import find
    from rfs.production.rollback.watching import Watcher

    watcher = Watcher(os.path.abspath(session.config or find(os.getcwd())), lambda told: _tell(session, told))
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: watcher.stop())
    signal.signal(signal.SIGHUP, lambda *_: watcher.wake())
    watcher.run(once=once)
    return None


def _tell(session: Session, told: Told) -> None:
    if session.json:
        import msgspec

        line = msgspec.json.encode(told).decode()
    elif session.quiet and told.what != "error":
        return
    else:
        line = f"{nice_time(told.at)}  {told.what}: {printable(told.text)}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _install(session: Session, kind: Literal["systemd", "supervisor"], into: str | None) -> Answer:
    from rfs.production.rollback.errors import ConflictError
    from rfs.production.rollback.settings import find, load
    from rfs.production.rollback.watching import definition

    settings = load(session.config or find(os.getcwd()))
    own = os.geteuid() != 0 and into is None
    rfs = os.path.join(os.path.dirname(sys.executable), "rfs")
    quote = shlex.quote if kind == "supervisor" else _quoted
    facts = {"name": settings.name, "rfs": quote(rfs), "config": quote(settings.path), "user": own}
    name, text = definition(kind, facts)
    folder = (
        into
        or {
            "systemd": os.path.expanduser("~/.config/systemd/user") if own else "/etc/systemd/system",
            "supervisor": "/etc/supervisor/conf.d",
        }[kind]
    )
    path = os.path.join(folder, name)
    try:
        if os.path.lexists(path):
            with open(path, encoding="utf-8") as file:
                if file.read() != text:
                    session.confirm(f"Write over {path}, which says something else?")
        elif not session.dry_run:
            os.makedirs(folder, exist_ok=True)
        if not session.dry_run:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConflictError("watch.unwritable", path=path, why=getattr(error, "strerror", None) or error) from error
    user = "--user " if own else ""
    then = {
        "systemd": f"systemctl {user}daemon-reload && systemctl {user}enable --now {name}",
        "supervisor": "supervisorctl update",
    }[kind]
    word = "would be written" if session.dry_run else "is written"
    return Answer({"path": path, "text": text}, f"{path} {word}. It starts with: {then}", path)


def _quoted(path: str) -> str:
    """Return a path as a word of a unit file's command line."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$") + '"' if " " in path else path
