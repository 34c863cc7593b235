"""The part of RollbackManager in which people agree to things, or keep them from being done."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from rfs.core.result import Result
from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Consent, in_utc

if TYPE_CHECKING:
    from datetime import datetime

    from rfs.production.rollback.approvals import ApprovalRequest, Stands

T = TypeVar("T")


class Governed(ABC):
    """Mixed into RollbackManager."""

    _consent = Consent()

    @abstractmethod
    async def _do(self, act: Callable[[Application], T]) -> Result[T, RollbackError]: ...

    @abstractmethod
    async def _in_thread(self, act: Callable[[Application], T], *, overridden: bool = True) -> T: ...

    def identity(self) -> str:
        """Return who is at work, or "" for the user of the operating system. A hook: a subclass may override it.

        A program that acts for others, and knows them, says here for whom: approvals and records go by it.
        """
        return ""

    def automatically(self) -> Self:
        """Return this manager as one whose rollbacks nobody asks for: they wait for nobody's approval."""
        other = copy.copy(self)
        other._consent = msgspec.structs.replace(self._consent, automatic=True)
        return other

    def _known(self, app: Application) -> Application:
        """Return the application, knowing who is at work."""
        app.consent = msgspec.structs.replace(self._consent, person=self.identity())
        return app

    async def approve(self, request_id: str, reason: str = "") -> Result[dict[str, Any], RollbackError]:
        """Agree to what waits for approvals, as one of the approvers who did not ask for it.

        Args:
            request_id: the beginning of its id; that of a Failure is its error's `request`.

        Returns:
            Success of the request, with "stands": "waiting" while approvals are missing, or "approved".
        """
        return await self._do(lambda app: _told(*app.vote(request_id, approves=True, reason=reason)))

    async def reject(self, request_id: str, reason: str = "") -> Result[dict[str, Any], RollbackError]:
        """Refuse it, which ends it; whoever asked for it withdraws it so."""
        return await self._do(lambda app: _told(*app.vote(request_id, approves=False, reason=reason)))

    async def get_approval_requests(self) -> list[dict[str, Any]]:
        """Return the requests that wait for approvals, or have them and were not used yet, newest first."""
        return await self._in_thread(lambda app: [_told(*each) for each in app.governance.waiting()])

    async def freeze(self, reason: str, *, until: datetime | None = None) -> Result[dict[str, Any], RollbackError]:
        """Let nothing be deployed until a time, or until `unfreeze`. Rollbacks are never frozen.

        Args:
            until: one without a time zone is local time.
        """
        end = in_utc(until) if until is not None else None
        return await self._do(lambda app: _fields(app.freeze(reason, end)))

    async def unfreeze(self, reason: str = "") -> Result[list[dict[str, Any]], RollbackError]:
        """Lift what `freeze` declared; Success of what was lifted."""
        return await self._do(lambda app: [_fields(each) for each in app.unfreeze(reason)])

    async def get_freeze(self) -> dict[str, Any] | None:
        """Return the freeze that is in force now ("until", "why", "by"), or None."""
        return await self._in_thread(lambda app: _fields(found) if (found := app.frozen()) is not None else None)


def _fields(record: msgspec.Struct) -> dict[str, Any]:
    return {key: value for key, value in msgspec.structs.asdict(record).items() if key != "format"}


def _told(request: ApprovalRequest, stand: Stands) -> dict[str, Any]:
    return {**_fields(request), "stands": str(stand)}
