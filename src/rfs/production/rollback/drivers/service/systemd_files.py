"""Which files on the disk define a unit of systemd, whatever systemd has in memory.

In memory is what the files said when systemd last read them. In the middle of a restore, and after an edit
without `systemctl daemon-reload`, that is something else: so the folders are looked through as systemd would.
"""

from __future__ import annotations

import glob
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property

from rfs.production.rollback.drivers.service.manager import Places

TRIGGERS = (".socket", ".timer", ".path")
_SUFFIX = re.compile(r"\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope)\Z")
# What systemd writes itself, anew each time that it reads units.
_MADE = re.compile(r"/(generator(\.early|\.late)?|transient)\Z")
_DEPENDENCIES = (".wants", ".requires", ".upholds")
_GLOB = re.compile(r"[*?\[]")
_SPECIFIER = re.compile(r"%(.)")


def full_name(name: str) -> str:
    """Return the name of a unit with its suffix, ".service" when there is none."""
    return name if _SUFFIX.search(name) else f"{name}.service"


def is_pattern(name: str) -> bool:
    """Tell whether a name stands for several units."""
    return _GLOB.search(name) is not None


def template_of(name: str) -> str | None:
    """Return "a@.service" for "a@1.service"; None for what is no instance."""
    before, at, after = name.partition("@")
    instance, dot, suffix = after.rpartition(".")
    return f"{before}@{dot}{suffix}" if at and instance else None


class UnitFiles:
    """The unit files in some folders.

    Args:
        folders: that systemd reads, the most important first.
        user: whether it is the user's own systemd.
    """

    def __init__(self, folders: Iterable[str], *, user: bool) -> None:
        # /lib is /usr/lib on many machines, and systemd names both.
        once = {os.path.realpath(folder): folder for folder in reversed(list(folders))}
        self._folders = [folder for folder in reversed(once.values()) if not _MADE.search(folder)]
        self._real = {*once, *self._folders}
        self._user = user

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """Return the names of the units and templates on the disk that match shell patterns. Sorted."""
        names = {name for folder in self._folders for name in self._entries[folder] if _SUFFIX.search(name)}
        names |= {os.path.basename(link) for link in self._dependencies}
        return sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))

    def beside(self, names: Collection[str]) -> list[str]:
        """Return the sockets, timers and paths on the disk that start one of these units, without those among them.

        Of those that came with the system's packages, only the ones that bear the unit's name.
        """
        stems = [name.removesuffix(".service") for name in names if name.endswith(".service")]
        maybe = {stem + suffix for stem in stems for suffix in TRIGGERS}
        maybe |= {name for name in self.known() if name.endswith(TRIGGERS) and "@." not in name}
        return sorted(name for name in maybe if name not in names and self.started_by(name) & {*names})

    def started_by(self, trigger: str) -> set[str]:
        """Return the units that a socket, a timer or a path on the disk starts."""
        read = self._effective(trigger)
        if not read:
            return set()
        named = [value for path in read for key in ("Unit", "Service") for value in _assignments(path, key) if value]
        stem, _, _ = trigger.rpartition(".")
        return {(self._expanded(named[-1], trigger) if named else None) or f"{stem}.service"}

    def drop_ins(self, name: str) -> list[str]:
        """Return the drop-ins that count for a unit, in their order; those for all services of the machine left out."""
        # Sorted by their own name; of equal names that in the more special folder counts.
        found: dict[str, str] = {}
        for each in self._ordered(name):
            for path in self._drop_ins([each, *_related(each, template_of(each))]):
                found.setdefault(os.path.basename(path), path)
        return [path for _, path in sorted(found.items()) if not _leads_nowhere(path)]

    def known(self) -> list[str]:
        """Return the names of all units that an administrator wrote. Sorted."""
        ours = [folder for folder in self._folders if not folder.startswith(("/lib/", "/usr/"))]
        return sorted({name for folder in ours for name in self._entries[folder] if _SUFFIX.search(name)})

    def places(self, names: Collection[str]) -> Places:
        """Return where the files lie that define these units, and those that they name for their environment."""
        files: set[str] = set()
        links: set[str] = set()
        shared: set[str] = set()
        for name in names:
            if "@." in name:
                shared |= {*self._candidates(name), *self._drop_ins([name])}
                continue
            every = self._names(name)
            for each in every:
                template = template_of(each)
                found = {*self._candidates(each), *self._drop_ins([each])}
                links |= {path for path in found if _leads_nowhere(path)}
                files |= {path for path in found if not _leads_nowhere(path)}
                shared |= {*self._candidates(template), *self._drop_ins(_related(each, template))}
            links |= {link for link in self._dependencies if os.path.basename(link) in every}
            links |= self._aliases(every)
            shared |= set(self.environment_files(name))
        folders = {*self._folders, *self._inner_folders, *map(os.path.dirname, (*files, *links, *shared))}
        return Places(
            files=tuple(sorted(files - links)),
            links=tuple(sorted(links)),
            shared=tuple(sorted(shared - files - links)),
            folders=tuple(sorted(folders)),
        )

    # — finding —

    @cached_property
    def _entries(self) -> dict[str, list[str]]:
        return {folder: _listed(folder) for folder in self._folders}

    @cached_property
    def _inner_folders(self) -> list[str]:
        """The folders of drop-ins and of links that enable units."""
        ends = (*_DEPENDENCIES, ".d")
        return [os.path.join(f, name) for f in self._folders for name in self._entries[f] if name.endswith(ends)]

    @cached_property
    def _dependencies(self) -> list[str]:
        """The links that enable units: "multi-user.target.wants/web.service"."""
        return [
            os.path.join(folder, name)
            for folder in self._inner_folders
            if folder.endswith(_DEPENDENCIES)
            for name in _listed(folder)
        ]

    @cached_property
    def _links(self) -> dict[str, str]:
        """The names that links in the folders give to other units there, by path. A link that leads out defines one."""
        paths = [os.path.join(f, name) for f in self._folders for name in self._entries[f] if _SUFFIX.search(name)]
        found = {}
        for path in paths:
            if os.path.islink(path):
                folder, name = os.path.split(os.path.join(os.path.dirname(path), os.readlink(path)))
                if os.path.normpath(folder) in self._real:
                    found[path] = name
        return found

    def _names(self, name: str) -> set[str]:
        """Return a unit's names: its own, what it is an alias of, and the aliases that links on the disk give it."""
        found = {name}
        while True:
            more = {target for path, target in self._links.items() if os.path.basename(path) in found}
            more |= {os.path.basename(path) for path in self._aliases(found)}
            # A template is no name of its instance: it has other instances.
            more = {each for each in more if _SUFFIX.search(each) and "@." not in each}
            if more <= found:
                return found
            found |= more

    def _aliases(self, names: Collection[str]) -> set[str]:
        return {path for path, target in self._links.items() if target in names and os.path.basename(path) != target}

    def _candidates(self, name: str | None) -> list[str]:
        return [os.path.join(folder, name) for folder in self._folders if name and name in self._entries[folder]]

    def _drop_ins(self, names: Iterable[str]) -> list[str]:
        return [
            os.path.join(folder, f"{name}.d", file)
            for name in names
            for folder in self._folders
            if f"{name}.d" in self._entries[folder]
            for file in _listed(os.path.join(folder, f"{name}.d"))
            if file.endswith(".conf")
        ]

    # — what a unit says —

    def _ordered(self, name: str) -> list[str]:
        return sorted(self._names(name), key=lambda one: (one != name, one))

    def _effective(self, name: str) -> list[str]:
        """Return the files that systemd would read for a unit, in order; none when there is no such unit."""
        names = self._ordered(name)
        fragments = [path for each in names for path in self._candidates(each)] or [
            path for each in names for path in self._candidates(template_of(each))
        ]
        return [fragments[0], *self.drop_ins(name)] if fragments else []

    def environment_files(self, name: str) -> list[str]:
        """Return the absolute paths that a unit's EnvironmentFile= stands for, also of what is not there."""
        read = self._effective(name)
        values: list[str] = []
        for path in read:
            for value in _assignments(path, "EnvironmentFile"):
                values = [*values, value] if value else []
        found: list[str] = []
        for value in values:
            path = self._expanded(value.removeprefix("-"), name) or ""
            if os.path.isabs(path):
                # A pattern that nothing matches stands for nothing.
                found += sorted(map(os.path.normpath, glob.glob(path) if is_pattern(path) else [path]))
        return found

    def _expanded(self, text: str, name: str) -> str | None:
        """Return a text with systemd's specifiers replaced; None when it has one that cannot be told here."""
        values = self._specifiers(name)
        if any(letter not in values for letter in _SPECIFIER.findall(text)):
            return None
        return _SPECIFIER.sub(lambda found: values[found[1]], text)

    def _specifiers(self, name: str) -> dict[str, str]:
        stem, _, _ = name.rpartition(".")
        prefix, _, instance = stem.partition("@")
        home = os.path.expanduser("~") if self._user else "/root"
        xdg = {
            "E": os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config",
            "S": os.environ.get("XDG_STATE_HOME") or f"{home}/.local/state",
            "C": os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache",
            "t": os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}",
        }
        system = {"E": "/etc", "S": "/var/lib", "C": "/var/cache", "t": "/run"}
        return {
            "%": "%",
            "n": name,
            "N": stem,
            "p": prefix,
            "P": _unescaped(prefix),
            "j": prefix.rpartition("-")[2],
            "J": _unescaped(prefix.rpartition("-")[2]),
            "i": instance,
            "I": _unescaped(instance),
            "f": "/" + _unescaped(instance or prefix).lstrip("/"),
            "h": home,
            **({} if self._user else {"u": "root", "U": "0"}),
            "H": socket.gethostname(),
            **(xdg if self._user else system),
        }


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []  # most of the folders that systemd would read are not there


