"""Every exit code of the command line, in one table. docs/exit-codes.md says the same; a test compares them."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What a command ended with; the second value is its meaning."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "done"
    ERROR = 1, "something went wrong; nothing was lost"
    USAGE = 2, "the command, an argument or rfs.toml is wrong"
    WARNINGS = 3, "done, with warnings"
    NOT_FOUND = 10, "no such checkpoint, operation or application, or not initialised"
    LOCKED = 11, "another operation is running"
    INTEGRITY = 12, "stored data is damaged, or what was read back differs"
    APPROVAL_NEEDED = 13, "approvals are missing"
    FROZEN = 14, "a freeze is in force"
    CONFLICT = 15, "drift or conflict: the live state is not what was expected"
    IRREVERSIBLE = 16, "refused, because it could not be undone"
    GUARD_REVERTED = 20, "the guarded change failed and was rolled back"
    QUARANTINED = 21, "the version is quarantined"
    REVERTED = 30, "the rollback failed; the system is back at the state before it"
    HELD = 31, "the rollback failed, and so did the way back: NEEDS ATTENTION"
    TIMED_OUT = 124, "it took too long"
    INTERRUPTED = 130, "it was interrupted"
