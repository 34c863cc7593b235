"""rfs.toml to typed settings: every key is known, every value is checked, nothing is ignored.

The keys of a component that belong to its driver, and the health checks, are handed on as
they stand; the driver and health.py check them with `convert_table`, so that all complaints
about rfs.toml read alike.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import NotFoundError, UsageError
from rfs.production.rollback.instances import Instances, InstancesTable, InToml, of_each
from rfs.production.rollback.plan import Policy
from rfs.production.rollback.retention import DEFAULT, Retention
from rfs.production.rollback.secret import absolute

FILE_NAME = "rfs.toml"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

# Fields that hold seconds, and that rfs.toml may write as "5m".
DURATIONS: dict[type[msgspec.Struct], tuple[str, ...]] = {
    Policy: ("max_rollback_time", "recovery_time", "bake", "misfire_grace"),
    Retention: ("keep_within",),
}

T = TypeVar("T", bound=msgspec.Struct)


class ComponentTable(InToml, frozen=True, kw_only=True):
    """One `[components.NAME]`."""

    kind: str


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`path`: absolute folder of the store. `key`: absolute path of its key file."""

    path: str
    key: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What rfs.toml says.

    Attributes:
        path: absolute path of rfs.toml.
        home: its folder; relative paths in it are relative to that.
        name: the application's name.
        health, hooks, schedules, conditions, freeze, external: the `[[health]]`, `[[hooks]]`, … tables as they stand.
        approvals, metrics: the `[approvals]` and `[metrics]` tables as they stand, or None.
        track: the `[track]` table as it stands, or None.
    """

    path: str
    home: str
    name: str
    components: tuple[ComponentTable, ...]
    store: StoreSettings
    health: tuple[dict[str, Any], ...] = ()
    hooks: tuple[dict[str, Any], ...] = ()
    schedules: tuple[dict[str, Any], ...] = ()
    notify: tuple[dict[str, Any], ...] = ()
    approvals: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    freeze: tuple[dict[str, Any], ...] = ()
    external: tuple[dict[str, Any], ...] = ()
    track: dict[str, Any] | None = None
    conditions: tuple[dict[str, Any], ...] = ()
    policy: Policy = Policy()
    retention: Retention = DEFAULT
    instances: Instances | None = None


class AppTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The application.

    Attributes:
        name: what it is called; letters, digits, ".", "_" and "-".
    """

    name: str


class StoreTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where checkpoints are kept.

    Attributes:
        path: the folder, relative to rfs.toml.
        key: "file:PATH" of the key file, which `rfs init` makes.
    """

    path: str = ".rfs"
    key: str | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The top level of rfs.toml, as written; the JSON Schema is made from it."""

    app: AppTable
    components: dict[str, dict[str, Any]] = {}
    store: StoreTable = StoreTable()
    health: list[dict[str, Any]] = []
    hooks: list[dict[str, Any]] = []
    schedules: list[dict[str, Any]] = []
    notify: list[dict[str, Any]] = []
    approvals: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    freeze: list[dict[str, Any]] = []
    external: list[dict[str, Any]] = []
    track: dict[str, Any] | None = None
    conditions: list[dict[str, Any]] = []
    policy: Policy = Policy()
    retention: Retention = DEFAULT
    instances: InstancesTable | None = None


def find(start: str) -> str:
    """Return the path of the rfs.toml in `start` or the nearest folder above it.

    Raises:
        NotFoundError: there is none.
    """
    folder = os.path.abspath(start)
    while True:
        path = os.path.join(folder, FILE_NAME)
        if os.path.lexists(path):
            return path
        above = os.path.dirname(folder)
        if above == folder:
            raise NotFoundError("app.none", where=os.path.abspath(start))
        folder = above


def load(path: str) -> Settings:
    """Return the settings in the file at `path`.

    Raises:
        UsageError: it cannot be read or trusted, or something in it is not right; the text names the key.
    """
    path = os.path.abspath(path)
    return parse(_read_trusted(path), path)


