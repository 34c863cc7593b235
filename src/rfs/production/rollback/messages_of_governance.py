"""The texts about approvals, freezes, external systems and the audit log: a part of `messages`."""

from __future__ import annotations

OF_GOVERNANCE: dict[str, tuple[str, str]] = {
    # — approvals —
    "approval.needed": (
        "The {kind} to {target} needs {required} of the approvers {approvers}, and has {given}: request {request}.",
        "They run `rfs approve {request}` before {until}; then repeat this command, or give it --request {request}.",
    ),
    "approval.several": (
        "Approvals are missing: requests {requests}.",
        "They are approved with `rfs approve REQUEST`; then repeat this command.",
    ),
    "approval.rejected": (
        "The request {request} was rejected by {by}: {why}.",
        "Without --request the command asks anew; in an emergency there is --break-glass --reason TEXT.",
    ),
    "approval.expired": (
        "The request {request} expired at {until}.",
        "Without --request the command asks anew.",
    ),
    "approval.used": (
        "The request {request} was used already, by {operation}.",
        "An approval is good for one rollback; without --request the command asks anew.",
    ),
    "approval.changed": (
        "The request {request} is for another plan: {what}.",
        "Look at it with `rfs plan`; without --request the command asks for approval of the plan as it is now.",
    ),
    "approval.over": (
        "The request {request} is {stands}: it is too late to {verb} it.",
        "`rfs approve` lists what is waiting.",
    ),
    "approval.own": (
        "{person} asked for {request}, and nobody approves what they asked for themselves.",
        "Another of the approvers has to: {approvers}.",
    ),
    "approval.nobody": (
        "{person} is none of the approvers.",
        "[approvals] approvers names {approvers}; rfs goes by who logged in, or is behind sudo.",
    ),
    "approval.twice": (
        "{person} has said so already about {request}.",
        "Each approver counts once; it has {given} of {required}.",
    ),
    "approval.unneeded": (
        "The request {request} was given, and [policy] approval_required is not set.",
        "Leave --request out.",
    ),
    "approval.none": ("There is no request {selector}.", "`rfs approve` lists what is waiting."),
    "approval.ambiguous": (
        "{selector} is the beginning of more than one request: {found}.",
        "Give more of it.",
    ),
    "glass.reason": (
        "To break the glass is to go past the policy, and needs a reason.",
        "Give --break-glass with --reason TEXT; it is recorded.",
    ),
    "glass.later": (
        "To break the glass is for an emergency, which is now, and not for a rollback that is made later.",
        "Roll back now, or have the later one approved.",
    ),
    # — external systems —
    "external.irreversible": (
        "The rollback would leave behind what no rollback takes back: {found}; the policy asks for at least {wanted}.",
        "Add compensate to that [[external]], lower [policy] min_reversibility, or give --break-glass --reason TEXT.",
    ),
    # — the audit log —
    "audit.unreadable": (
        "The audit log {path} could not be read: {why}.",
        "Nothing else depends on it; look at what stands in its place.",
    ),
    # — freezes —
    "freeze.frozen": (
        "{what} is refused: deployments are frozen {told}.",
        "Wait for its end, or in an emergency give --break-glass --reason TEXT; rollbacks are never frozen.",
    ),
    "freeze.none": (
        "No declared freeze is in force.",
        "A window of rfs.toml ends by itself: `rfs status` shows when; or edit [[freeze]].",
    ),
    "freeze.past": ("The freeze would have ended at {until} already.", "Give --until a time that is to come."),
}
