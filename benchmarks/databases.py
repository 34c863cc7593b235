"""rfs beside pg_dump, dslr and SQLite's backup API, on one machine in one run: `make bench-databases`.

A PostgreSQL server of its own is started and removed again. Absolute times mean little;
ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from benchmarks import database_corpus as corpus
from benchmarks import database_report as report
from benchmarks import machine
from benchmarks.database_tools import RFS, Dslr, Dump, Rfs, Tool, Watcher, rolled_back, size_of
from benchmarks.measure import Cost, compile_rfs, run
from rfs.demo.server import Server

RESULTS = Path(__file__).parent / "results"
_BACKUP = """
import os, sqlite3, sys
old, new = sqlite3.connect(sys.argv[1]), sqlite3.connect(sys.argv[2])
old.backup(new)
new.close()
with open(sys.argv[2], "rb") as file:
    os.fsync(file.fileno())
"""


def main() -> int:
    options = _options()
    compile_rfs()
    place = Path(tempfile.mkdtemp(prefix="rfs-bench-", dir=options.place))
    began = time.monotonic()
    found = report.Results()
    described = machine.describe(place)
    try:
        on_files(found, place, options)
        if options.only != "sqlite":
            on_server(found, place, options)
    finally:
        shutil.rmtree(place)
    text = (report.render_files if options.only == "sqlite" else report.render)(found, described)
    print(text)
    print(f"It took {time.monotonic() - began:.0f} s.")
    out = options.out or (RESULTS / "databases.md" if options.scale == 1 and not options.only else None)
    if out:
        Path(out).parent.mkdir(exist_ok=True)
        Path(out).write_text(text, encoding="utf-8")
        print(f"Written to {out}")
    return 0 if found.exact else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-databases", description=__doc__)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="1 is 755 MB; less for a quick look, which writes no table"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each tool does everything")
    parser.add_argument("--only", choices=["sqlite"], help="leave the server out; writes no table")
    parser.add_argument("--without-dslr", action="store_true", help="install nothing; its column is missing then")
    parser.add_argument("--place", default=None, help="where the temporary folder is made; decides the file system")
    parser.add_argument("--out", default=None, help="the table's file; by default only a whole run writes one")
    return parser.parse_args()


# — PostgreSQL —


def on_server(found: report.Results, place: Path, options: argparse.Namespace) -> None:
    """Do all of it on a server that is started for this."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ["PGPORT"] = str(probe.getsockname()[1])  # heeded by the server and by every client
    # dslr reaches a server by TCP only. What a server is usually told on such a machine; it does fsync.
    server = Server("-h", "127.0.0.1", "-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB")
    try:
        server.initialise()
        server.start()
        url = f"postgresql:///shop?host={server.socket}&user=shop"
        server.psql("CREATE ROLE shop LOGIN CREATEDB", "CREATE DATABASE shop OWNER shop")
        # dslr and DROP … WITH (FORCE) end every session of a database; autovacuum's is only such a role's to end.
        server.psql("GRANT pg_signal_autovacuum_worker, pg_signal_backend TO shop")
        statements = ["SET ROLE shop", *corpus.schema(int(corpus.ROWS * options.scale))]
        server.psql(*statements, database="shop")
        server.psql("VACUUM ANALYZE", "CHECKPOINT", database="shop")
        found.rows, found.size = _asked(
            url, "SELECT sum(reltuples)::bigint, pg_database_size('shop') FROM pg_class WHERE relkind = 'r'"
        )
        found.versions = [_said(RFS, "--version"), _said(str(server.bin / "pg_dump"), "--version")]
        own = Rfs(place / "rfs", server, url)
        tools: list[Tool] = [own, Dump(place / "pg_dump", server, url)]
        if not options.without_dslr:
            tools.append(Dslr(place / "dslr", server, url))
            found.versions.append(f"dslr {_dslr_version(place)}")
        for _ in range(options.rounds):
            for tool in tools:
                _checkpoint(found, tool, url)
        _more_checkpoints(found, own, url)
        own.back()
        state = _asked(url, corpus.SUM)
        for _ in range(options.rounds):
            for tool in tools:
                _back(found, tool, url, state)
    finally:
        server.remove()


