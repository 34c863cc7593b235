"""What a supervisord.conf says about where supervisor listens, and which file defines which group.

Read here rather than asked of supervisor, since a definition belongs to the state also
while supervisor is stopped, and since supervisor does not tell which file a program is from.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.model import Component

if TYPE_CHECKING:
    from configparser import RawConfigParser

_PROGRAM_SECTIONS = ("program", "fcgi-program", "eventlistener")


class SupervisorConfig(msgspec.Struct, frozen=True):
    """A configuration with the files it includes.

    Attributes:
        path: absolute, of the main file.
        includes: patterns of the files that it includes.
        broken: the main file cannot be parsed, or does not say where supervisor listens: that is what it said last.
        groups: the names of the process groups that each file defines or takes part in, by absolute path;
            None for a file that cannot be parsed.
        folders: absolute paths of the folders that files are included from.
        server: "unix:///…" or "http://host:port", or "" when it listens nowhere.
        user, password: to log in there with; None and "" when none are needed.
        pidfile: absolute path of the file that supervisord writes its process id to.
    """

    path: str
    groups: dict[str, tuple[str, ...] | None]
    folders: tuple[str, ...] = ()
    server: str = ""
    user: str | None = None
    password: str = ""
    pidfile: str = ""
    includes: tuple[str, ...] = ()

    broken: bool = False

    @property
    def readable(self) -> bool:
        """Whether supervisord can take it over, as far as that can be told from here."""
        return not self.broken and None not in self.groups.values()

    def all_groups(self) -> list[str]:
        """Return the names of every group, sorted."""
        return sorted({name for names in self.groups.values() for name in names or ()})


def read_config(path: str, last: SupervisorConfig | None = None) -> SupervisorConfig:
    """Return what the configuration at the absolute `path` says. A missing one defines nothing.

    Args:
        last: what it said when it was usable: supervisord still listens where it did, and what it included
            then still belongs to the component.

    Raises:
        UsageError: config.invalid, a name that it uses cannot be filled in here.
    """
    here = os.path.dirname(path)
    main = _parse(path)
    parsed = {path: main}
    try:
        patterns = _expand(main.get("include", "files", fallback=""), here, path).split() if main is not None else []
        found = _found(parsed, patterns, here)
        values = _merged(parsed)
        server, user, password = _server(values, here, path)
        pidfile = _expand(values.get(("supervisord", "pidfile"), "supervisord.pid"), here, path)
    except UsageError:
        if last is None:
            raise
        server = ""
    if last is not None and (main is None or (last.server and not server)):
        folders = tuple(sorted(_found(parsed, last.includes, here)))
        return msgspec.structs.replace(last, groups=_groups(parsed), folders=folders, broken=True)
    return SupervisorConfig(
        path,
        _groups(parsed),
        tuple(sorted(found)),
        server,
        user,
        password,
        os.path.normpath(os.path.join(here, pidfile)),
        tuple(patterns),
        main is None,
    )


class LastUsable:
    """What a configuration said when it was last usable, in the component's own folder, without any password.

    supervisord runs on with it when the file is broken, and a broken file must not stand in the way of the
    rollback that mends it.
    """

    def __init__(self, c: Component, path: str) -> None:
        self._at = os.path.join(c.work, "supervisor.json")
        self._path = path

    def read(self) -> SupervisorConfig | None:
        """Return it; None when there is none, or it was another file."""
        try:
            with open(self._at, "rb") as file:
                found = msgspec.json.decode(file.read(), type=SupervisorConfig)
        except (OSError, msgspec.MsgspecError):
            return None
        return found if found.path == self._path else None

    def note(self, config: SupervisorConfig) -> None:
        """Note what a configuration says, if it is usable."""
        plain = msgspec.structs.replace(config, user=None, password="")
        if config.broken or plain == self.read():
            return
        # Looking must work also for those who may not write here.
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._at), mode=0o700, exist_ok=True)
            with open(f"{self._at}.new", "wb") as file:
                file.write(msgspec.json.encode(plain))
            os.replace(f"{self._at}.new", self._at)


def _found(parsed: dict[str, RawConfigParser | None], patterns: Iterable[str], here: str) -> set[str]:
    """Parse the included files; return the folders that such files may lie in."""
    folders: set[str] = set()
    for pattern in patterns:
        folders.update(map(os.path.normpath, glob.glob(os.path.dirname(os.path.join(here, pattern)))))
        for name in sorted(glob.glob(os.path.join(here, pattern))):
            parsed.setdefault(os.path.normpath(name), _parse(name))
    return folders


def _parse(path: str) -> RawConfigParser | None:
    from configparser import Error, RawConfigParser  # only a service component needs it

    parser = RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return parser
    except (Error, UnicodeDecodeError, OSError):
        return None
    return parser


def _merged(parsed: Mapping[str, RawConfigParser | None]) -> dict[tuple[str, str], str]:
    values: dict[tuple[str, str], str] = {}
    for parser in parsed.values():
        for section in parser.sections() if parser is not None else ():
            for key, value in parser.items(section) if parser is not None else ():
                values[section, key] = value or ""
    return values


def _groups(parsed: Mapping[str, RawConfigParser | None]) -> dict[str, tuple[str, ...] | None]:
    group_of: dict[str, str] = {}
    for parser in parsed.values():
        for section in parser.sections() if parser is not None else ():
            kind, _, name = section.partition(":")
            if kind == "group" and parser is not None:
                programs = parser.get(section, "programs", fallback="")
                group_of.update((program.strip(), name.strip()) for program in programs.split(","))
    return {
        path: None if parser is None else tuple(sorted(set(_defined(parser.sections(), group_of))))
        for path, parser in parsed.items()
    }


def _defined(sections: Iterable[str], group_of: Mapping[str, str]) -> Iterable[str]:
    for section in sections:
        kind, _, name = section.partition(":")
        name = name.strip()
        if kind == "group":
            yield name
        elif kind in _PROGRAM_SECTIONS:
            yield group_of.get(name, name)


def _server(values: Mapping[tuple[str, str], str], here: str, path: str) -> tuple[str, str | None, str]:
    """Return (URL, user, password) as supervisorctl would use them, or as supervisord listens."""
    places = [
        ("supervisorctl", values.get(("supervisorctl", "serverurl"), "")),
        ("unix_http_server", values.get(("unix_http_server", "file"), "")),
        ("inet_http_server", values.get(("inet_http_server", "port"), "")),
    ]
    for section, text in places:
        if not text:
            continue
        where = _expand(text, here, path)
        if section == "unix_http_server":
            where = "unix://" + os.path.normpath(os.path.join(here, where))
        elif section == "inet_http_server":
            host, _, port = where.rpartition(":")
            where = f"http://{'127.0.0.1' if host in ('', '*', '0.0.0.0') else host}:{port}"  # noqa: S104 -- read, not bound
        # supervisord may know its password only as a hash; supervisorctl's is always plain.
        for holder in ("supervisorctl", section):
            user, password = values.get((holder, "username")), values.get((holder, "password"), "")
            if user and not password.startswith("{SHA}"):
                return where, _expand(user, here, path), _expand(password, here, path)
        return where, None, ""
    return "", None, ""


def _expand(text: str, here: str, path: str) -> str:
    """Fill in %(here)s, %(host_node_name)s and %(ENV_NAME)s, as supervisord does when it starts."""
    names = {"here": here, "host_node_name": os.uname().nodename}
    names |= {f"ENV_{name}": value for name, value in os.environ.items()}
    try:
        return text % names
    except (KeyError, TypeError, ValueError) as error:
        why = f"{text!r} cannot be filled in here: {error}"
        raise UsageError("config.invalid", path=path, format="supervisor configuration", why=why) from error