def _related(name: str, template: str | None) -> list[str]:
    """Return the names whose drop-ins a unit shares with others: of its template, and "a-" of "a-b"."""
    stem, _, suffix = name.rpartition(".")
    prefix, at, instance = stem.partition("@")
    related = [template] if template else []
    while "-" in prefix.rstrip("-"):
        prefix = prefix.rstrip("-").rpartition("-")[0] + "-"
        related += [f"{prefix}@{instance}.{suffix}", f"{prefix}@.{suffix}"] if at and instance else []
        related.append(f"{prefix}.{suffix}")
    return related


def _leads_nowhere(path: str) -> bool:
    """Tell whether a unit file is masked: a link to /dev/null."""
    return os.path.islink(path) and os.path.realpath(path) == os.devnull


def _assignments(path: str, key: str) -> Iterator[str]:
    """Yield the values that a unit file gives to a key, in order."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError:
        return
    whole = ""
    for line in text.splitlines():
        stripped = line.strip()
        # A comment may stand between the lines of a value.
        if stripped.startswith(("#", ";")):
            continue
        whole += stripped
        if whole.endswith("\\"):
            whole = whole[:-1] + " "
            continue
        name, equals, value = whole.partition("=")
        whole = ""
        if equals and name.strip() == key:
            yield value.strip()


def _unescaped(text: str) -> str:
    """Return what systemd-escape(1) made this of."""
    encoded = os.fsencode(text.replace("-", "/"))
    return os.fsdecode(re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), encoded))
