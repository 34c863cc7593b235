"""`[[conditions]]`: what is measured, when it is too bad, and what is done then. Where it is measured: sources/."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Literal, NamedTuple, NoReturn

import msgspec

from rfs.production.rollback.conditions import ConditionalRollback, Outcome
from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import NotFoundError
from rfs.production.rollback.settings import NAME_PATTERN, Settings, Source, Where
from rfs.production.rollback.sources import SPECS, SourceContext, SourceSpec, open_source, parse_source

_BOUND = re.compile(r"\s*([<>])\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*", re.ASCII)
_LONGEST = 366 * 86_400.0
_DURATIONS = ("lasting", "interval", "initial_delay", "cooldown", "window", "timeout")


class ConditionTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[conditions]]` table, without the keys that say where it is measured.

    Attributes:
        name: what it is called; letters, digits, ".", "_" and "-".
        trip: "> 0.05" or "< 10": it is too bad strictly beyond that.
        clear: "< 0.02" or "> 20": how far it must come back to be well again; the threshold of `trip` when left out.
        for: how long it must be too bad before it trips.
        interval: between two measurements.
        initial_delay: after a change, what is measured in it is not judged.
        failure_limit: more failing measurements than this trip it.
        consecutive_error_limit: more failed measurements in a row than this alert.
        inconclusive_limit: more measurements in a row that say nothing than this alert; without it none does.
        min_samples: so many observations must stand behind what trips it.
        no_data: what a measurement without a usable value counts as.
        margin: what failed before the change already must get worse by this fraction.
        baseline: the values since the change must also be worse than those before it.
        dry_run: it is judged and told, and nothing is done.
        cooldown: after an automatic rollback, or a checkpoint that it had taken, there is no other for so long.
        max_auto_rollbacks: so many automatic rollbacks within `window`; then it only alerts.
        window: see max_auto_rollbacks.
        timeout: of one measurement; one that takes longer has failed.
        action: what is done when it trips: a "rollback", an "alert", or a "checkpoint".
    """

    name: str
    trip: str
    clear: str | None = None
    lasting: Duration = msgspec.field(default=0, name="for")
    interval: Duration = 30
    initial_delay: Duration = 0
    failure_limit: int = 0
    consecutive_error_limit: int = 4
    inconclusive_limit: int | None = None
    min_samples: int = 0
    no_data: Literal["inconclusive", "success"] = "inconclusive"
    margin: float = 0.1
    baseline: bool = False
    dry_run: bool = False
    cooldown: Duration = "10m"
    max_auto_rollbacks: int = 3
    window: Duration = "24h"
    timeout: Duration = 10
    action: Literal["rollback", "alert", "checkpoint"] = "rollback"

    def __post_init__(self) -> None:
        below, threshold = _bound("trip", self.trip)
        if self.clear is not None:
            above, clear = _bound("clear", self.clear)
            # What is too bad above something is well again below something.
            if above == below or (clear < threshold if below else clear > threshold):
                _wrong(f'clear must lie on the good side of trip = "{self.trip}", as "{"> " if below else "< "}…"')
        for key in _DURATIONS:
            if parse_duration(getattr(self, key)) > _LONGEST:
                _wrong(f"{'for' if key == 'lasting' else key} is longer than a year")
        for key in ("interval", "timeout"):
            if parse_duration(getattr(self, key)) == 0:
                _wrong(f"{key} must be longer than nothing")
        for key in ("failure_limit", "consecutive_error_limit", "min_samples", "margin", "max_auto_rollbacks"):
            if not getattr(self, key) >= 0:
                _wrong(f"{key} is negative")
        if (self.inconclusive_limit or 0) < 0:
            _wrong("inconclusive_limit is negative")

    def rule(self) -> ConditionalRollback:
        """Return it as what judges; it is measured by its source."""
        below, threshold = _bound("trip", self.trip)
        return ConditionalRollback(
            self.name,
            _elsewhere,
            threshold,
            self.action,
            below=below,
            clear=None if self.clear is None else _bound("clear", self.clear)[1],
            failure_limit=self.failure_limit,
            consecutive_error_limit=self.consecutive_error_limit,
            inconclusive_limit=self.inconclusive_limit,
            min_samples=self.min_samples,
            no_data=Outcome.SUCCESS if self.no_data == "success" else Outcome.INCONCLUSIVE,
            margin=self.margin,
            baseline=self.baseline,
            dry_run=self.dry_run,
            max_auto_rollbacks=self.max_auto_rollbacks,
            **{key: parse_duration(getattr(self, key)) for key in _DURATIONS},
        )