def _checkpoint(found: report.Results, tool: Tool, url: str) -> None:
    with Watcher(url) as watcher:
        cost = tool.checkpoint()
    found.add("checkpoint", tool.name, cost, watcher.outage)
    found.sizes[tool.name] = tool.size()


def _more_checkpoints(found: report.Results, own: Rfs, url: str) -> None:
    steps = {"nothing": "", "clustered": corpus.CLUSTERED, "spread": corpus.SPREAD, "whole": corpus.ALL}
    for step, statement in steps.items():
        if statement:
            _do(url, statement)
        cost, found.stored[step] = own.again()
        found.add(step, own.name, cost)


def _back(found: report.Results, tool: Tool, url: str, state: tuple[int, ...]) -> None:
    _do(url, corpus.SPREAD)
    with Watcher(url) as watcher:
        cost = tool.back()
    # Between a table and the rest of its database an application cannot work: for pg_restore all of it is outage.
    found.add("back", tool.name, cost, cost.wall if isinstance(tool, Dump) else watcher.outage)
    if _asked(url, corpus.SUM) != state:
        found.wrong.append(tool.name)


def _do(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement)


def _asked(url: str, query: str) -> tuple[int, ...]:
    with psycopg.connect(url) as connection:
        return tuple(map(int, connection.execute(query).fetchone() or ()))


def _said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def _dslr_version(place: Path) -> str:
    python = str(place / "dslr" / "venv" / "bin" / "python")
    return _said(python, "-c", "import importlib.metadata as m; print(m.version('dslr'))")


# — SQLite —


def on_files(found: report.Results, place: Path, options: argparse.Namespace) -> None:
    """Do the same on a SQLite file, beside the backup API of SQLite itself."""
    home, live, copy = place / "sqlite", place / "sqlite" / "live.db", place / "copy.db"
    home.mkdir()
    corpus.make_file(live, int(corpus.ROWS * options.scale))
    found.file_size = live.stat().st_size
    (home / "rfs.toml").write_text(
        '[app]\nname = "bench"\n[components.db]\nkind = "sqlite"\npath = "live.db"\n'
        f'[store]\npath = "store"\nkey = "file:{home}/key"\n'
    )
    for _ in range(options.rounds):
        shutil.rmtree(home / "store", ignore_errors=True)
        run([RFS, "init", "--yes"], cwd=home)
        cost, printed = run([RFS, "checkpoint", "-q"], cwd=home)
        found.add("file", "rfs", cost)
        copy.unlink(missing_ok=True)
        found.add("file", "backup", _backup(live, copy, place))
        first = printed.strip()
        found.sizes["sqlite"] = size_of(home / "store" / "packs")
        corpus.change_file(live)
        found.add("file changed", "rfs", run([RFS, "checkpoint", "-q"], cwd=home)[0])
        steps: dict[str, float] = {}
        found.add("file back", "rfs", rolled_back(home, first, steps))
        found.file_steps.append((steps["restore:db"], steps["verify:db"]))
        if _rows(live) != _rows(copy):
            found.wrong.append("sqlite")
        corpus.change_file(live)
        found.add("file back", "backup", _backup(copy, live, place))


def _backup(old: Path, new: Path, place: Path) -> Cost:
    return run([sys.executable, "-c", _BACKUP, str(old), str(new)], cwd=place)[0]


def _rows(path: Path) -> tuple[int, ...]:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT count(*), sum(n), sum(length(note)) FROM accounts").fetchone()
    connection.close()
    return tuple(found)


if __name__ == "__main__":
    sys.exit(main())