def parse(text: str, path: str) -> Settings:
    """Return the settings that `text` describes, as if it stood in the file at `path` (absolute)."""
    document = Source(path, text)
    tables = document.tables()
    document.known_keys(tables, Document.__struct_fields__, ())
    if "app" not in tables:
        document.bad(("app",), 'it is missing; begin with [app] and name = "…"')
    app = document.convert(tables["app"], AppTable, ("app",))
    _checked_name(document, app.name, ("app", "name"))
    home = os.path.dirname(path)
    components = _components(document, tables.get("components", {}))
    health = _tables(document, tables, "health")
    instances = None
    if "instances" in tables:
        table = document.convert(tables["instances"], InstancesTable, ("instances",))
        try:
            instances, components, health = of_each(table, components, health)
        except ValueError as error:
            document.bad(("instances",), str(error))
        for name in instances.components:
            _checked_name(document, name, ("components", name))
    return Settings(
        path=path,
        home=home,
        name=app.name,
        components=components,
        store=_store(document, tables.get("store", {}), app.name, home),
        health=health,
        hooks=_tables(document, tables, "hooks"),
        schedules=_tables(document, tables, "schedules"),
        notify=_tables(document, tables, "notify"),
        approvals=_table(document, tables, "approvals"),
        metrics=_table(document, tables, "metrics"),
        freeze=_tables(document, tables, "freeze"),
        external=_tables(document, tables, "external"),
        track=_table(document, tables, "track"),
        conditions=_tables(document, tables, "conditions"),
        policy=_policy(document, tables.get("policy", {})),
        retention=_retention(document, tables.get("retention")),
        instances=instances,
    )


