"""`[instances]`: one application that runs several times on a host, and the waves in which these are rolled back. Pure.

What holds `{instance}` in rfs.toml exists once for each of them: `[components.web]` becomes the components `web.web0`,
`web.web1`, …. Everything else they share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from rfs.production.rollback.duration import Duration, parse_duration

PLACE = "{instance}"
_PERCENT = re.compile(r"(\d{1,3})\s*%", re.ASCII)

Share = int | str


class InToml(msgspec.Struct, frozen=True, kw_only=True):
    """One `[components.NAME]`, as far as it may belong to an instance; `options` are the keys of its driver."""

    name: str
    depends_on: tuple[str, ...] = ()
    options: dict[str, Any] = {}


C = TypeVar("C", bound=InToml)


class TrafficTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[instances.traffic]`: the HAProxy before the instances.

    Attributes:
        haproxy: path of its runtime socket, of level admin.
        backend: its backend.
        server: the name of an instance's server there.
        drain: how long requests under way are waited for.
    """

    haproxy: str
    backend: str
    server: str = PLACE
    drain: Duration = 30

    def __post_init__(self) -> None:
        parse_duration(self.drain)
        if PLACE not in self.server:
            why = f"server takes a name with {PLACE} in it"
            raise ValueError(why)


class InstancesTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[instances]`.

    Attributes:
        names: of the instances, in the order in which they are rolled back.
        waves: how many are rolled back after each wave, from the first one on: numbers, or shares such as "25%".
            The last one is all of them.
        max_unavailable: how many may be down at once, a number or a share.
        bake: how long a wave must stay healthy before the next one begins.
        on_failure: what a wave that fails means: "pause" waits for a person, "continue" goes on with the others,
            "revert" takes those back that are done.
        traffic: what sends the requests.
    """

    names: tuple[str, ...]
    waves: tuple[Share, ...] = (1, "25%", "100%")
    max_unavailable: Share = 1
    bake: Duration = 0
    on_failure: Literal["pause", "continue", "revert"] = "pause"
    traffic: TrafficTable | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("names is empty")
        if len(set(self.names)) < len(self.names):
            raise ValueError("names holds a name twice")
        parse_duration(self.bake)
        counted(self.max_unavailable, len(self.names))
        in_waves(self.names, self.waves)


class Instances(msgspec.Struct, frozen=True, kw_only=True):
    """What exists once for each instance: components and health checks by name, each with its instance."""

    table: InstancesTable
    components: dict[str, str] = {}
    checks: dict[str, str] = {}

    def of(self, names: Collection[str]) -> list[str]:
        """Return the instances that some components belong to, in their order."""
        found = {self.components[name] for name in names if name in self.components}
        return [instance for instance in self.table.names if instance in found]

    def checked_with(self, check: str, components: Collection[str]) -> bool:
        """Tell whether a health check is about some components: of an instance that takes no part, none is.

        That one may be ill, which is why it is rolled back.
        """
        return check not in self.checks or self.checks[check] in self.of(components)

    def shared(self, names: Collection[str]) -> list[str]:
        """Return those of some components that belong to no single instance."""
        return [name for name in names if name not in self.components]


def counted(share: Share, of: int) -> int:
    """Return a number of instances, at least one; a share is rounded up.

    Raises:
        ValueError: it is neither a number above 0 nor a share.
    """
    if isinstance(share, int) and not isinstance(share, bool) and share > 0:
        return min(share, of)
    match = _PERCENT.fullmatch(str(share).strip())
    if match is None or not 0 < int(match[1]) <= 100:
        why = f'{share!r} is no number of instances; write 1, or "25%"'
        raise ValueError(why)
    return math.ceil(of * int(match[1]) / 100)


def in_waves(names: Sequence[str], waves: Sequence[Share]) -> list[tuple[str, ...]]:
    """Return the instances of each wave: each instance once, in their order, and no wave empty.

    Raises:
        ValueError: a wave is no number, or there would be fewer after it than before.
    """
    found: list[tuple[str, ...]] = []
    done = before = 0
    for share in waves:
        until = counted(share, len(names))
        if until < before:
            why = f"waves go up: {share!r} is less than what comes before it"
            raise ValueError(why)
        before = until
        if until > done:
            found.append(tuple(names[done:until]))
            done = until
    if done < len(names):
        found.append(tuple(names[done:]))
    return found


def belongs_to_each(value: Any) -> bool:
    """Tell whether something in rfs.toml is meant for each instance."""
    if isinstance(value, str):
        return PLACE in value
    if isinstance(value, Mapping):
        return any(belongs_to_each(each) for each in value.values())
    return isinstance(value, list | tuple) and any(belongs_to_each(each) for each in value)


def filled(value: Any, instance: str) -> Any:
    """Return something in rfs.toml as it is for one instance."""
    if isinstance(value, str):
        return value.replace(PLACE, instance)
    if isinstance(value, Mapping):
        return {key: filled(each, instance) for key, each in value.items()}
    return [filled(each, instance) for each in value] if isinstance(value, list | tuple) else value


def expanded_names(names: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """Return component names with those that stand for one of each instance replaced by these."""
    found: list[str] = []
    for name in names:
        each = [other for other in available if other.startswith(f"{name}.")] if name not in available else []
        found += each or [name]
    return tuple(dict.fromkeys(found))


def of_each(
    table: InstancesTable, components: Sequence[C], health: Sequence[Mapping[str, Any]]
) -> tuple[Instances, tuple[C, ...], tuple[dict[str, Any], ...]]:
    """Return the instances, and the components and health checks with those of each where they are written once.

    Raises:
        ValueError: nothing belongs to each, or two would have one name.
    """
    found, belongs = expand(table, components)
    if not belongs:
        why = f"no component has {PLACE} in it, so that there is nothing of each"
        raise ValueError(why)
    names = [component.name for component in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        why = f"there would be two components called {twice[0]}"
        raise ValueError(why)
    checks, whose = expand_checks(table, health)
    return Instances(table=table, components=belongs, checks=whose), found, checks


def expand(table: InstancesTable, components: Sequence[C]) -> tuple[tuple[C, ...], dict[str, str]]:
    """Return the components, those that belong to each instance once for each, and the instance of these."""
    each = {component.name for component in components if belongs_to_each(component.options)}
    belongs: dict[str, str] = {}
    found: list[C] = []
    for component in components:
        if component.name not in each:
            needs = expanded_names(component.depends_on, [f"{name}.{i}" for name in each for i in table.names])
            found.append(msgspec.structs.replace(component, depends_on=needs))
            continue
        for instance in table.names:
            name = f"{component.name}.{instance}"
            belongs[name] = instance
            needs = tuple(f"{other}.{instance}" if other in each else other for other in component.depends_on)
            own = filled(component.options, instance)
            found.append(msgspec.structs.replace(component, name=name, options=own, depends_on=needs))
    return tuple(found), belongs


def expand_checks(
    table: InstancesTable, checks: Sequence[Mapping[str, Any]]
) -> tuple[tuple[dict[str, Any], ...], dict[str, str]]:
    """Return the health checks, those that belong to each instance once for each, and the instance of these."""
    found: list[dict[str, Any]] = []
    belongs: dict[str, str] = {}
    for check in checks:
        if not belongs_to_each(check):
            found.append(dict(check))
            continue
        for instance in table.names:
            own = filled(check, instance)
            name = str(check.get("name", ""))
            if PLACE not in name:
                own["name"] = f"{name}.{instance}"
            belongs[own["name"]] = instance
            found.append(own)
    return tuple(found), belongs
