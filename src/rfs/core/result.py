"""Success or Failure: what a call that *does* something returns.

A checker needs no narrowing to read either side: `Failure.value` and
`Success.error` are typed as never returning, so `result.value` on a
`Result[T, E]` is a `T`. At run time, asking for the wrong side raises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, NoReturn, TypeAlias, TypeVar

T_co = TypeVar("T_co", covariant=True)
E_co = TypeVar("E_co", covariant=True)
U = TypeVar("U")
F = TypeVar("F")
D = TypeVar("D")


class WrongSideError(Exception):
    """Raised when the value of a Failure, or the error of a Success, is asked for."""


@dataclass(frozen=True, slots=True)
class Success(Generic[T_co]):
    """The call did what it was asked to do; `value` is what came of it."""

    value: T_co

    @property
    def error(self) -> NoReturn:
        raise WrongSideError(self.value)

    def is_success(self) -> Literal[True]:
        return True

    def is_failure(self) -> Literal[False]:
        return False

    def unwrap(self) -> T_co:
        """Return the value."""
        return self.value

    def unwrap_or(self, default: object) -> T_co:
        """Return the value; `default` is for the other side."""
        return self.value

    def map(self, function: Callable[[T_co], U]) -> Success[U]:
        """Return a Success of `function(value)`."""
        return Success(function(self.value))

    def bind(self, function: Callable[[T_co], Result[U, F]]) -> Result[U, F]:
        """Return `function(value)`, itself a Result."""
        return function(self.value)

    def map_error(self, function: Callable[[NoReturn], object]) -> Success[T_co]:
        """Return this Success unchanged."""
        return self


@dataclass(frozen=True, slots=True)
class Failure(Generic[E_co]):
    """The call did not happen, or was undone; `error` says why in one sentence."""

    error: E_co

    @property
    def value(self) -> NoReturn:
        raise WrongSideError(self.error)

    def is_success(self) -> Literal[False]:
        return False

    def is_failure(self) -> Literal[True]:
        return True

    def unwrap(self) -> NoReturn:
        """Raise the error when it is an exception, else WrongSideError."""
        if isinstance(self.error, BaseException):
            raise self.error
        raise WrongSideError(self.error)

    def unwrap_or(self, default: D) -> D:
        """Return `default`."""
        return default

    def map(self, function: Callable[[NoReturn], object]) -> Failure[E_co]:
        """Return this Failure unchanged."""
        return self

    def bind(self, function: Callable[[NoReturn], object]) -> Failure[E_co]:
        """Return this Failure unchanged."""
        return self

    def map_error(self, function: Callable[[E_co], F]) -> Failure[F]:
        """Return a Failure of `function(error)`."""
        return Failure(function(self.error))


Result: TypeAlias = Success[T_co] | Failure[E_co]
