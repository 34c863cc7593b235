"""What `rfs status` says, and the short way to it: `rfs status` with plain flags needs no click.

Status is asked again and again, by people and by monitoring. Loading click and building its
commands is a third of the time until it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rfs.cli.answer import Answer
from rfs.cli.codes import ExitCode
from rfs.cli.session import Session, conclude
from rfs.cli.style import style
from rfs.cli.text import nice_time, printable, table

if TYPE_CHECKING:
    from rfs.production.rollback.capturing import Drift
    from rfs.production.rollback.guarded import Deployment
    from rfs.production.rollback.status import Status

FLAGS = {
    "--json": "json",
    "-q": "quiet",
    "--quiet": "quiet",
    "-v": "verbose",
    "--verbose": "verbose",
    "--no-color": "no_color",
    "--debug": "debug",
    "--exit-code": "exit_code",
}


def is_plain(words: Sequence[str]) -> bool:
    """Tell whether a command line is `status` with nothing but flags that `quick` knows."""
    return words[:1] == ["status"] and all(word in FLAGS for word in words[1:])


def quick(words: Sequence[str]) -> int:
    """Run a command line that `is_plain`; return the exit code."""
    given = {FLAGS[word] for word in words[1:]}
    session = Session()
    session.json, session.debug = "json" in given, "debug" in given

    def act() -> Answer:
        session.absorb(dict.fromkeys(given - {"exit_code"}, True))
        return current(session, exit_code="exit_code" in given)

    return conclude(session, act)


def current(session: Session, *, exit_code: bool) -> Answer:
    """Answer with the live state against the last checkpoint, and the open operation."""
    from rfs.cli.views import (
        as_json,
        checkpoint_json,
        deferred_json,
        deployment_json,
        operation_json,
        request_json,
    )

    with session.application(changes=False) as app:
        found = app.status()
    drifted = [each.component for each in found.drift if each.equal is False]
    data = {
        "app": found.app,
        "latest": checkpoint_json(found.latest) if found.latest is not None else None,
        "drift": [
            {"component": d.component, "kind": d.kind, "equal": d.equal, "detail": d.detail} for d in found.drift
        ],
        "open_operation": operation_json(found.open_operation) if found.open_operation is not None else None,
        "running": found.running,
        "deployment": deployment_json(found.deployment) if found.deployment is not None else None,
        "freeze": as_json(found.frozen),
        "gradual": _gradual_json(found),
        "waiting": [request_json(request, stand) for request, stand in found.waiting],
        "deferred": [deferred_json(each) for each in found.deferred],
    }
    code = 0
    left = found.open_operation is not None and (found.open_operation.status == "held" or not found.running)
    if exit_code and (left or found.due or (found.gradual is not None and not found.running)):
        code = int(ExitCode.HELD)
    elif exit_code and drifted:
        code = int(ExitCode.CONFLICT)
    return Answer(data, _status_text(found), ", ".join(drifted), code=code)


def _gradual_json(found: Status) -> dict[str, Any] | None:
    if found.gradual is None:
        return None
    from rfs.cli.gradual import gradual_json

    return gradual_json(found.gradual)


def _status_text(found: Status) -> str:
    from rfs.cli.views import deferred_line, health_phrase, request_line, status_word

    lines = [style(found.app, bold=True)]
    latest = found.latest
    if latest is None:
        lines.append("There is no checkpoint yet: take one with `rfs checkpoint`.")
    else:
        about = f' "{printable(latest.message)}"' if latest.message else ""
        taken = f"{style(latest.checkpoint_id, fg='cyan')}, {nice_time(latest.created_at)}{about}"
        lines.append(f"Last checkpoint: {taken}, {health_phrase(latest.health)}")
    lines.append(table([_drift_row(each) for each in found.drift]))
    if found.frozen is not None:
        lines.append(f"{style('Frozen', fg='yellow')}: nothing may be deployed {printable(found.frozen.told)}.")
    lines += [request_line(request, stand) for request, stand in found.waiting]
    lines += [deferred_line(each) for each in found.deferred]
    if found.gradual is not None:
        from rfs.cli.gradual import gradual_text

        lines.append(gradual_text(found.gradual))
    if found.running:
        lines.append(f"Running now: {found.running}")
    if found.deployment is not None:
        lines += _deployment_lines(found.deployment, guarded=found.guarded, due=found.due)
    operation = found.open_operation
    if operation is not None:
        word = status_word(operation.status, alive=bool(found.running))
        lines.append(f"Open: {operation.kind} {operation.operation_id}, {word}")
        if operation.error:
            lines.append(f"  {printable(operation.error)}")
        if not found.running:
            lines.append(
                f"  `rfs show {operation.operation_id}` tells more; `rfs resume` goes on, `rfs abort` turns back."
            )
    return "\n".join(line for line in lines if line)


def _deployment_lines(deployment: Deployment, *, guarded: bool, due: bool) -> list[str]:
    version = f" of {printable(deployment.version)}" if deployment.version else ""
    until = f" until {nice_time(deployment.deadline)}" if deployment.deadline is not None else ""
    lines = [f"On trial: {deployment.kind} {deployment.guard_id}{version}, {deployment.phase}{until}"]
    if deployment.stuck:
        lines.append(f"  {style('cannot be taken back', fg='red')}: {printable(deployment.stuck)}")
    elif due:
        lines.append("  Nobody looks after it any more: `rfs recover` does what is due.")
    elif not guarded:
        lines.append("  Nobody looks after it any more: `rfs recover` does what is due when its time is over.")
    if deployment.confirm_by == "person" and not due:
        lines.append(
            f"  `rfs confirm {deployment.guard_id}` keeps it, `rfs cancel {deployment.guard_id}` takes it back."
        )
    return lines


def _drift_row(drift: Drift) -> tuple[str, str, str]:
    word = {
        True: style("as it was", fg="green"),
        False: style("changed since", fg="yellow"),
        None: "unknown",
    }
    detail = f" ({printable(drift.detail)})" if drift.detail else ""
    return f"  {drift.component}", drift.kind, word[drift.equal] + detail
