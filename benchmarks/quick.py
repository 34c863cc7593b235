"""rfs beside restic, borg and git on one machine in one run: `make bench-quick`.

Everything is made in a temporary folder and removed again. Nothing is installed: a peer that is
missing is named and left out. Absolute times mean little; ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks import corpus, machine, report, startup
from benchmarks.measure import Cost, compile_rfs
from benchmarks.tools import PEERS, Rfs, Tool

SEED = 20
_QUICK = ("rfs", "git")
_SLOW = ("borg",)  # half as long again as all the others together
RESULTS = Path(__file__).parent / "results"
_REMOVERS = 16


def main() -> int:
    options = _options()
    wanted = [peer for peer in PEERS if peer.name in options.peers]
    missing = [peer.name for peer in wanted if peer.version() is None]
    if left := [peer.name for peer in PEERS if peer not in wanted]:
        print(f"Left out: {', '.join(left)}. ARGS=--all measures all of them, and writes the table.")
    if shutil.which("rsync") is None:
        sys.exit("rsync is needed: it compares the trees after each rollback. On Debian: apt install rsync")
    for name in missing:
        print(f"{name} is not installed and is left out; the ratios to it are missing. On Debian: apt install {name}")
    compile_rfs()
    place = Path(tempfile.mkdtemp(prefix="rfs-bench-", dir=options.place))
    began = time.monotonic()
    try:
        bench = Bench(place, [peer for peer in wanted if peer.name not in missing], options.files)
        described = machine.describe(place)
        bench.run()
    finally:
        _remove(place)
    text = report.render(
        bench.results, described, [Rfs.version() or "", *(peer.version() or "" for peer in bench.peers)]
    )
    print(text)
    print(f"It took {time.monotonic() - began:.0f} s.")
    whole = options.files == corpus.FILES and len(bench.peers) == len(PEERS)
    out = options.out or (RESULTS / "S.md" if whole else None)
    if out:
        Path(out).parent.mkdir(exist_ok=True)
        Path(out).write_text(text, encoding="utf-8")
        print(f"Written to {out}")
    return 0 if bench.results.exact else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-quick", description=__doc__)
    parser.add_argument("--files", type=int, default=corpus.FILES, help="how many; fewer for a quick look")
    usual = ",".join(peer.name for peer in PEERS if peer.name not in _SLOW)
    parser.add_argument("--peers", default=usual, help=f"with commas between; usually {usual}")
    parser.add_argument("--all", action="store_true", help=f"beside {', '.join(_SLOW)}, too; writes the table")
    parser.add_argument("--place", default=None, help="where the temporary folder is made; decides the file system")
    parser.add_argument("--out", default=None, help="the table's file; by default only a whole run writes one")
    options = parser.parse_args()
    options.peers = [peer.name for peer in PEERS] if options.all else options.peers.split(",")
    return options


class Bench:
    """One run.

    Args:
        place: an empty folder.
        peers: what rfs is measured beside.
        files: how many the corpus has.
    """

    def __init__(self, place: Path, peers: Sequence[type[Tool]], files: int) -> None:
        self.peers = peers
        self.results = report.Results(files)
        self._place, self._files = place, files
        self._tree, self._same = place / "tree", place / "same"

    def run(self) -> None:
        results = self.results
        tree, same, files = self._tree, self._same, self._files
        _apart(lambda: corpus.make(tree, SEED, files), lambda: corpus.make(same, SEED, files))
        results.size = sum(os.lstat(tree / name).st_size for name in corpus.names(files)[1])
        results.changes = corpus.changes(files)
        own = Rfs(tree, self._place / Rfs.name)
        peers = [kind(tree, self._place / kind.name) for kind in self.peers]
        tools: dict[str, Tool] = {tool.name: tool for tool in (own, *peers)}
        # Who takes little time is measured several times, between the others.
        order = _alternating(list(tools))
        for name in (*tools, "rfs"):
            self._measure("first", name, tools[name].first)
        for name in order:
            self._measure("nothing", name, tools[name].again)
        for name, tool in tools.items():
            results.repository[name], results.everything[name] = tool.sizes()
        self._change()
        for name, tool in tools.items():
            self._measure("changed", name, tool.again)
        # Who writes every file anew comes last: it would make all the others look at every file.
        order.sort(key=lambda name: name not in _QUICK)
        for number, name in enumerate(order):
            if number:
                self._change()
            self._measure("back", name, tools[name].back)
            self._compare(name, closely=name not in order[number + 1 :])
        results.scan = statistics.median(_scan(tree) for _ in range(3))
        self._with_a_service(own)
        results.startup = startup.ratios(self._place / "startup")

    def _change(self) -> None:
        _apart(lambda: corpus.change(self._tree, SEED + 1, self._files))

    def _measure(self, what: str, name: str, do: Callable[[], Cost]) -> None:
        cost = do()
        self.results.add(what, name, cost)
        print(f"{what:8} {name:7} {cost.wall:7.2f} s {cost.cpu:7.2f} s of CPU {cost.memory >> 20:5} MB", flush=True)

    def _compare(self, whose: str, *, closely: bool) -> None:
        """Note in how many things the tree differs at most from what it was after a way back, and put that right.

        Args:
            closely: whether contents are compared also where size and time are equal.
        """
        compare = ["rsync", "-aHAX", "--delete", "--itemize-changes", f"{self._same}/", f"{self._tree}/"]
        found = subprocess.run([*compare, *(["-c"] if closely else [])], capture_output=True, check=True).stdout
        left = self.results.left
        left[whose] = max(left.get(whose, 0), found.count(b"\n"))

    def _with_a_service(self, own: Rfs) -> None:
        own.serve()
        for closely in (False, True):
            self._change()
            self._measure("served", "rfs", own.back)
            self.results.outages.append(own.outage or 0.0)
            self._compare("rfs, with a service", closely=closely)


def _alternating(names: list[str]) -> list[str]:
    """Return an order in which each slow tool stands between runs of the quick ones."""
    fast = [name for name in names if name in _QUICK]
    slow = [name for name in names if name not in _QUICK]
    return [name for each in itertools.zip_longest(slow, (), fillvalue="") for name in (*fast, each[0])] + fast


def _apart(*works: Callable[[], None]) -> None:
    """Do these at once, each in a process of its own: what it needed of memory would be counted with the tools'."""
    children = []
    for work in works:
        child = os.fork()
        if not child:
            status = 1
            try:
                work()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    if failed:
        raise RuntimeError("a tree could not be made, changed or removed")


def _remove(folder: Path) -> None:
    """Remove a folder.

    In many processes: on a disk that is told what is free (mount option discard), each removal waits for its answer.
    """
    inside = [path for path in folder.glob("*/*/*/*") if path.is_dir() and not path.is_symlink()]

    def remove(paths: Sequence[Path]) -> None:
        for path in paths:
            shutil.rmtree(path)

    _apart(*(partial(remove, inside[first::_REMOVERS]) for first in range(_REMOVERS)))
    shutil.rmtree(folder)


def _scan(root: Path) -> float:
    """Return the seconds of one look at everything, as quick as plain Python can."""
    began = time.perf_counter()
    for _ in _entries(str(root)):
        pass
    return time.perf_counter() - began


def _entries(path: str) -> Iterator[os.stat_result]:
    waiting = [path]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


if __name__ == "__main__":
    sys.exit(main())
