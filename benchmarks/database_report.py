"""What was measured on databases, as a table in Markdown, and which targets it meets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from benchmarks.measure import Cost

_ON_SERVER = {
    "checkpoint": "first checkpoint",
    "nothing": "another, nothing changed",
    "clustered": "another, 1 % of one table changed side by side",
    "spread": "another, 1 % of it changed all over",
    "whole": "another, all rows of it changed",
    "back": "roll 1 % back",
}
_ON_FILE = {"file": "first checkpoint", "file changed": "another, 1 % changed all over", "file back": "roll that back"}
_FILE_WALLS = (("file", "rfs"), ("file changed", "rfs"), ("file", "backup"))
# What it is, our figure, that of the other, and how many times that it may be.
Target: TypeAlias = tuple[str, float | None, float | None, float]
_PEERS = ("rfs", "pg_dump", "dslr", "backup")


class Results:
    """The figures of one run.

    Attributes:
        rows, size, file_size: of the databases; bytes.
        sizes: bytes that a first checkpoint takes, by tool; of SQLite's by "sqlite".
        stored: bytes that further checkpoints of rfs added to its packs, by step.
        file_steps: seconds of restore and verification in each rollback of the SQLite file.
        wrong: who left other rows than there had been.
    """

    def __init__(self) -> None:
        self.rows = self.size = self.file_size = 0
        self.versions: list[str] = []
        self.sizes: dict[str, int] = {}
        self.stored: dict[str, int] = {}
        self.file_steps: list[tuple[float, float]] = []
        self.wrong: list[str] = []
        self._costs: dict[tuple[str, str], list[tuple[Cost, float | None]]] = {}

    def add(self, step: str, tool: str, cost: Cost, outage: float | None = None) -> None:
        """Take one measurement, with the seconds for which a client had no answer."""
        self._costs.setdefault((step, tool), []).append((cost, outage))
        away = "" if outage is None else f", no answer for {outage:.3f} s"
        spent = f"{cost.wall:7.2f} s {cost.cpu:7.2f} s of processors {cost.memory >> 20:5} MB"
        print(f"{step:12} {tool:8} {spent}{away}", flush=True)

    def wall(self, step: str, tool: str) -> float | None:
        """Return the median of the seconds, None when it was not measured."""
        costs = self._costs.get((step, tool), [])
        return statistics.median(cost.wall for cost, _ in costs) if costs else None

    def memory(self, step: str, tool: str) -> int:
        return max(cost.memory for cost, _ in self._costs[step, tool])

    def outage(self, step: str, tool: str) -> float | None:
        """Return the median of the outages."""
        found = [outage for _, outage in self._costs.get((step, tool), []) if outage is not None]
        return statistics.median(found) if found else None

    @property
    def exact(self) -> bool:
        """Whether every rollback of rfs brought back the rows."""
        return not {"rfs", "sqlite"} & set(self.wrong)


def render(found: Results, described: Sequence[str]) -> str:
    """Return the whole document."""
    lines = [
        f"# A PostgreSQL database of {found.size / 1e6:,.0f} MB, a SQLite file of {found.file_size / 1e6:,.0f} MB",
        "",
    ]
    lines += [f"- {line}" for line in (*described, "; ".join(found.versions))]
    lines += [
        f"- {found.rows:,} rows, on a server with fsync; all in one run, alternating; medians; the highest memory",
        "- no answer: the longest time in which a client that asks every 5 ms got none; for pg_restore all of its run",
        "",
        "| PostgreSQL | | s | MB of memory | s without an answer | s ÷ pg_dump/pg_restore | s ÷ dslr |",
        "|---|---|--:|--:|--:|--:|--:|",
        *_rows(found, _ON_SERVER, ("pg_dump", "dslr")),
        "",
        *_of_files(found),
        "",
        "| bytes of a first checkpoint | MB |",
        "|---|--:|",
        *(f"| {name} | {size / 1e6:,.1f} |" for name, size in found.sizes.items()),
        "",
        "| bytes that another checkpoint of rfs added | MB |",
        "|---|--:|",
        *(f"| {_ON_SERVER[step]} | {size / 1e6:,.2f} |" for step, size in found.stored.items()),
        "",
        "| target | found | |",
        "|---|--:|---|",
        *_told([*_server_targets(found), *_file_targets(found)]),
    ]
    lines += ["", f"Other rows than before were left by: {', '.join(found.wrong) or 'nobody'}.", ""]
    return "\n".join(lines)


def render_files(found: Results, described: Sequence[str]) -> str:
    """Return what there is to say when only the SQLite file was measured."""
    lines = [f"# A SQLite file of {found.file_size / 1e6:,.0f} MB", "", *(f"- {line}" for line in described), ""]
    lines += [*_of_files(found), "", "| target | found | |", "|---|--:|---|", *_told(_file_targets(found))]
    lines += ["", f"Other rows than before were left by: {', '.join(found.wrong) or 'nobody'}.", ""]
    return "\n".join(lines)


def _of_files(found: Results) -> list[str]:
    head = ["| SQLite | | s | MB of memory | | s ÷ backup API |", "|---|---|--:|--:|--:|--:|"]
    return [*head, *_rows(found, _ON_FILE, ("backup",))]


def _rows(found: Results, steps: dict[str, str], peers: Sequence[str]) -> Iterator[str]:
    for step, what in steps.items():
        for tool in _PEERS:
            wall = found.wall(step, tool)
            if wall is None:
                continue
            outage = found.outage(step, tool)
            away = "" if outage is None else f"{outage:.3f}"
            ratios = [_ratio(wall, found.wall(step, peer)) if tool == "rfs" else "" for peer in peers]
            memory = f"{found.memory(step, tool) / 1e6:,.0f}"
            yield f"| {' | '.join([what if tool == 'rfs' else '', tool, f'{wall:.2f}', memory, away, *ratios])} |"


def _ratio(own: float, other: float | None) -> str:
    return f"{own / other:.2f}" if other else ""


def _server_targets(found: Results) -> list[Target]:
    own, dump = found.wall("checkpoint", "rfs"), found.wall("checkpoint", "pg_dump")
    away, whole = found.outage("back", "rfs"), found.stored["whole"]
    return [
        ("first checkpoint ≤ 1.10 × pg_dump -Fd -j2", own, dump, 1.1),
        ("1 % changed side by side: bytes ≤ 0.50 × those of the table", found.stored["clustered"], whole, 0.5),
        ("1 % changed all over: bytes ≤ 0.50 × those of the table", found.stored["spread"], whole, 0.5),
        ("outage of a rollback ≤ 0.5 s", away, 1.0, 0.5),
        ("outage of a rollback ≤ 0.30 × dslr", away, found.outage("back", "dslr"), 0.3),
    ]


def _file_targets(found: Results) -> list[Target]:
    restores, verifications = zip(*found.file_steps, strict=True)
    first, changed, backup = (found.wall(*what) for what in _FILE_WALLS)
    return [
        ("SQLite: first checkpoint ≤ 0.40 × backup API", first, backup, 0.4),
        ("SQLite: 1 % changed ≤ 0.40 × backup API", changed, backup, 0.4),
        ("SQLite: verification ≤ 0.50 × restore", statistics.median(verifications), statistics.median(restores), 0.5),
    ]


def _told(targets: Sequence[Target]) -> Iterator[str]:
    for target, own, other, most in targets:
        if own is None or not other:
            yield f"| {target} | | not measured |"
        else:
            yield f"| {target} | {own / other:.2f} | {'met' if own / other <= most else '**missed**'} |"
