"""`rfs guard`, `rfs confirm`, `rfs cancel`, `rfs extend`: a change on trial, and what becomes of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

import click

from rfs.cli.answer import Answer
from rfs.cli.common import CommonCommand
from rfs.cli.consent import BREAK_GLASS, consent_of
from rfs.cli.later import called_off, meant, would_call_off
from rfs.cli.session import Session, bad_usage, seconds_of
from rfs.cli.text import counted, nice_time, printable
from rfs.cli.views import deployment_json
from rfs.production.rollback.errors import ChangeFailedError

if TYPE_CHECKING:
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.guarding import Guard, Outcome
    from rfs.production.rollback.model import Consent

_LOOK_SECONDS = 0.2


@click.command(cls=CommonCommand, context_settings={"allow_interspersed_args": False})
@click.argument("command", metavar="-- CMD...", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--confirm-by",
    type=click.Choice(["health", "person"]),
    default="health",
    help="Who keeps it: its health, or somebody with `rfs confirm` before the bake is over.",
)
@click.option("--bake", metavar="TIME", help='How long it is watched, e.g. "10m"; default: [policy] bake.')
@click.option("--no-rollback", is_flag=True, help="Watch and tell; take nothing back.")
@click.option("--version", "version", default="", help="The version that CMD deploys; quarantined when it turns bad.")
@click.option("--deployment", default="", metavar="ID", help="Your name for the deployment.")
@BREAK_GLASS
@click.option("--release", metavar="VERSION", help="Let a quarantined version be deployed again.")
@click.pass_obj
def guard(
    session: Session,
    *,
    command: tuple[str, ...],
    confirm_by: Literal["health", "person"],
    bake: str | None,
    no_rollback: bool,
    version: str,
    deployment: str,
    break_glass: bool,
    release: str | None,
) -> Answer:
    """Take a checkpoint, run CMD, watch the application, and keep the change or take it back.

    CMD's output passes through; its standard input is this one's, unless that is a terminal. When CMD fails, the
    application goes back to the checkpoint, and the exit code is CMD's. When it turns bad afterwards, it is 20.
    In a freeze it is refused (14), unless --break-glass says otherwise.
    """
    if release is not None:
        if command or bake is not None or no_rollback or version or deployment:
            bad_usage("--release deploys nothing", "Leave out everything else.")
        return _release(session, release)
    if not command:
        bad_usage("CMD is missing", "Write it at the end: rfs guard -- ./deploy.sh v2")
    seconds = seconds_of(bake, "--bake") if bake is not None else None
    reason = session.take_reason()
    consent = consent_of(break_glass=break_glass, reason=reason)
    if session.dry_run:
        return _only_told(session, command, version, consent)
    from rfs.production.rollback.guarding import CommandChange, Trial

    metadata: dict[str, Any] = {"type": "pre_deployment"}
    if version:
        metadata["version"] = version
    if no_rollback:
        metadata["auto_rollback"] = False
    trial = Trial(
        deployment_id=deployment,
        metadata=metadata,
        confirm_by=confirm_by,
        bake=seconds,
        message=reason,
        break_glass=consent.break_glass,
    )
    with session.application(changes=True) as app, guarding(session, app) as ours:
        outcome = ours.run(CommandChange(command, stdout=2 if session.json else None), trial)
    return _kept(outcome)


def _only_told(session: Session, command: tuple[str, ...], version: str, consent: Consent) -> Answer:
    from rfs.production.rollback.conditional import parse_conditions
    from rfs.production.rollback.passing import require_program

    require_program(command)
    with session.application(changes=False) as app:
        app.consent = consent
        app.require_unfrozen("The deployment")
        app.deployments.require_free(version)
        names = list(app.parts)
        checks = len(app.settings.health)
        rules = len(parse_conditions(app.settings)) if app.settings.conditions else 0
    data = {
        "dry_run": True,
        "components": names,
        "command": list(command),
        "health_checks": checks,
        "conditions": rules,
    }
    watched = [counted(checks, "health check")] * bool(checks) + [counted(rules, "condition")] * bool(rules)
    text = f"It would take a checkpoint of {', '.join(names)}, run {printable(' '.join(command))}, and watch "
    return Answer(data, text + (" and ".join(watched) or "nothing: there are no health checks."))


def _kept(outcome: Outcome) -> Answer:
    found = outcome.deployment
    why = f" ({printable(found.why)})" if found.why else ""
    text = f"{found.kind.capitalize()} {found.guard_id} is {found.phase}{why}. Before it: {found.checkpoint_id}."
    return Answer(deployment_json(found), text, found.checkpoint_id, outcome.notes, outcome.warnings)


def _release(session: Session, version: str) -> Answer:
    if session.dry_run:
        with session.application(changes=False) as app:
            bad = app.deployments.quarantine_of(version)
        word = "would be released" if bad is not None else "is not quarantined"
        return Answer({"dry_run": True, "version": version, "quarantined": bad is not None}, f"{version} {word}.")
    with session.application(changes=True) as app:
        released = app.release(version)
    text = f"{printable(version)} may be deployed again."
    return Answer({"version": version, "released": [deployment_json(each) for each in released]}, text, version)


@contextmanager
def guarding(session: Session, app: Application) -> Iterator[Guard]:
    """Yield a guard that heeds signals as the policy says, instead of turning back whatever runs."""
    from rfs.production.rollback.guarding import Guard

    def tell(sentence: str) -> None:
        if not session.quiet:
            session.tell(sentence)

    ours = Guard(app, tell)
    terminals = [descriptor for descriptor in range(3) if os.isatty(descriptor)]  # a closed one does not say so

    def heard(number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            _leave(terminals)
            if app.settings.policy.on_hangup == "continue":
                return
        if ours.deciding:
            _warn(b"\nIt is being decided already, please wait.\n")
        else:
            app.beat.interrupt()
            _warn(b"\nStopping, please wait.\n")

    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # One that is ignored (nohup) stays ignored.
    old = {each: signal.signal(each, heard) for each in stopping if signal.getsignal(each) is not signal.SIG_IGN}
    try:
        yield ours
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _warn(text: bytes) -> None:
    # Not sys.stderr, which may be in the middle of a write, and refuses a second one.
    with suppress(OSError):
        os.write(2, text)


def _leave(terminals: list[int]) -> None:
    """A terminal that is closed fails every write to it, and nothing that is only shown may stop the way back."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in terminals:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


