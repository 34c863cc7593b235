"""The log of operations for people and programs: what was done, and by a small graph what undid what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfs.cli.style import style
from rfs.cli.text import nice_time, printable, table
from rfs.cli.views import operation_json, status_word
from rfs.production.rollback.operation import Operation
from rfs.production.rollback.operationlog import AnyOperation, SmallOperation
from rfs.production.rollback.tracked import TrackedChange

ID_SHOWN = 12
WIDEST = 6
KINDS = {"configuration": "config rollback", "save": "config save"}


def logged_json(operation: AnyOperation) -> dict[str, Any]:
    """Return what programs may know of an operation, whatever it did."""
    if isinstance(operation, Operation):
        return operation_json(operation)
    return {
        "rollback_id": operation.operation_id,
        "kind": operation.kind,
        "status": str(operation.status),
        "executed_at": operation.created_at.isoformat(),
        "finished_at": operation.created_at.isoformat(),
        "checkpoint_id": None,
        "backup_id": None,
        "components": [operation.component],
        "what": operation.what,
        "change": operation.change,
        "undoes": operation.undoes,
        "reason": operation.reason,
        "actor": operation.actor,
    }


def log_table(operations: Sequence[AnyOperation], *, alive: bool) -> str:
    """Return one line for each operation, with what took what back.

    Args:
        operations: newest first, from the newest one on: what took one of them back is among them.
        alive: see `status_word`.
    """
    taken_back: dict[str, str] = {}
    for each in operations:
        if each.undoes is not None and each.status == "completed" and each.operation_id not in taken_back:
            taken_back.setdefault(each.undoes, each.operation_id)
    rows = [
        (
            lines,
            style(short(each.operation_id), fg="cyan"),
            nice_time(each.created_at),
            kind_of(each),
            printable(each.destination),
            status_word(each.status, alive=alive)
            + (f", taken back by {short(taken_back[each.operation_id])}" if each.operation_id in taken_back else ""),
            each.actor,
            ("BREAK-GLASS: " if isinstance(each, Operation) and each.break_glass else "") + printable(each.reason),
        )
        for each, lines in zip(operations, graph(operations, taken_back), strict=True)
    ]
    return table(rows, ("", "ID", "BEGAN", "KIND", "TO", "STATUS", "BY", "REASON"))


def kind_of(operation: AnyOperation) -> str:
    """Return what an operation is, with what it took back."""
    kind = KINDS.get(operation.kind, operation.kind)
    return f"{kind} of {short(operation.undoes)}" if operation.undoes is not None else kind


def graph(operations: Sequence[AnyOperation], taken_back: dict[str, str]) -> list[str]:
    """Return for each operation whether it stands, and lines from what took something back to what that was.

    Args:
        taken_back: by what each one was taken back, if it was.
    """
    at = {each.operation_id: number for number, each in enumerate(operations)}
    ends: list[int] = []  # by column: the row in which its line ends; -1 where there is none
    drawn: list[str] = []
    for number, each in enumerate(operations):
        cells = ["╰" if end == number else "│" if end >= 0 else " " for end in ends]
        ends = [-1 if end == number else end for end in ends]
        if each.undoes is not None and each.status == "completed":
            column = cells.index(" ") if " " in cells else len(cells)
            if column < WIDEST:
                cells[column : column + 1] = ["╭"]
                ends[column : column + 1] = [at.get(each.undoes, len(operations))]
        drawn.append(("○" if each.operation_id in taken_back else "●") + "".join(cells).rstrip())
    return drawn


def small_text(operation: SmallOperation, change: TrackedChange, sides: dict[str, str]) -> str:
    """Return everything about an operation that changed one thing.

    Args:
        sides: the values before and after it, as any eye may see them.
    """
    facts = [
        (KINDS.get(operation.kind, operation.kind), style(operation.operation_id, fg="cyan")),
        ("of", operation.undoes or ""),
        ("component", printable(operation.component)),
        ("what", printable(operation.what)),
        ("type", printable(change.change_type) if change.kind == "change" else ""),
        ("before", printable(sides["before"])),
        ("after", printable(sides["after"])),
        ("reason", printable(operation.reason)),
        ("by", operation.actor),
        ("at", nice_time(operation.created_at)),
    ]
    return table([(name, value) for name, value in facts if value])


def small_done_text(operation: SmallOperation) -> str:
    """Return what an undo or a redo of one thing did, in a sentence."""
    name = style(short(operation.operation_id), fg="cyan")
    how = "as it was before" if operation.back else "as the change left it"
    what = f"{operation.kind.capitalize()} {name} completed: {printable(operation.destination)} is {how}"
    return f"{what}; `rfs undo {short(operation.operation_id)}` takes this back."


def short(operation_id: str) -> str:
    """Return as much of an id as people need."""
    return operation_id[:ID_SHOWN]
