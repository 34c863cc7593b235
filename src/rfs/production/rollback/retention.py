"""Which checkpoints to keep: the union of counting rules, a span, tags, pins and hard holds. Pure.

* Calendar rules keep the newest checkpoint of each period that has one, in UTC: the periods
  are the same on every host and never shift with daylight saving time or the TZ variable.
* SAFETY checkpoints are never counted. A hold, a pin, a tag or `keep_within` keeps them.
* The newest checkpoint always stays, whatever the rules say: what a command has just taken
  must not be gone when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from rfs.production.rollback.model import CheckpointType


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of `[retention]`. 0 switches a rule off.

    Attributes:
        keep_last: the newest so many.
        keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly: the newest one of each of
            the newest so many periods that have one. Weeks are ISO weeks.
        keep_within: everything younger than this, in seconds.
        keep_tags: everything that carries one of these tags.
    """

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within: float = 0.0
    keep_tags: tuple[str, ...] = ()

    @property
    def keeps_nothing(self) -> bool:
        """Whether no rule is switched on."""
        return self == Retention()


DEFAULT = Retention(keep_last=10, keep_daily=7, keep_weekly=4)
"""What applies without a `[retention]` table."""


class Retainable(Protocol):
    """What of a checkpoint the rules look at."""

    @property
    def checkpoint_id(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def type(self) -> CheckpointType: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def pinned(self) -> bool: ...


class Retained(msgspec.Struct, frozen=True):
    """The verdict. `keep` and `remove` hold ids, newest first; `reasons` has an entry for each of them."""

    keep: tuple[str, ...]
    remove: tuple[str, ...]
    reasons: dict[str, tuple[str, ...]]


NO_RULE = "no rule keeps it"

_PERIODS: tuple[tuple[str, str, Callable[[datetime], tuple[int, ...]]], ...] = (
    ("keep_hourly", "hour", lambda at: (at.year, at.month, at.day, at.hour)),
    ("keep_daily", "day", lambda at: (at.year, at.month, at.day)),
    ("keep_weekly", "week", lambda at: tuple(at.isocalendar())[:2]),
    ("keep_monthly", "month", lambda at: (at.year, at.month)),
    ("keep_yearly", "year", lambda at: (at.year,)),
)


def apply(
    checkpoints: Sequence[Retainable],
    policy: Retention,
    now: datetime,
    holds: Mapping[str, str] | None = None,
) -> Retained:
    """Return which checkpoints stay and which go, with the reasons for each.

    Args:
        checkpoints: in any order; of equally old ones the first is taken for the newer.
        policy: the rules.
        now: UTC.
        holds: checkpoint id to the reason why it must stay: whatever a running, pending or
            undoable operation needs, and the last one verified healthy.
    """
    ordered = sorted(checkpoints, key=lambda checkpoint: checkpoint.created_at, reverse=True)
    reasons: dict[str, list[str]] = {checkpoint.checkpoint_id: [] for checkpoint in ordered}
    for checkpoint_id, why in (holds or {}).items():
        if checkpoint_id in reasons:
            reasons[checkpoint_id].append(why)
    for checkpoint in ordered:
        reasons[checkpoint.checkpoint_id] += _own_reasons(checkpoint, policy, now)
    counted = [checkpoint for checkpoint in ordered if checkpoint.type is not CheckpointType.SAFETY]
    for checkpoint in counted[:1]:
        reasons[checkpoint.checkpoint_id].append("the newest")
    for number, checkpoint in enumerate(counted[: policy.keep_last], 1):
        reasons[checkpoint.checkpoint_id].append(f"last {number} of {policy.keep_last}")
    for rule, period, bucket in _PERIODS:
        _keep_periods(counted, getattr(policy, rule), period, bucket, reasons)
    keep = tuple(each for each, why in reasons.items() if why)
    remove = tuple(each for each, why in reasons.items() if not why)
    return Retained(keep, remove, {each: tuple(why) or (NO_RULE,) for each, why in reasons.items()})


def _own_reasons(checkpoint: Retainable, policy: Retention, now: datetime) -> list[str]:
    found = ["pinned"] if checkpoint.pinned else []
    found += [f"tag {tag}" for tag in checkpoint.tags if tag in policy.keep_tags]
    if policy.keep_within and checkpoint.created_at >= now - timedelta(seconds=policy.keep_within):
        found.append("young enough")
    return found


def _keep_periods(
    counted: Sequence[Retainable],
    limit: int,
    period: str,
    bucket: Callable[[datetime], tuple[int, ...]],
    reasons: dict[str, list[str]],
) -> None:
    seen: set[tuple[int, ...]] = set()
    for checkpoint in counted:
        key = bucket(checkpoint.created_at)
        if key in seen:
            continue
        if len(seen) >= limit:
            return
        seen.add(key)
        reasons[checkpoint.checkpoint_id].append(f"newest of its {period}, {len(seen)} of {limit}")
