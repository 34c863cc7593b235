"""Numbers, times and tables as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rfs.cli.style import style, unstyle
from rfs.production.rollback.model import Change, ChangeKind

SHOWN_CHANGES = 20
SIGNS = {ChangeKind.ADDED: ("+", "green"), ChangeKind.CHANGED: ("~", "yellow"), ChangeKind.REMOVED: ("-", "red")}


def nice_size(size: float) -> str:
    """Return bytes in powers of 1000: "512 B", "3.1 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def nice_time(at: datetime | None) -> str:
    """Return a time in the local time zone, to the second."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at is not None else "-"


def nice_seconds(seconds: float) -> str:
    """Return a duration: "0.3 s", "12 s", "3 min 20 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return "1 file", "1,204 files"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Return rows in columns, two blanks apart; styled cells keep their place."""
    lines = [[style(cell, bold=True) for cell in head], *rows] if head else list(rows)
    if not lines:
        return ""
    widths = [max(len(unstyle(row[n])) for row in lines) for n in range(len(lines[0]))]
    shown = []
    for row in lines:
        cells = [cell + " " * (width - len(unstyle(cell))) for cell, width in zip(row, widths, strict=True)]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def printable(text: str) -> str:
    """Return text that cannot move the cursor or fake a line: file names are other people's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def change_lines(changes: Sequence[Change], *, everything: bool) -> list[str]:
    """Return one line for each change, the first ones only unless `everything`."""
    shown = changes if everything else changes[:SHOWN_CHANGES]
    lines = []
    for change in shown:
        sign, color = SIGNS[change.kind]
        detail = _sides(change)
        lines.append(style(f"  {sign} {printable(change.key) or '(its content)'}", fg=color) + printable(detail))
    if len(shown) < len(changes):
        lines.append(f"    … and {len(changes) - len(shown):,} more (-v shows them)")
    return lines


def _sides(change: Change) -> str:
    before, after = (
        side.label or (nice_size(side.size) if side.size else "") if side else ""
        for side in (change.before, change.after)
    )
    if before and after and before != after:
        return f"  {before} → {after}"
    # A label that is the same on both sides tells something only if it is a count of what changed.
    one_sided = change.before is None or change.after is None
    count = change.before is not None and change.after is not None and change.before.id == change.after.id
    told = (before or after) if one_sided or count else ""
    return f"  {told}" if told.strip("•") else ""
