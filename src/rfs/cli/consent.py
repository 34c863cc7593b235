"""--request and --break-glass: what somebody has to do a thing with that the policy asks about."""

from __future__ import annotations

import click

from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.model import Consent

REQUEST = click.option("--request", metavar="ID", help="Go on with this request, now that it is approved.")
BREAK_GLASS = click.option(
    "--break-glass", is_flag=True, help="Go past the policy, in an emergency; --reason is recorded."
)


def consent_of(*, request: str | None = None, break_glass: bool, reason: str | None) -> Consent:
    """Return what the two flags say.

    Raises:
        UsageError: the glass is broken without a reason, or though there is a request.
    """
    if not break_glass:
        return Consent(request=request)
    if request is not None:
        raise UsageError("usage", what="--break-glass needs no --request", hint="Leave one of the two out.")
    if not (reason or "").strip():
        raise UsageError("glass.reason")
    return Consent(break_glass=reason or "")