KEYS = tuple(field.encode_name for field in msgspec.structs.fields(ConditionTable))


class Opened(NamedTuple):
    """A condition that can be measured: `rule.condition` returns a Sample and does not raise."""

    rule: ConditionalRollback
    close: Callable[[], None]


def parse_conditions(settings: Settings) -> list[tuple[ConditionTable, SourceSpec]]:
    """Return what `[[conditions]]` describes, and where each is measured.

    Raises:
        UsageError: a key is unknown or missing, a value is not usable, or two have one name.
    """
    source = Source(settings.path)
    found: list[tuple[ConditionTable, SourceSpec]] = []
    for number, table in enumerate(settings.conditions):
        where: Where = ("conditions", number)
        chosen = [key for key in SPECS if key in table]
        its_keys = [field.encode_name for spec in chosen or () for field in msgspec.structs.fields(SPECS[spec])]
        source.known_keys(table, list(dict.fromkeys([*KEYS, *its_keys, *([] if chosen else SPECS)])), where)
        mine = {key: value for key, value in table.items() if key in KEYS}
        its = {key: value for key, value in table.items() if key not in KEYS}
        read = source.convert(mine, ConditionTable, where)
        if not re.match(NAME_PATTERN, read.name):
            source.bad((*where, "name"), f'"{read.name}" may only have letters, digits, ".", "_" and "-" (64 at most)')
        if read.name in (other.name for other, _ in found):
            source.bad((*where, "name"), f"there is another condition called {read.name}")
        found.append((read, parse_source(its, source, where)))
    return found


def require_condition(settings: Settings, name: str) -> None:
    """Refuse a name that no condition of rfs.toml has.

    Raises:
        UsageError: `[[conditions]]` is wrong.
        NotFoundError: there is no such condition.
    """
    names = [table.name for table, _ in parse_conditions(settings)]
    if name not in names:
        raise NotFoundError("conditions.unknown", name=name, known=", ".join(names) or "none")


def open_condition(table: ConditionTable, spec: SourceSpec, settings: Settings) -> Opened:
    """Return a condition that can be measured.

    Raises:
        RollbackError: what its source needs is not installed.
    """
    rule = table.rule()
    source = open_source(spec, SourceContext(home=settings.home, timeout=rule.timeout, components=settings.components))
    return Opened(msgspec.structs.replace(rule, condition=source.measure), source.close)


def open_conditions(settings: Settings) -> list[Opened]:
    """Return all conditions of rfs.toml, ready to be measured; raises as the two above."""
    opened: list[Opened] = []
    try:
        for table, spec in parse_conditions(settings):
            opened.append(open_condition(table, spec, settings))
    except BaseException:  # what was opened already must not stay so
        for each in opened:
            each.close()
        raise
    return opened


def _bound(key: str, text: str) -> tuple[bool, float]:
    """Return whether a bound is a lower one, and its value."""
    match = _BOUND.fullmatch(text)
    if match is None or not math.isfinite(float(match[2])):
        _wrong(f'{key} takes "> 0.05" or "< 10", not {text!r}')
    return match[1] == "<", float(match[2])


def _wrong(why: str) -> NoReturn:
    raise ValueError(why)


def _elsewhere() -> float:
    raise NotImplementedError("a configured condition is measured by its source")
