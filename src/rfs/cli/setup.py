"""`rfs init` and `rfs doctor`."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import click

from rfs.cli.answer import Answer
from rfs.cli.codes import ExitCode
from rfs.cli.common import CommonCommand
from rfs.cli.session import Session, bad_usage
from rfs.cli.style import style
from rfs.cli.text import counted
from rfs.production.rollback.errors import RollbackError, UsageError

if TYPE_CHECKING:
    from rfs.production.rollback.driver import Finding
    from rfs.production.rollback.settings import Settings


@click.command(cls=CommonCommand)
@click.option("--store", metavar="DIR", help="Where the store goes, instead of .rfs here or /var/lib/rfs for root.")
@click.pass_obj
def init(session: Session, store: str | None) -> Answer:
    """Detect the application in this folder, write rfs.toml, make the store and its key.

    What is there already is left as it is: running it again completes what is missing.
    """
    from rfs.production.rollback.detect import detect
    from rfs.production.rollback.draft import render
    from rfs.production.rollback.settings import FILE_NAME, load, parse

    path = os.path.abspath(session.config or FILE_NAME)
    notes: list[str] = []
    text = ""
    if os.path.lexists(path):
        settings = load(path)
        if store is not None and os.path.abspath(store) != settings.store.path:
            bad_usage(f"{path} is there already and names another store", "Change [store] path in it.")
        kept = _kept_store(settings)
        lines = [f"{path} is there already: it was not changed."]
    else:
        found = detect(os.path.dirname(path))
        text = render(found, store=store)
        settings = parse(text, path)
        # What cannot be used is found out before a file is written that names it.
        kept = _kept_store(settings)
        _require_folder(path)
        notes += found.notices
        parts = ", ".join(f"{each.name} ({each.kind})" for each in found.components)
        lines = [f"{'Would write' if session.dry_run else 'Wrote'} {path}: {parts}."]
        if session.dry_run:
            lines.append("\n" + text.rstrip())
    made = [] if kept else _make_store(settings, dry_run=session.dry_run)
    lines += kept or made
    if text and not session.dry_run:
        _write_new(path, text)
    if not session.dry_run:
        lines.append("Next: read rfs.toml, then `rfs doctor`, then `rfs checkpoint`.")
    data = {
        "dry_run": session.dry_run,
        "path": path,
        "written": bool(text) and not session.dry_run,
        "content": text or None,
        "app": settings.name,
        "components": [{"name": each.name, "kind": each.kind} for each in settings.components],
        "store": settings.store.path,
        "key": settings.store.key,
        "store_made": bool(made) and not session.dry_run,
        "store_kept": bool(kept),
    }
    return Answer(data, "\n".join(lines), path, notes=tuple(notes))


def _kept_store(settings: Settings) -> list[str]:
    """Return what is to be said of the store that is there already; nothing when there is none.

    Raises:
        RollbackError: it is another application's, is damaged, or its key does not open it.
    """
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.store import Store

    if not Store.exists(settings.store.path):
        return []
    try:
        with Application(settings) as app:
            app.store.check_key()
            ordinary, safety = len(list(app.catalog.ordinary())), app.catalog.count_safety()
    except UsageError as error:
        if error.key not in ("store.key_missing", "store.key_wrong") or os.path.lexists(settings.path):
            raise
        raise UsageError("init.store", store=settings.store.path, key=settings.store.key) from error
    held = f"{counted(ordinary, 'checkpoint')}, and {counted(safety, 'safety checkpoint')} of rollbacks"
    return [f"The store {settings.store.path} is there already, with {held}: it is kept, as is its key."]


def _require_folder(path: str) -> None:
    """Refuse, before a store is made, a place for rfs.toml that cannot be written."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise UsageError("init.unwritable", path=path, why=os.strerror(errno.ENOENT))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError("init.unwritable", path=path, why=os.strerror(errno.EACCES))


def _write_new(path: str, text: str) -> None:
    try:
        # "x": whatever appeared meanwhile is not overwritten. Others may read it, never write it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise UsageError("init.unwritable", path=path, why=error.strerror) from error


def _make_store(settings: Settings, *, dry_run: bool) -> list[str]:
    from rfs.production.rollback.store import Store

    path, key = settings.store.path, settings.store.key
    had_key = os.path.lexists(key)
    if not dry_run:
        Store.create(path, key).close()
    would = "Would make" if dry_run else "Made"
    lines = [f"{would} the store {path}."]
    if had_key:
        lines.append(f"Its key is {key}, which is there already: what it had been made for is not in this store.")
    else:
        lines.append(f"{would} its key {key}. Keep a copy elsewhere: without it no checkpoint can be read.")
    return lines


@click.command(cls=CommonCommand)
@click.pass_obj
def doctor(session: Session) -> Answer:
    """Check rfs.toml, the store and its key, every component, the health checks, the clock and the space."""
    from rfs.production.rollback import upkeep
    from rfs.production.rollback.driver import Finding

    try:
        with session.application(changes=False) as app:
            findings = upkeep.examine(app)
            parts = [f"{name} ({part.component.kind})" for name, part in app.parts.items()]
    except RollbackError as error:
        found = Finding("error", str(error), error.hint)
        return Answer(_findings_json([found]), _findings_text([found]), "error", code=error.code)
    errors = [finding for finding in findings if finding.level == "error"]
    code = int(ExitCode.ERROR if errors else ExitCode.WARNINGS if findings else ExitCode.OK)
    lines = [f"Looked at {counted(len(parts), 'component')}: {', '.join(parts) or 'none'}."]
    lines.append(_findings_text(findings) if findings else style("Everything is well.", fg="green"))
    brief = "\n".join(finding.level for finding in findings)
    return Answer(_findings_json(findings), "\n".join(lines), brief, code=code)


def _findings_json(findings: list[Finding]) -> list[dict[str, Any]]:
    return [{"level": each.level, "text": each.text, "hint": each.hint} for each in findings]


def _findings_text(findings: list[Finding]) -> str:
    colors = {"error": "red", "warning": "yellow"}
    lines = []
    for finding in findings:
        lines.append(f"{style(finding.level + ':', fg=colors.get(finding.level), bold=True)} {finding.text}")
        lines.append(f"  {finding.hint}")
    return "\n".join(lines)