def _read_trusted(path: str) -> str:
    """Return the file's text. Its commands are run, so nobody else may be able to write it."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
    except FileNotFoundError as error:
        raise NotFoundError("settings.missing", path=path) from error
    except OSError as error:
        raise UsageError("settings.unreadable", path=path, why=error.strerror) from error
    if stat.S_IMODE(mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError("settings.writable", path=path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError("settings.syntax", path=path, why=f"line {line} is not UTF-8") from error


# — the tables —


def _checked_name(document: Source, name: str, where: Where) -> None:
    # Names become folder names, and words of step ids that are joined by ":" and ",".
    if not re.match(NAME_PATTERN, name):
        document.bad(where, f'"{name}" may only have letters, digits, ".", "_" and "-" (64 at most)')


def _components(document: Source, tables: Any) -> tuple[ComponentTable, ...]:
    if not isinstance(tables, dict):
        document.bad(("components",), "it takes tables: [components.NAME]")
    found = []
    for name, table in tables.items():
        where = ("components", name)
        _checked_name(document, name, where)
        if not isinstance(table, dict):
            document.bad(where, f"it takes a table: [components.{name}]")
        if "kind" not in table:
            document.bad((*where, "kind"), 'it is missing; write kind = "files", for example')
        head = document.convert(
            {key: table[key] for key in ("kind", "depends_on") if key in table}, ComponentHead, where
        )
        options = {key: value for key, value in table.items() if key not in ("kind", "depends_on")}
        found.append(ComponentTable(name=name, kind=head.kind, depends_on=head.depends_on, options=options))
    for component in found:
        for other in component.depends_on:
            if other not in tables:
                place = ("components", component.name, "depends_on")
                meant = _closest(other, tables)
                document.bad(place, f'there is no component called "{other}"' + (f" ({meant}?)" if meant else ""))
    return tuple(found)


class ComponentHead(msgspec.Struct, frozen=True):
    """What every component has.

    Attributes:
        kind: which driver looks after it.
        depends_on: components that are captured and restored before it.
    """

    kind: str
    depends_on: tuple[str, ...] = ()


def _store(document: Source, table: Any, name: str, home: str) -> StoreSettings:
    if isinstance(table, dict) and "mirror" in table:
        document.later(("store", "mirror"))
    written = document.convert(table, StoreTable, ("store",))
    path = absolute(written.path, home)
    if written.key is None:
        return StoreSettings(path=path, key=default_key(name, home))
    scheme, _, rest = written.key.partition(":")
    if scheme in ("env", "cmd"):
        why = "the key is a file that rfs makes and guards; write file:PATH"
        document.bad(("store", "key"), why)
    return StoreSettings(path=path, key=absolute(rest if scheme == "file" else written.key, home))


def default_key(name: str, home: str) -> str:
    """Return where the key of an application goes that names none: outside of its store and its folder.

    Args:
        name: the application's.
        home: absolute folder of its rfs.toml; two applications of one name get two keys.
    """
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):
        folder = os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(folder, "rfs", f"{name}-{place_id(home)}.key")


def place_id(home: str) -> str:
    """Return eight hexadecimal digits that tell applications of one name apart by their folder."""
    from hashlib import sha256  # only a settings file without [store] key needs it

    return sha256(os.fsencode(os.path.realpath(home))).hexdigest()[:8]


def _tables(document: Source, top: Mapping[str, Any], name: str) -> tuple[dict[str, Any], ...]:
    tables = top.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        document.bad((name,), f"it takes tables: [[{name}]]")
    return tuple(tables)


def _table(document: Source, top: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    table = top.get(name)
    if not (table is None or isinstance(table, dict)):
        document.bad((name,), f"it takes a table: [{name}]")
    return table


def _policy(document: Source, table: Any) -> Policy:
    policy = document.convert(table, Policy, ("policy",))
    for key in ("max_rollback_time", "recovery_time"):
        if getattr(policy, key) <= 0:
            document.bad(("policy", key), "it must be longer than nothing")
    return policy


def policy_of(given: Policy | Mapping[str, Any]) -> Policy:
    """Return a policy that a program gives instead of `[policy]`; times are seconds, or texts such as "5m".

    Raises:
        UsageError: a key is unknown, a value is not right, or this release does not do it yet.
    """
    return _policy(Source("policy", ""), msgspec.to_builtins(given) if isinstance(given, Policy) else dict(given))


def _retention(document: Source, table: Any) -> Retention:
    if table is None:
        return DEFAULT
    policy = document.convert(table, Retention, ("retention",))
    for key in Retention.__struct_fields__:
        value = getattr(policy, key)
        if isinstance(value, int) and value < 0:
            document.bad(("retention", key), "it is negative; 0 switches the rule off")
    if policy.keeps_nothing:
        document.bad(("retention",), "it keeps nothing; write keep_last = 10, for example, or leave the table out")
    return policy


# — complaining —

Where = tuple[str | int, ...]


class Source:
    """The file that values came from, for complaints that name the key and its line."""

    def __init__(self, path: str, text: str | None = None) -> None:
        self.path = path
        self._text = text

    def tables(self) -> dict[str, Any]:
        """Return the parsed TOML."""
        import tomllib

        try:
            return tomllib.loads(self._text or "")
        except tomllib.TOMLDecodeError as error:
            raise UsageError("settings.syntax", path=self.path, why=_lower_first(str(error))) from error

    def convert(self, table: Any, kind: type[T], where: Where) -> T:
        """Return `table` as a `kind` (a msgspec struct), with what DURATIONS names read as seconds.

        Raises:
            UsageError: a key is unknown or missing, or a value is of the wrong type.
        """
        if not isinstance(table, Mapping):
            self.bad(where, f"it takes a table: [{dotted(where)}]")
        self.known_keys(table, [field.encode_name for field in msgspec.structs.fields(kind)], where)
        table = dict(table)
        for key in DURATIONS.get(kind, ()):
            if key in table:
                try:
                    table[key] = parse_duration(table[key])
                except ValueError as error:
                    self.bad((*where, key), str(error))
        try:
            return msgspec.convert(table, kind)
        except msgspec.ValidationError as error:
            place, why = explain(error)
            self.bad((*where, *place), why)

    def known_keys(self, table: Mapping[str, Any], known: Sequence[str], where: Where) -> None:
        """Refuse a key that is not among `known`, with what was probably meant."""
        for key in table:
            if key not in known:
                meant = _closest(key, known)
                raise UsageError(
                    "settings.unknown_key",
                    path=self.path,
                    key=f"{dotted((*where, key))}{self.line((*where, key))}",
                    suggestion=f"Did you mean {meant}?" if meant else f"Known here: {', '.join(known)}.",
                )

    def bad(self, where: Where, why: str) -> NoReturn:
        """Raise UsageError about a value."""
        raise UsageError("settings.value", path=self.path, key=f"{dotted(where)}{self.line(where)}", why=why)

    def later(self, where: Where) -> NoReturn:
        """Raise UsageError about something that this release does not do yet."""
        raise UsageError("settings.later", path=self.path, key=f"{dotted(where)}{self.line(where)}")

    def line(self, where: Where) -> str:
        """Return " (line N)" of the key, or of what holds it; "" where it cannot be told cheaply."""
        if self._text is None:
            try:
                with open(self.path, encoding="utf-8") as file:
                    self._text = file.read()
            except (OSError, UnicodeDecodeError):
                return ""
        for length in range(len(where), 0, -1):
            if number := _line_of(self._text, where[:length]):
                return f" (line {number})"
        return ""


def convert_table(settings: Settings, table: Mapping[str, Any], kind: type[T], where: Where) -> T:
    """Return a table of rfs.toml as a `kind`, for the rooms whose tables settings hands on as they stand.

    Args:
        table: as in `ComponentTable.options` or `Settings.health`.
        kind: a msgspec struct.
        where: its place, such as ("components", "web") or ("health", 0), counted from 0.

    Raises:
        UsageError: a key is unknown or missing, or a value is of the wrong type.
    """
    return Source(settings.path).convert(table, kind, where)


def dotted(where: Where) -> str:
    """Return a place in rfs.toml as people write it: components.web.units, health[2].http."""
    text = ""
    for word in where:
        text += f"[{word + 1}]" if isinstance(word, int) else f".{word}"
    return text.removeprefix(".")


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


def explain(error: msgspec.ValidationError) -> tuple[Where, str]:
    """Return (the place below the table, what is wrong) of a validation error, in words of rfs.toml."""
    text, _, place = str(error).partition(" - at `$")
    where = tuple(int(index) if index else name for name, index in re.findall(r"\.([\w-]+)|\[(\d+)\]", place))
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", text)
    if unknown:
        return (*where, unknown[1]), "rfs does not know this key"
    missing = re.fullmatch(r"Object missing required field `(.+)`", text)
    if missing:
        return (*where, missing[1]), "it is missing"
    wrong = re.fullmatch(r"Expected `(.+)`, got `(.+)`", text)
    if wrong:
        wanted = " or ".join(_WORDS.get(word, word) for word in wrong[1].split(" | ") if word != "null")
        return where, f"it takes {wanted}, not {_WORDS.get(wrong[2], wrong[2])}"
    return where, _lower_first(text.replace("`", ""))


def _closest(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # only a complaint needs it

    return next(iter(get_close_matches(word, list(known), n=1)), "")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _line_of(text: str, where: Where) -> int:
    header: Where = ()
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        table = re.match(r"\s*(\[\[?)\s*([^\]#]+?)\s*\]", line)
        key = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if table:
            words = _split(table[2])
            header = words
            if table[1] == "[[":
                header = (*words, seen.get(words, 0))
                seen[words] = seen.get(words, 0) + 1
            if header[: len(where)] == where:
                return number
        elif key and (*header, *_split(key[1]))[: len(where)] == where:
            return number
    return 0


def _split(dotted_key: str) -> tuple[str, ...]:
    return tuple(word.strip().strip("\"'") for word in dotted_key.split("."))
