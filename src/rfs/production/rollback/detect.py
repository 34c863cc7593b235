"""Looks at a folder and says which application lies there: what `rfs init` writes down.

It only reads. What it cannot know it guesses carefully, and says so: a wrong component is
worse than a missing one. What this release has no driver for becomes a suggestion.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from configparser import Error as ConfigParserError
from configparser import RawConfigParser
from typing import Any

import msgspec

from rfs.production.rollback.detect_migrations import tools
from rfs.production.rollback.detect_tree import MAX_ENTRIES, Tree, walk
from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.known_names import (
    COMPOSE,
    CONFIG_FOLDERS,
    CONFIG_FORMATS,
    CONFIG_WORDS,
    ENV_EXAMPLES,
    MANIFESTS,
    NOT_CONFIGURATION,
    UPLOADS,
)

MAX_TEXT_BYTES = 1 << 20
MAX_CONFIGS = 20
SQLITE_MAGIC = b"SQLite format 3\x00"

DATABASE_NAMES = {
    b"postgres": "PostgreSQL",
    b"postgresql": "PostgreSQL",
    b"mysql": "MySQL",
    b"mariadb": "MariaDB",
    b"mongodb": "MongoDB",
    b"redis": "Redis",
}
DATABASES = re.compile(rb"""(?m)(?:^(?:export )?(\w+)=["']?)?\b(""" + b"|".join(DATABASE_NAMES) + rb")(?:\+\w+)?://")
PORT = re.compile(rb"""(?im)^\s*(?:export\s+)?["']?[\w.-]*port["']?\s*[:=]\s*["']?(\d{2,5})\b""")
OTHERS_PORTS = frozenset({25, 465, 587, 1025, 3306, 5432, 5672, 6379, 9200, 11211, 27017})


class Found(msgspec.Struct, frozen=True):
    """A component that works as it is. `why` is a comment above it."""

    name: str
    kind: str
    options: dict[str, Any]
    why: str


class Suggestion(msgspec.Struct, frozen=True):
    """Something to decide: sentences, and lines of TOML that stay commented out."""

    why: str
    lines: tuple[str, ...] = ()


class Detected(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in a folder.

    Attributes:
        folder: absolute.
        name: a name for the application, fit for `[app] name`.
        notices: sentences that the user should read now, not only in the file.
    """

    folder: str
    name: str
    components: tuple[Found, ...]
    suggestions: tuple[Suggestion, ...] = ()
    notices: tuple[str, ...] = ()


def detect(folder: str, *, system: str = "/") -> Detected:
    """Return what application lies in `folder`.

    Args:
        folder: of the future rfs.toml.
        system: the root of the file system, where units of process managers are looked for.

    Raises:
        UsageError: the folder is a whole system or a home, not an application.
    """
    folder = os.path.realpath(folder)
    if folder == "/" or folder == os.path.realpath(os.path.expanduser("~")):
        raise UsageError("init.too_broad", folder=folder)
    current = os.path.join(folder, "current")
    release = "current" if os.path.islink(current) and os.path.isdir(current) else "."
    tree = walk(folder, release)
    envs = _environments(folder, tree.files, system)
    configs = _configs(tree.files)
    databases = [path for path in tree.files if _is_sqlite(os.path.join(folder, path))]
    services, odd = _supervisor(folder, tree.files, system)
    units, loose = _systemd(folder, tree.files, system)
    services += units
    notices = []
    if not tree.complete:
        notices.append(f"{folder} has more than {MAX_ENTRIES:,} entries: only the first ones were looked at.")
    if release != ".":
        notices.append(
            f"{release} leads to the release: what lies beside it is only taken along as far as it is named."
        )
    if len(configs) > MAX_CONFIGS:
        notices.append(f"Of {len(configs)} configuration files {MAX_CONFIGS} became components; the rest are files.")
    names = _Names()
    configs = configs[:MAX_CONFIGS]
    components = [
        _release(release, tree, names),
        *_components(names, "config", "config", configs, "Compared key by key; restored as a whole file."),
        *_components(names, "env", "environment", envs, "Its values are never shown."),
        *_components(names, "db", "sqlite", databases, "Captured while it is used; restored in place."),
    ]
    migrating = tools(folder, tree.files)
    if len(migrating) == 1 and len(databases) == 1:
        components[-1].options["migrations"] = migrating[0][0]
    components += [
        Found(name, "service", options, "Stopped before data is restored, started after it.")
        for name, options in zip(names.of("services", [*map(_which, services)]), services, strict=True)
    ]
    texts = {path: _read(os.path.join(folder, path)) for path in [*envs, *configs, *_alembic(tree.files)]}
    elsewhere = _databases_elsewhere(texts, migrating[0][0] if len(migrating) == 1 and not databases else None)
    notices += [each.why for each in elsewhere]
    running = [*odd, *loose, *_compose(tree.files)]
    unseen = _not_found(database=bool(databases or elsewhere), service=bool(services or running))
    notices += [each.why for each in unseen]
    suggestions = [*elsewhere, *running, *unseen]
    if not (len(migrating) == 1 and (elsewhere or len(databases) == 1)):
        suggestions += [_migrated(*each) for each in migrating]
    suggestions.append(_health(texts, system))
    return Detected(
        folder=folder,
        name=_app_name(folder),
        components=tuple(components),
        suggestions=tuple(suggestions),
        notices=tuple(notices),
    )


def _app_name(folder: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(folder)).strip("-._")[:64]
    return name or "app"


class _Names:
    """Gives out component names: short where there is one of a sort, telling where there are several."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, sort: str, paths: Sequence[str]) -> list[str]:
        """Return a name for each path."""
        return [self._unused(sort if len(paths) == 1 else _telling(sort, path)) for path in paths]

    def _unused(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self._given:
            name, number = f"{wanted}-{number}", number + 1
        self._given.add(name)
        return name


def _telling(sort: str, path: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", os.path.splitext(path.lstrip("."))[0]).strip("-").lower()
    rest = re.sub(rf"^{sort}(-|$)", "", stem)
    return f"{sort}-{rest}"[:60].rstrip("-")


def _release(release: str, tree: Tree, names: _Names) -> Found:
    exclude = sorted({"__pycache__/", "*.pyc", "*.log", *tree.excluded})
    options: dict[str, Any] = {"path": release, "exclude": [*exclude, "/rfs.toml"] if release == "." else exclude}
    if tree.keep:
        options["keep"] = sorted(tree.keep)
    why = "Everything in the folder that no other component owns, exactly: what was added since is removed."
    (name,) = names.of("release", [release])
    return Found(name, "files", options, why)


def _components(names: _Names, sort: str, kind: str, paths: Sequence[str], why: str) -> list[Found]:
    named = zip(names.of(sort, paths), paths, strict=True)
    return [Found(name, kind, {"path": path}, why) for name, path in named]


# — files by what they are —


def _environments(folder: str, files: Sequence[str], system: str) -> list[str]:
    found = []
    for path in files:
        name = os.path.basename(path)
        dotenv = name == ".env" or name.startswith(".env.") or (name.endswith(".env") and len(name) > 4)
        if dotenv and not name.endswith(ENV_EXAMPLES) and not _below(path, NOT_CONFIGURATION):
            found.append(path)
    for _, text in _installed_units(folder, system):
        for named in re.findall(r"(?m)^\s*EnvironmentFile=-?(/\S+)", text):
            inside = os.path.realpath(named).startswith(folder + "/")
            if os.path.isfile(named) and not inside and named not in found:
                found.append(named)
    return found


def _configs(files: Sequence[str]) -> list[str]:
    found = []
    for path in files:
        folder, name = os.path.split(path.lower())
        stem, extension = os.path.splitext(name)
        if extension not in CONFIG_FORMATS or name in MANIFESTS or name in COMPOSE or name.startswith("."):
            continue
        if name.startswith(("tsconfig", "supervisor")) or _below(path, NOT_CONFIGURATION | UPLOADS):
            continue
        named = CONFIG_WORDS.match(stem) is not None
        top = folder == "" and extension != ".json"
        if named or top or os.path.basename(folder) in CONFIG_FOLDERS:
            found.append(path)
    return found


def _below(path: str, folders: frozenset[str]) -> bool:
    return any(word in folders for word in path.lower().split("/")[:-1])


def _is_sqlite(path: str) -> bool:
    try:
        if os.path.basename(path).startswith(".coverage") or os.stat(path).st_size < 512:
            return False
        with open(path, "rb") as file:
            return file.read(16) == SQLITE_MAGIC
    except OSError:
        return False


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TEXT_BYTES)
    except OSError:
        return b""


def _alembic(files: Sequence[str]) -> list[str]:
    return [path for path in files if os.path.basename(path) == "alembic.ini"]


# — process managers —


def _supervisor(folder: str, files: Sequence[str], system: str) -> tuple[list[dict[str, Any]], list[Suggestion]]:
    """Return the options of a service component for each supervisor found, and what to decide."""
    mains, loose = [], []
    for path in files:
        if path.endswith((".conf", ".ini")):
            text = _read(os.path.join(folder, path))
            if b"[supervisord]" in text:
                mains.append(path)
            elif b"[program:" in text:
                loose.append(path)
    services: list[dict[str, Any]] = []
    odd: list[Suggestion] = []
    included: set[str] = set()
    for main in mains:
        parser, more = _with_includes(os.path.join(folder, main))
        included |= {os.path.relpath(each, folder) for each in more}
        units = _programs(parser)
        reachable = parser.has_section("unix_http_server") or parser.has_section("inet_http_server")
        options = {"manager": "supervisor", "config": main, "units": units}
        if units and reachable:
            services.append(options)
        elif units:
            why = f"{main} has no [unix_http_server] section, so nobody can talk to its supervisor. Add one, then:"
            odd.append(Suggestion(why, _table("services", "service", options)))
    etc = os.path.join(system, "etc")
    patterns = ("supervisor/conf.d/*.conf", "supervisord.d/*.ini", "supervisord.d/*.conf")
    installed = [path for pattern in patterns for path in sorted(glob.glob(os.path.join(etc, pattern)))]
    ours = [path for path in installed if folder.encode() in _read(path)]
    ours += [os.path.join(folder, path) for path in loose if path not in included]
    main = next(
        (p for n in ("supervisor/supervisord.conf", "supervisord.conf") if os.path.isfile(p := os.path.join(etc, n))),
        "",
    )
    units = sorted({unit for path in ours for unit in _programs(_parsed(path))})
    if units and main:
        services.append({"manager": "supervisor", "config": main, "units": units})
    elif units:
        why = f"Programs for supervisor are in {os.path.relpath(ours[0], folder)}, but not its supervisord.conf."
        options = {"manager": "supervisor", "config": "/etc/supervisor/supervisord.conf", "units": units}
        odd.append(Suggestion(f"{why} Name it:", _table("services", "service", options)))
    return services, odd


def _parsed(path: str) -> RawConfigParser:
    parser = RawConfigParser(strict=False, inline_comment_prefixes=(";", " #"))
    try:
        parser.read_string(_read(path).decode("utf-8", errors="replace"))
    except ConfigParserError:
        return RawConfigParser()  # supervisor will not start with it either, and says why
    return parser


def _with_includes(path: str) -> tuple[RawConfigParser, list[str]]:
    parser = _parsed(path)
    here = os.path.dirname(path)
    patterns = parser.get("include", "files", fallback="").replace("%(here)s", here).split()
    more = [each for pattern in patterns for each in sorted(glob.glob(os.path.join(here, pattern)))]
    for each in more:
        for section in (other := _parsed(each)).sections():
            if not parser.has_section(section):
                parser[section] = dict(other[section])
    return parser, more


def _programs(parser: RawConfigParser) -> list[str]:
    grouped: dict[str, str] = {}
    for section in parser.sections():
        if section.startswith("group:"):
            for program in parser.get(section, "programs", fallback="").split(","):
                grouped[program.strip()] = section.removeprefix("group:").strip()
    units = []
    for section in parser.sections():
        if section.startswith("program:"):
            program = section.removeprefix("program:").strip()
            several = parser.get(section, "numprocs", fallback="1").strip() != "1"
            group = grouped.get(program, program if several else "")
            units.append(f"{group}:*" if several else f"{group}:{program}" if group else program)
    return sorted(set(units))


def _which(options: dict[str, Any]) -> str:
    """Return what tells one service component from another."""
    return str(options.get("config") or f"systemd {options.get('scope', '')}".strip())


def _installed_units(folder: str, system: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each unit of systemd that names the folder: the system's, and this user's."""
    own = os.path.expanduser("~/.config/systemd/user").lstrip("/")
    for place in ("etc/systemd/system", own):
        for path in sorted(glob.glob(os.path.join(system, place, "*.service"))):
            # A link of another name is an alias.
            if os.path.basename(os.path.realpath(path)) == os.path.basename(path):
                text = _read(path).decode("utf-8", errors="replace")
                if re.search(re.escape(folder) + r"(/|\s|\"|$)", text):
                    yield path, text


def _systemd(folder: str, files: Sequence[str], system: str) -> tuple[list[dict[str, Any]], list[Suggestion]]:
    """Return the options of a service component for each systemd that has units of this folder, and what to decide."""
    etc = os.path.join(system, "etc/")
    found = [(path.startswith(etc), _unit_name(path)) for path, _ in _installed_units(folder, system)]
    parts = [({}, [name for etc, name in found if etc]), ({"scope": "user"}, [name for etc, name in found if not etc])]
    services = [{"manager": "systemd", **more, "units": units} for more, units in parts if units]
    loose = sorted({_unit_name(path) for path in files if path.endswith(".service")} - {name for _, name in found})
    if services and not os.path.isdir(os.path.join(system, "run/systemd/system")):
        services, loose = [], sorted({*loose, *(name for _, name in found)})
    if not loose or services:
        return services, []
    why = f"{', '.join(loose)} is for systemd, but is not installed here, or systemd does not run here. Once it does:"
    return [], [Suggestion(why, _table("services", "service", {"manager": "systemd", "units": loose}))]


def _unit_name(path: str) -> str:
    name = os.path.basename(path).removesuffix(".service")
    return f"{name}*" if name.endswith("@") else name


def _compose(files: Sequence[str]) -> list[Suggestion]:
    path = next((path for path in files if os.path.basename(path) in COMPOSE), None)
    if path is None:
        return []
    why = (
        f"{path} describes containers. rfs will speak to Docker Compose itself in a later release;\n"
        "until then its commands do. Data in volumes is not captured."
    )
    docker = ["docker", "compose", "-f", path]
    # `ps` ends with 0 whether something runs or not: what counts is whether it prints anything.
    running = f"{shlex.join(docker)} ps --quiet --status=running | grep -q ."
    options = {
        "manager": "command",
        "start": [*docker, "start"],
        "stop": [*docker, "stop"],
        "status": ["sh", "-c", running],
    }
    return [Suggestion(why, _table("containers", "service", options))]


def _table(name: str, kind: str, options: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"[components.{name}]",
        f'kind = "{kind}"',
        *(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in options.items()),
    )


# — what is elsewhere —


def _databases_elsewhere(texts: dict[str, bytes], migrations: str | None) -> list[Suggestion]:
    found: dict[str, Suggestion] = {}
    for path, text in texts.items():
        for match in DATABASES.finditer(text):
            sort = DATABASE_NAMES[match[2]]
            url = f"env:{match[1].decode() if match[1] else 'DATABASE_URL'}"
            options = {"url": url, **({"migrations": migrations} if migrations else {})}
            lines = _table("database", "postgresql", options) if sort == "PostgreSQL" else ()
            known = "A rollback leaves it as it is until rfs.toml has a component for it."
            why = known if lines else "This release does not capture it: a rollback leaves it as it is."
            found.setdefault(sort, Suggestion(f"{path} names a {sort} database. {why}", lines))
    return [*found.values()]


def _not_found(*, database: bool, service: bool) -> list[Suggestion]:
    """Return what to add where one was not found: silence about it would look like an answer.

    Args:
        database: whether one was found, or named somewhere.
        service: likewise.
    """
    found = []
    if not database:
        why = "No database was found. A rollback leaves one as it is until rfs.toml has a component for it."
        found.append(Suggestion(why, _table("database", "postgresql", {"url": "env:DATABASE_URL"})))
    if not service:
        why = "No service was found. What runs is not stopped by a rollback until rfs.toml has a component for it."
        found.append(Suggestion(why, _table("services", "service", {"manager": "systemd", "units": ["NAME.service"]})))
    return found


def _migrated(path: str, tool: str) -> Suggestion:
    return Suggestion(
        f"{tool} migrates a database. Tell that one's component:",
        (f"migrations = {msgspec.json.encode(path).decode()}",),
    )


def _health(texts: dict[str, bytes], system: str) -> Suggestion:
    ports = [int(number) for text in texts.values() for number in PORT.findall(text)]
    ports = [port for port in ports if 0 < port < 65536 and port not in OTHERS_PORTS]
    listening = _listening(system)
    port = next((port for port in ports if port in listening), ports[0] if ports else 8000)
    why = "A rollback is only as sure as what it can check. A required check that fails turns it back."
    lines = ("[[health]]", 'name = "http"', f'http = "http://127.0.0.1:{port}/health"', "required = true")
    return Suggestion(why, lines)


def _listening(system: str) -> set[int]:
    ports = set()
    for table in ("proc/net/tcp", "proc/net/tcp6"):
        for line in _read(os.path.join(system, table)).decode("ascii", errors="replace").splitlines()[1:]:
            words = line.split()
            if len(words) > 3 and words[3] == "0A":
                ports.add(int(words[1].rpartition(":")[2], 16))
    return ports
