"""Durations as rfs.toml and the command line write them."""

from __future__ import annotations

import math
import re
from typing import TypeAlias

Duration: TypeAlias = int | float | str
"""A field of settings: "500ms", "5s", "2m", "1h30m", or a number of seconds."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def parse_duration(value: Duration) -> float:
    """Return a duration in seconds.

    Args:
        value: a number of seconds, or text such as "500ms", "5s", "2m", "6h", "1d", "2w",
            "1h30m", or "30" (seconds).

    Raises:
        ValueError: it is no duration, is negative, or is not finite.
    """
    seconds = _from_text(value) if isinstance(value, str) else _from_number(value)
    if not math.isfinite(seconds):
        raise _refused(value, "is not a finite duration")
    return seconds


def _from_number(value: object) -> float:
    # TOML's true and false are numbers to Python; nobody means one second by "true".
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(value, 'is not a duration; write "30s", "5m" or a number of seconds')
    if value < 0:
        raise _refused(value, "is negative; a duration is not")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _from_text(value: str) -> float:
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    parts = list(_PART.finditer(text))
    # The parts must follow each other without a gap, or "5s and a bit" would be five seconds.
    if not parts or "".join(part.group() for part in parts) != text:
        raise _refused(value, 'is not a duration; write "500ms", "30s", "5m", "6h" or "1d"')
    return sum(float(part[1]) * _UNITS[part[2]] for part in parts)


def _refused(value: object, why: str) -> ValueError:
    return ValueError(f"{value!r} {why}")
