"""What all sources have in common."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from decimal import Decimal
from typing import NamedTuple, Protocol

import msgspec

from rfs.production.rollback.conditions import Sample
from rfs.production.rollback.errors import InterruptedByUserError, RollbackError
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.settings import ComponentTable

LIMIT = 1 << 20
"""Bytes of an answer that are read; a longer one is refused."""
_LONGEST_ERROR = 300


class SourceContext(msgspec.Struct, frozen=True, kw_only=True):
    """What sources know of the application.

    Attributes:
        home: folder of rfs.toml; commands run there, and relative paths start there.
        timeout: seconds that one measurement may take.
        components: those of rfs.toml.
    """

    home: str
    timeout: float = 10.0
    components: tuple[ComponentTable, ...] = ()


class Figure(NamedTuple):
    """What was measured.

    Attributes:
        value: None, NaN or infinite where there was nothing to measure.
        weight: how many observations it stands for.
    """

    value: float | None
    weight: int = 1


class NoFigureError(Exception):
    """It could not be measured; the text says why, without secrets, its full stop and what the other side said."""


class Source(ABC):
    """Something that can be measured again and again, by one thread at a time.

    Args: context: of the application.
    """

    def __init__(self, context: SourceContext) -> None:
        self.context = context
        self._closed = threading.Event()

    def measure(self) -> Sample:
        """Return what was measured now. What stands in its way is a Sample with an error; a bug raises."""
        began = utc_now()
        try:
            figure = self.figure()
        except (NoFigureError, RollbackError, OSError) as error:
            return Sample(at=began, error=_sentence(error))
        return Sample(at=began, value=figure.value, weight=figure.weight)

    def close(self) -> None:
        """Give back what is held, and cut short what is being measured; may be called from another thread."""
        self._closed.set()

    @abstractmethod
    def figure(self) -> Figure:
        """Measure, within `context.timeout`. Raises NoFigureError, RollbackError, OSError."""

    # — as a pulse, for what can be cut short —

    def tick(self, items: int = 0, size: int = 0) -> None:
        """See driver.Pulse. Raises InterruptedByUserError once it is closed."""
        if self._closed.is_set():
            raise InterruptedByUserError("interrupted")

    def remaining(self) -> float:
        """See driver.Pulse."""
        return self.context.timeout


class SourceSpec(Protocol):
    """The keys of a source, checked."""

    def open(self, context: SourceContext) -> Source:
        """Return what measures it. Raises UsageError: something that it names is not there."""


def number(value: object, what: str) -> float | None:
    """Return a value that somebody else answered as a number; None for null.

    Args:
        value: numbers are also taken as text, as Prometheus writes them.
        what: what it is, for complaints.

    Raises:
        NoFigureError: it is none.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        why = f"{what} is {_kind(value)}, not a number"
        raise NoFigureError(why)
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        why = f"{what} is text that is no number"
        raise NoFigureError(why) from None


def observations(value: object, what: str) -> int:
    """Return how many observations something stands for; none where that is not known.

    Raises:
        NoFigureError: it is no number.
    """
    count = number(value, what)
    return max(0, int(count)) if count is not None and math.isfinite(count) else 0


def _kind(value: object) -> str:
    words = {bool: "true or false", dict: "an object", list: "a list"}
    return words.get(type(value), type(value).__name__)


def _sentence(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:_LONGEST_ERROR]
