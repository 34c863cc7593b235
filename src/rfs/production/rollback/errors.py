"""Every error that a user can meet, and nothing about how it is shown.

    RollbackError                 1   something went wrong; nothing was lost
    ├── UsageError                2   the command, rfs.toml or an argument is wrong
    ├── NotFoundError            10   no such checkpoint, operation or application
    ├── LockedError              11   another operation is running
    ├── IntegrityError           12   stored data is damaged, or a read-back differs
    ├── ApprovalNeededError      13
    ├── FrozenError              14
    ├── ConflictError            15   the live state is not what the operation expected
    ├── IrreversibleError        16   refused: it could not be undone
    ├── ChangeFailedError         1   a guarded change failed, and stays as it is (a command's own exit status, if any)
    │   └── GuardRevertedError   20   a guarded change failed, and the system is back (likewise)
    ├── QuarantinedError         21
    ├── RevertedError            30   the rollback failed; the system is back at the state before
    ├── HeldError                31   it failed both ways and NEEDS ATTENTION
    ├── PausedError              31   a gradual rollback waits for a person, between two waves
    ├── TimedOutError           124
    └── InterruptedByUserError  130
        └── GoingOnError        130   it goes on outside this process, which it stops

An error is raised by the key of its text: `raise NotFoundError("checkpoint.none", selector="@latest")`.
The texts stand in `messages.py` as templates with named fields, one sentence of what
happened and one of what to do, so that another language is another table.
"""

from __future__ import annotations


class RollbackError(Exception):
    """Base of every expected error.

    Args:
        key: the key of a text in `messages.MESSAGES`.
        fields: values for the named fields of that text.

    Attributes:
        key: as given; stable, fit for a program to compare with.
        code: the exit code of the command line (behaviour documented in docs/exit-codes.md).
        hint: one sentence of what to do.
        retryable: whether the same call may succeed later without any change.
    """

    code = 1
    retryable = False

    def __init__(self, key: str, /, **fields: object) -> None:
        from rfs.production.rollback.messages import MESSAGES  # many texts, and most calls go well

        self.key = key
        self.fields = fields
        text, hint = MESSAGES[key]
        self.hint = hint.format_map(_Fields(fields))
        super().__init__(text.format_map(_Fields(fields)))

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.key, self.fields))


class UsageError(RollbackError):
    """The command, rfs.toml or an argument is wrong."""

    code = 2


class NotFoundError(RollbackError):
    """There is no such checkpoint, operation, application or component."""

    code = 10


class LockedError(RollbackError):
    code = 11
    retryable = True


class IntegrityError(RollbackError):
    """Stored data is damaged, or a read-back differs."""

    code = 12


class ApprovalNeededError(RollbackError):
    """It waits for approvals, or they were refused.

    Attributes:
        request: the id of the request; of several, with ", " between.
    """

    code = 13

    @property
    def request(self) -> str:
        return str(self.fields.get("request", self.fields.get("requests", "")))


class FrozenError(RollbackError):
    code = 14
    retryable = True


class ConflictError(RollbackError):
    """The live state is not what the operation expected."""

    code = 15


class IrreversibleError(RollbackError):
    code = 16


class ChangeFailedError(RollbackError):
    """A guarded change failed and stays as it is. Its code is a failed command's own exit status."""

    def __init__(self, key: str, /, **fields: object) -> None:
        super().__init__(key, **fields)
        status = fields.get("status")
        if isinstance(status, int):
            self.code = status


class GuardRevertedError(ChangeFailedError):
    """A guarded change failed and the system is back. Its code is a failed command's own exit status."""

    code = 20


class QuarantinedError(RollbackError):
    """The version was rolled back by itself once, and nobody has released it."""

    code = 21


class RevertedError(RollbackError):
    """The rollback failed and the system is back at the state before it."""

    code = 30


class HeldError(RollbackError):
    """The rollback failed, and so did the way back: somebody has to look."""

    code = 31


class PausedError(RollbackError):
    """A gradual rollback waits for a person: some instances are at the target, and the others as they were."""

    code = 31


class TimedOutError(RollbackError):
    """It took longer than it was allowed to."""

    code = 124
    retryable = True


class InterruptedByUserError(RollbackError):
    """Somebody asked it to stop."""

    code = 130
    retryable = True


class GoingOnError(InterruptedByUserError):
    """What was asked for goes on outside this process, whose service it is stopping now.

    Attributes:
        operation: the id of the running operation.
    """

    @property
    def operation(self) -> str:
        return str(self.fields["operation"])


class _Fields(dict[str, object]):
    """Leaves a field that was not given visible instead of raising over an error."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


def _rebuild(kind: type[RollbackError], key: str, fields: dict[str, object]) -> RollbackError:
    return kind(key, **fields)