# — what is waiting to be decided —


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="[ID]", required=False)
@click.pass_obj
def confirm(session: Session, selector: str | None) -> Answer:
    """Keep what is waiting to be confirmed."""
    if session.dry_run:
        return _pending(session, selector, "kept")
    with session.application(changes=True) as app:
        found = app.confirm(selector)
    return Answer(deployment_json(found), f"{found.kind.capitalize()} {found.guard_id} is kept.", found.guard_id)


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="[ID]", required=False)
@click.option("--for", "span", metavar="TIME", required=True, help='From now on, e.g. "10m".')
@click.pass_obj
def extend(session: Session, selector: str | None, span: str) -> Answer:
    """Give what is waiting to be confirmed another deadline."""
    seconds = seconds_of(span, "--for")
    if session.dry_run:
        return _pending(session, selector, f"given {span}")
    with session.application(changes=True) as app:
        found = app.extend(selector, seconds)
    text = f"{found.kind.capitalize()} {found.guard_id} waits until {nice_time(found.deadline)}."
    return Answer(deployment_json(found), text, found.guard_id)


@click.command(cls=CommonCommand)
@click.argument("selector", metavar="[ID]", required=False)
@click.pass_obj
def cancel(session: Session, selector: str | None) -> Answer:
    """Take back, now, what is waiting to be confirmed or is still being watched.

    With the ID of a scheduled or an armed rollback: it is not made.
    """
    if session.dry_run:
        with session.application(changes=False) as app:
            found_later = meant(app, selector)
        if found_later is not None:
            session.take_reason()
            return would_call_off(found_later)
        return _pending(session, selector, "taken back")
    reason = session.take_reason()
    with session.application(changes=True) as app:
        if meant(app, selector) is not None:
            return called_off(app.call_off(selector or "", reason=reason))
        found, owned = app.cancel(selector, reason=reason)
        while owned and found.is_open and app.deployments.owned():
            time.sleep(_LOOK_SECONDS)  # its guard does it; what it writes down wakes nobody
            app.beat.tick()
            found = app.deployments.get(found.guard_id)
        if found.is_open:
            app.recover(reason=reason)
            found = app.deployments.get(found.guard_id)
    if found.phase != "reverted":
        facts = {"left": f"it is {found.phase}", "checkpoint": found.checkpoint_id}
        raise ChangeFailedError("guard.left", why=found.stuck or found.why, **facts)
    text = f"{found.kind.capitalize()} {found.guard_id} was taken back."
    return Answer(deployment_json(found), text, found.guard_id)


def _pending(session: Session, selector: str | None, verb: str) -> Answer:
    session.take_reason()
    with session.application(changes=False) as app:
        found = app.deployments.pending(selector)
    text = f"{found.kind.capitalize()} {found.guard_id} would be {verb}."
    return Answer({"dry_run": True, **deployment_json(found)}, text, found.guard_id)
