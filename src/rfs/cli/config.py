"""`rfs config`: versions of the configuration files that rfs.toml names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rfs.cli.answer import Answer
from rfs.cli.codes import ExitCode
from rfs.cli.common import CommonGroup
from rfs.cli.session import Session
from rfs.cli.text import nice_time, printable, table
from rfs.production.rollback.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.drivers.formats import Value
    from rfs.production.rollback.model import Change, Component
    from rfs.production.rollback.versions import ConfigVersion, FilePlace, Versions

_component = click.option("--component", metavar="NAME", help="Which configuration, where there is more than one.")


@click.group(cls=CommonGroup)
def config() -> None:
    """Save versions of a configuration file; list, show and compare them, and go back to one."""


@config.command("save")
@click.argument("version")
@click.option("-m", "--message", default="", metavar="TEXT", help="What is special about it.")
@_component
@click.pass_obj
def save(session: Session, version: str, message: str, component: str | None) -> Answer:
    """Save what the file says now as VERSION."""
    with _opened(session, component, changes=not session.dry_run) as (_, c, place, versions):
        values = place.values()
        if session.dry_run:
            return Answer({"dry_run": True, "component": c.name}, f"{c.name} would be saved as {printable(version)}.")
        saved = versions.save(values, version, message)
    return Answer(_json(saved, current=True), f"Saved {c.name} as {printable(saved.version)}.", saved.version)


@config.command("list")
@_component
@click.pass_obj
def listing(session: Session, component: str | None) -> Answer:
    """List the versions, newest first; "*" marks the one that was saved or applied last."""
    with _opened(session, component, changes=False) as (_, _c, _place, versions):
        found = list(versions.history())
        current = versions.current()
    name = current.version if current is not None else None
    rows = [
        (
            "*" if v.version == name else "",
            printable(v.version),
            nice_time(v.created_at),
            v.hash[:12],
            printable(v.description),
        )
        for v in found
    ]
    text = (
        table(rows, ("", "VERSION", "SAVED", "SHA-256", "")) if rows else "There are none yet: `rfs config save NAME`."
    )
    data = [_json(each, current=each.version == name) for each in found]
    return Answer(data, text, "\n".join(each.version for each in found))


@config.command("show")
@click.argument("version")
@_component
@click.pass_obj
def show(session: Session, version: str, component: str | None) -> Answer:
    """Show what VERSION says, secrets masked."""
    from rfs.production.rollback.drivers.keys import shown_keys
    from rfs.production.rollback.drivers.masking import masked

    with _opened(session, component, changes=False) as (_, _c, _place, versions):
        found = versions.find(version)
        current = versions.current()
    data = _json(found, current=current is not None and current.version == found.version)
    if found.config is None:
        return Answer(
            {**data, "config": None}, "It is a file that could not be read; it can be brought back all the same."
        )
    rows = [(printable(key), printable(value)) for key, value in shown_keys(_flat(found.config)).items()]
    return Answer({**data, "config": masked(found.config)}, table(rows), found.hash)


@config.command("diff")
@click.argument("a")
@click.argument("b", required=False)
@_component
@click.option("--exit-code", is_flag=True, help="End with 15 when something differs.")
@click.pass_obj
def diff(session: Session, a: str, b: str | None, component: str | None, exit_code: bool) -> Answer:
    """Show the changes from version A to version B, or to what the file says now, secrets masked."""
    from rfs.cli.views import as_json, changes_text

    with _opened(session, component, changes=False) as (app, c, place, versions):
        after = place.values() if b is None else _values(versions.find(b))
        changes = _changes(app, c, _values(versions.find(a)), after)
    brief = "\n".join(f"{change.component} {printable(change.key)}" for change in changes)
    code = int(ExitCode.CONFLICT) if exit_code and changes else 0
    return Answer(as_json(changes), changes_text(changes, everything=session.verbose), brief, code=code, paged=True)


@config.command("rollback")
@click.argument("version")
@_component
@click.pass_obj
def rollback(session: Session, version: str, component: str | None) -> Answer:
    """Write VERSION into the file, reload, and keep the present configuration as a backup version.

    Comments, order and layout of the file stay; a backup comes back byte for byte. A failing reload puts the
    previous configuration back (30).
    """
    from rfs.cli.views import as_json, changes_text

    reason = session.take_reason()
    if not session.dry_run:
        session.must_answer("Roll the configuration back?")
    with _opened(session, component, changes=not session.dry_run) as (app, c, place, versions):
        if session.dry_run or not session.yes:
            target = versions.find(version)
            draft = place.draft(target)
            now = place.get()[0]
            changes = [] if now is None or target.config is None else _changes(app, c, now, target.config)
            text = changes_text(changes, everything=session.verbose)
            if session.dry_run:
                data = {"dry_run": True, "component": c.name, "changes": as_json(changes), "size": len(draft)}
                return Answer(data, text)
            session.show_and_confirm(text, (), f"Roll {c.name} back to {printable(version)}?")
        done, previous = versions.rollback(version, reason)
    data = {"component": c.name, "rolled_back_to": done.version, "previous_version": previous}
    text = f"{c.name} is at {printable(done.version)}; what it said before is kept: `rfs config list`."
    return Answer(data, text, done.version)


@contextmanager
def _opened(
    session: Session, name: str | None, *, changes: bool
) -> Iterator[tuple[Application, Component, FilePlace, Versions]]:
    """Open the application and the versions of one of its configurations."""
    from rfs.production.rollback.drivers.config import ConfigDriver
    from rfs.production.rollback.versions import Versions, configured_place

    with session.application(changes=changes) as app:
        found = {n: part for n, part in app.parts.items() if isinstance(part.driver, ConfigDriver)}
        if not found:
            raise UsageError("config.none")
        if name is None and len(found) > 1:
            raise UsageError("config.which", known=", ".join(found))
        part = found.get(name if name is not None else next(iter(found)))
        if part is None:
            raise NotFoundError("components.unknown", name=name, known=", ".join(found))
        c, driver = part.component, part.driver
        assert isinstance(driver, ConfigDriver)  # noqa: S101 — for the type checker: chosen by it above
        place = configured_place(c, driver, app.beat)
        with Versions(app, place) as versions:
            yield app, c, place, versions


def _changes(app: Application, c: Component, before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    from rfs.production.rollback.drivers.keys import key_changes

    return list(key_changes(c, app.engine.blobs, _flat(before), _flat(after)))


def _flat(values: dict[str, Any]) -> dict[str, Value]:
    from rfs.production.rollback.drivers.formats import UnparsableError
    from rfs.production.rollback.drivers.parsing import flat

    try:
        return flat(values)
    except UnparsableError as error:
        hint = "`rfs config rollback` can bring it back all the same."
        raise UsageError("usage", what=f"It cannot be shown by key: {error}", hint=hint) from None


def _values(version: ConfigVersion) -> dict[str, Any]:
    if version.config is None:
        what = f"{version.version} is a backup of a file that could not be read"
        raise UsageError("usage", what=what, hint="It can be brought back with `rfs config rollback`, not compared.")
    return version.config


def _json(version: ConfigVersion, *, current: bool) -> dict[str, Any]:
    return {
        "version": version.version,
        "created_at": version.created_at.isoformat(),
        "description": version.description,
        "hash": version.hash,
        "current": current,
    }
