"""What was measured, as a table in Markdown, and which targets it meets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from benchmarks.measure import Cost
from benchmarks.startup import LIMITS
from rfs.production.rollback.store.reserve import SIZE as RESERVE

STEPS = {
    "first": "first checkpoint",
    "nothing": "nothing changed",
    "changed": "1 % changed",
    "back": "roll back that 1 % in place",
}
_MEMORY = 200 << 20
_SECONDS_PER_CHANGE = 0.05 / 2000


class Results:
    """The figures of one run.

    Attributes:
        repository, everything: bytes by tool, after the second checkpoint: without and with caches and indexes.
        left: by tool, in how many things the tree differed after its rollback.
        scan: seconds of one plain look at the tree.
        outages: seconds, of the rollbacks with a service.
        startup: by command, its processor time divided by a bare interpreter's.
    """

    def __init__(self, files: int) -> None:
        self.files = files
        self.size = self.changes = 0
        self.repository: dict[str, int] = {}
        self.everything: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.scan = 0.0
        self.outages: list[float] = []
        self.startup: dict[str, float] = {}
        self._costs: dict[tuple[str, str], list[Cost]] = {}

    def add(self, step: str, tool: str, cost: Cost) -> None:
        """Take one measurement."""
        self._costs.setdefault((step, tool), []).append(cost)

    def of(self, step: str, tool: str) -> Cost | None:
        """Return the medians of what was measured, and the highest memory."""
        costs = self._costs.get((step, tool))
        if not costs:
            return None
        wall, cpu, memory, written = zip(*costs, strict=True)
        return Cost(statistics.median(wall), statistics.median(cpu), max(memory), int(statistics.median(written)))

    def times(self, step: str, tool: str) -> int:
        """Return how often it was measured."""
        return len(self._costs.get((step, tool), ()))

    @property
    def exact(self) -> bool:
        """Whether every rollback of rfs left nothing different."""
        return not any(count for tool, count in self.left.items() if tool.startswith("rfs"))


def render(results: Results, machine: Sequence[str], versions: Sequence[str]) -> str:
    """Return the whole page."""
    peers = [tool for tool in results.repository if tool != "rfs"]
    lines = [
        f"# {results.files:,} small files, {results.size / 1e6:.0f} MB",
        "",
        *(f"- {line}" for line in machine),
        f"- {'; '.join(versions)}",
        "- side by side in one run, alternating; medians where there are several measurements",
        "",
        "| | | s | s of CPU | MB of memory | MB written |" + "".join(f" s ÷ {peer} |" for peer in peers),
        "|---|---|--:|--:|--:|--:|" + "--:|" * len(peers),
        *_rows(results, peers),
        "",
        "| | repository, MB | with caches and indexes, MB | differences after the rollback |",
        "|---|--:|--:|--:|",
        *(
            f"| {tool} | {size / 1e6:.1f} | {results.everything[tool] / 1e6:.1f} | {results.left[tool]:,} |"
            for tool, size in results.repository.items()
        ),
        "",
        *_remarks(results),
        "",
        "| target | found | | by CPU time |",
        "|---|--:|---|--:|",
        *(
            f"| {what} | {found:.2f} | {'met' if found <= limit else '**missed**'} | {by_cpu} |"
            for what, found, limit, by_cpu in _targets(results)
        ),
        "",
    ]
    return "\n".join(lines)


def _remarks(results: Results) -> Iterator[str]:
    yield (
        f"{results.changes:,} files had been modified, added or deleted; differences are those that "
        "`rsync -aHAXc --delete --itemize-changes` lists. restic and borg leave what was added; git knows no owners "
        "and times, and of the mode one bit. "
        f"The {RESERVE / 1e6:.1f} MB that rfs sets aside for a full disk are in neither size."
    )
    served, outage = results.of("served", "rfs"), statistics.median(results.outages)
    if served is None:
        return
    times = results.times("served", "rfs")
    yield (
        f"With a service beside the files, a rollback (×{times}) took {served.wall:.2f} s, {outage:.2f} s of it outage "
        f"({results.left['rfs, with a service']} differences). One plain look at all in Python: {results.scan:.2f} s."
    )


def _rows(results: Results, peers: Sequence[str]) -> Iterator[str]:
    for step, name in STEPS.items():
        own = results.of(step, "rfs")
        for tool in results.repository:
            cost = results.of(step, tool)
            if cost is None or own is None:
                continue
            times = results.times(step, tool)
            row = f"| {name if tool == 'rfs' else ''} | {tool}{f' (×{times})' if times > 1 else ''} "
            row += f"| {cost.wall:.2f} | {cost.cpu:.2f} | {cost.memory / (1 << 20):.0f} | {cost.written / 1e6:.0f} |"
            for peer in peers:
                other = results.of(step, peer)
                row += f" {cost.wall / other.wall:.2f} |" if other is not None and tool == "rfs" else " |"
            yield row


def _targets(results: Results) -> Iterator[tuple[str, float, float, str]]:
    """Yield what is wanted, what was found, the most that it may be, and what CPU time would say instead."""
    for step, peer, limit in (
        ("first", "restic", 0.30),
        ("nothing", "restic", 0.18),
        ("nothing", "git", 1.8),
        ("changed", "restic", 0.22),
        ("back", "restic", 0.08),
        ("back", "borg", 0.05),
        ("back", "git", 1.8),
    ):
        own, other = results.of(step, "rfs"), results.of(step, peer)
        if own is not None and other is not None:
            what = f"{STEPS[step]} ≤ {limit:.2f} × {peer}"
            yield what, own.wall / other.wall, limit, f"{own.cpu / other.cpu:.2f}"
    for name, sizes in (("repository", results.repository), ("repository, caches, indexes", results.everything)):
        if "restic" in sizes:
            yield f"{name} ≤ 1.02 × restic", sizes["rfs"] / sizes["restic"], 1.02, ""
    memory = max(cost.memory for step in STEPS if (cost := results.of(step, "rfs")) is not None)
    yield "peak memory ≤ 200 MB", memory / (1 << 20), _MEMORY / (1 << 20), ""
    limit = 2 * results.scan + results.changes * _SECONDS_PER_CHANGE
    outage = statistics.median(results.outages)
    yield f"outage ≤ 2 Python scans + 0.05 s per 2,000 files = {limit:.2f} s", outage, limit, ""
    for word, ratio in results.startup.items():
        yield f"`rfs {word}` ≤ {LIMITS[word]:.1f} × `python -c pass`", ratio, LIMITS[word], f"{ratio:.2f}"
