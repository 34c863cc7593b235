"""Alembic: its revisions are read as files, its history as a table; to go down it is started itself."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable
from configparser import Error as ConfigParserError
from configparser import RawConfigParser

import msgspec

from rfs.production.rollback.errors import ConflictError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.migrations.scripts import (
    Files,
    Revision,
    State,
    before,
    in_order,
    listed,
    read,
)
from rfs.production.rollback.migrations.session import Session
from rfs.production.rollback.model import Component

TABLE = "alembic_version"
_SCRIPT = ("env.py", "script.py.mako")


class Places(msgspec.Struct, frozen=True):
    """Where alembic.ini says that things are. Absolute."""

    script: str
    versions: tuple[str, ...]
    recursive: bool


def places(c: Component, ini: str) -> Places:
    """Return where an alembic.ini leads.

    Raises:
        RollbackError: it cannot be read, or names no folder.
    """
    parser = RawConfigParser()
    try:
        parser.read_string(read(c, ini).decode("utf-8", errors="replace"))
        options = dict(parser["alembic"])
    except (ConfigParserError, KeyError) as error:
        why = "it has no section [alembic]" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise RollbackError("migrate.unusable", path=ini, why=why) from error
    here = os.path.dirname(ini)
    script = _path(options.get("script_location", ""), here)
    if not options.get("script_location"):
        raise RollbackError("migrate.unusable", path=ini, why="it names no script_location")
    listed_there = [
        _path(each, here) for each in re.split(r"[\s,;]+|:(?=[/.%])", options.get("version_locations", "")) if each
    ]
    recursive = options.get("recursive_version_locations", "").lower() == "true"
    return Places(script, tuple(listed_there) or (os.path.join(script, "versions"),), recursive)


def _path(written: str, here: str) -> str:
    text = written.strip().replace("%(here)s", here).replace("%%", "%")
    package, colon, inner = text.partition(":")
    if colon and re.fullmatch(r"[\w.]+", package):  # of a package, which lies beside the file
        text = os.path.join(package.replace(".", "/"), inner)
    return os.path.normpath(os.path.join(here, text))


def files(c: Component, ini: str) -> dict[str, bytes]:
    """Return the scripts: script/… and versions/NUMBER/…"""
    where = places(c, ini)
    found = {
        f"script/{name}": read(c, os.path.join(where.script, name))
        for name in _SCRIPT
        if os.path.isfile(os.path.join(where.script, name))
    }
    for number, folder in enumerate(where.versions):
        for path in _scripts(c, folder, recursive=where.recursive):
            found[f"versions/{number}/{os.path.relpath(path, folder)}"] = read(c, path)
    return found


def _scripts(c: Component, folder: str, *, recursive: bool) -> Iterable[str]:
    for name in listed(c, folder):
        path = os.path.join(folder, name)
        if name.endswith(".py") and os.path.isfile(path):
            yield path
        elif recursive and os.path.isdir(path) and not name.startswith((".", "__")):
            yield from _scripts(c, path, recursive=True)


def state(session: Session, scripts: Files, table: str | None) -> State:
    """Return what is in force, and what the scripts know of it."""
    known = _revisions(scripts)
    heads: list[str] = []
    if "version_num" in session.columns(table or TABLE):
        heads = sorted(str(each) for (each,) in session.rows(f"SELECT version_num FROM {table or TABLE}"))
    order = in_order(known)
    reached = before(known, heads)
    return State(
        applied=tuple(version for version in order if version in reached),
        heads=tuple(heads),
        missing=tuple(sorted(reached - known.keys())),
        pending=tuple(version for version in order if version not in reached),
        known=known,
    )


def way(found: State, target: str) -> tuple[str, tuple[str, ...]]:
    """Return a target as Alembic takes it, and what is to be taken back to reach it, newest first.

    Raises:
        NotFoundError: there is no such revision in force.
        RollbackError: nothing comes after it.
    """
    name = _resolved(found, target)
    applied = list(reversed(found.applied))
    if name != "base":
        applied = [each for each in applied if each != name and name in before(found.known, [each])]
    if not applied:
        raise RollbackError("migration.nothing", version=target)
    return name, tuple(applied)


def _resolved(found: State, target: str) -> str:
    if target == "base":
        return target
    if re.fullmatch(r"-\d+", target):
        version = found.heads[0] if len(found.heads) == 1 else ""
        for _ in range(int(target[1:])):
            parents = found.known[version].parents if version in found.known else ()
            version = parents[0] if len(parents) == 1 else "base" if not parents and version in found.known else ""
        if not version:
            raise UsageError("migrate.relative", target=target)
        return version
    meant = [version for version in found.applied if version == target] or [
        version for version in found.applied if len(target) >= 2 and version.startswith(target)
    ]
    if len(meant) != 1:
        raise NotFoundError("migration.unknown", version=target, known=", ".join(found.applied[-3:]) or "none")
    return meant[0]


def at(found: State, heads: Iterable[str]) -> str:
    """Return the one revision that means a state of a checkpoint.

    Raises:
        ConflictError: it had several, which cannot be named as one.
    """
    names = [head for head in heads if head in found.applied] or ["base"]
    if len(names) > 1:
        raise ConflictError("migrate.branches", heads=", ".join(names))
    return names[0]


def _revisions(scripts: Files) -> dict[str, Revision]:
    found: dict[str, Revision] = {}
    for name, data in scripts.items():
        if name.startswith("versions/"):
            revision = _revision(data)
            if revision is not None:
                found[revision.version] = revision
    return found


def _revision(source: bytes) -> Revision | None:
    """Return what a revision file says of itself; it is read, never run."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    values: dict[str, object] = {}
    down = False
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                values |= _assigned(target, node.value)
        elif isinstance(node, ast.FunctionDef) and node.name == "downgrade":
            down = not _only_raises(node)
    version = values.get("revision")
    if not isinstance(version, str):
        return None
    parents = (*_names(values.get("down_revision")), *_names(values.get("depends_on")))
    title = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Revision(version=version, title=title, parents=parents, down=down)


def _assigned(target: ast.expr, value: ast.expr) -> dict[str, object]:
    """Return the plain values that an assignment gives to names."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        pairs = zip(target.elts, value.elts, strict=True)
        return {name: found for each, its in pairs for name, found in _assigned(each, its).items()}
    try:
        return {target.id: ast.literal_eval(value)} if isinstance(target, ast.Name) else {}
    except (ValueError, TypeError):
        return {}


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, value)) if isinstance(value, list | tuple | set) else ()


def _only_raises(node: ast.FunctionDef) -> bool:
    body = [each for each in node.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    return bool(body) and isinstance(body[0], ast.Raise)
