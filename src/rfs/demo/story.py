"""The story: install, checkpoint, break, look, roll back, prove, undo, prove, roll back again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rfs.demo import guarded, witness
from rfs.demo.database import Database, InFile, OnServer, lacking
from rfs.demo.server import ServerError
from rfs.demo.shop import Shop, ShopError
from rfs.demo.teller import ClaimError, Teller

COMMAND_SECONDS = 120
HEALTH_LINES = ("[[health]]", "name = ", "http = ", "required = ")
REMARKS = ("note: ", "warning: ", "error: ")
KINDS = {"files", "config", "environment", "service"}
# Here somebody else makes and removes files: SQLite its journals, supervisord its socket, visitors their pictures.
BUSY_FOLDERS = {"data", "run", "uploads"}
KETTLE, CUP = "glass-kettle-1", "porcelain-cup-2"


def run(folder: Path | None = None, *, keep: bool = False, kind: str = "sqlite") -> int:
    """Tell the story, and return the exit code: 0 only when every claim held.

    Args:
        folder: where to put the shop, new or empty; None takes a temporary one.
        keep: leave the folder behind.
        kind: of the shop's database: "sqlite", or "postgresql" on a server that the demo starts.
    """
    teller = Teller()
    if find_spec("supervisor") is None:
        teller.error("The demo runs its shop under supervisor, which is not installed.")
        teller.error("Install it next to rfs: pip install 'rfs-rollback[demo]'")
        return 2
    if missing := lacking(kind):
        teller.error(f"The demo cannot run its shop on PostgreSQL here. Install what is missing: {missing}")
        return 2
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        teller.error(f"{folder} is not an empty folder. Name a new one with --dir.")
        return 2
    base = Path(tempfile.mkdtemp(prefix="rfs-demo-")) if folder is None else folder.absolute()
    base.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    code = _guarded(base, teller, kind)
    if keep:
        without = "" if kind == "sqlite" else ", without its database, which went with its server"
        teller.say(f"The shop is still in {base / 'shop'}{without}.")
    else:
        shutil.rmtree(base)
    if code == 0:
        teller.say(f"{teller.claims} claims, each checked, in {time.monotonic() - started:.0f} s.")
    return code


def _guarded(base: Path, teller: Teller, kind: str) -> int:
    """Tell the story, and end every process of it whatever happens."""
    signal.signal(signal.SIGTERM, _terminated)
    demo: Demo | None = None
    try:
        demo = Demo(base, teller, OnServer() if kind == "postgresql" else InFile(base / "shop" / "data" / "shop.db"))
        demo.tell()
        code = 0
    except ClaimError:
        teller.error("The demo stops here: the claim above does not hold.")
        code = 1
    except (ShopError, ServerError, OSError) as error:
        teller.error(f"The demo could not go on: {error}")
        code = 1
    except KeyboardInterrupt:
        teller.error("Interrupted.")
        code = 130
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave the shop running
        killed = demo.shop.stop() if demo else []
        left = demo.database.end() if demo else []
    left += [f"{pid}: {command}" for pid, command in demo.shop.running()] if demo else []
    with contextlib.suppress(ClaimError):
        teller.chapter("The end")
        teller.claim("every process of the demo has ended", [*killed, *left])
        return code
    return code or 1


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


class Demo:
    """One telling. `base` is an existing, empty folder; all that is written is in it, or belongs to `database`."""

    def __init__(self, base: Path, teller: Teller, database: Database) -> None:
        self.base = base
        self.teller = teller
        self.database = database
        self.shop = Shop(base, database.url)
        self.shop.environment |= database.environment
        # The key of the store goes to the user's configuration, and here that is the demo's.
        self.shop.environment["XDG_CONFIG_HOME"] = str(base / "config")
        self.files: dict[str, dict[str, witness.Entry]] = {}
        self.rows: dict[str, witness.Rows] = {}

    def tell(self) -> None:
        """Raises ClaimError when a claim does not hold, ShopError when the shop does not work."""
        self.open_shop()
        self.set_up()
        self.take_checkpoint()
        self.break_it()
        self.look()
        self.roll_back("2.0.0 is taken back")
        self.prove("1.4.2", "v1")
        if self.database.kind == "postgresql":
            self.salvage()
        self.undo()
        self.roll_back("2.0.0 is taken back again")
        self.prove("1.4.2", "v1")
        self.take_back_the_middle_one()
        guarded.tell(self)
        self.finish()

    # — the chapters —

    def open_shop(self) -> None:
        self.teller.chapter(
            f"A shop: web and worker under supervisor, {self.database.title}, settings, secrets, pictures"
        )
        self.shop.install()
        self.shop.start()
        self.shop.order(KETTLE, CUP)
        self.teller.say(f"It runs at http://127.0.0.1:{self.shop.port}/ in {self.shop.folder}")
        self.claim_health("1.4.2")

    def set_up(self) -> None:
        self.teller.chapter("Two minutes of set-up, once")
        self.rfs("init", "--store", str(self.base / "store"))
        path = self.shop.folder / "rfs.toml"
        taken = (*self.database.suggested, *HEALTH_LINES)
        path.write_text(uncommented(path.read_text(encoding="utf-8"), taken), encoding="utf-8")
        what = "database and the health check" if self.database.suggested else "health check"
        self.teller.say(f"The {what} that it suggests are taken: {len(taken)} lines lose their “#”.")
        self.rfs("doctor")
        found = {
            line.split('"')[1] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("kind")
        }
        self.teller.claim(
            "files, configuration, environment, database and services were all found by `rfs init`",
            [f"not found: {kind}" for kind in sorted({*KINDS, self.database.kind} - found)],
        )

    def take_checkpoint(self) -> None:
        self.teller.chapter("A checkpoint of the whole application, while it runs")
        self.rfs("checkpoint", "-m", "before version 2", "--tag", "v1")
        self.remember("v1")
        paths, rows = len(self.files["v1"]), row_count(self.rows["v1"])
        self.teller.say(f"The demo notes {paths} paths and {rows} rows for itself, to compare with later.")

    def break_it(self) -> None:
        self.teller.chapter("Version 2 is deployed: code, settings, secrets, templates, schema and data change")
        self.teller.command(["python", "deploy_v2.py", "shop"])
        self.shop.deploy_v2()
        number = self.shop.order(KETTLE)
        picture = self.shop.upload(KETTLE, (self.shop.folder / "uploads" / f"{CUP}.png").read_bytes())
        self.teller.say(f"A customer orders on it (number {number}), and somebody uploads {picture}.")
        status, _ = self.shop.checkout(KETTLE, CUP)
        self.teller.say(f"Then the complaints come: an order of two products answers {status}, and the ledger is off.")
        self.remember("v2")
        files = witness.file_differences(self.files["v1"], self.files["v2"])
        rows = witness.row_differences(self.rows["v1"], self.rows["v2"])
        broken = [] if status == 500 and files and rows and self.ledger("v2") else ["version 2 works"]
        self.teller.claim(f"it is broken: {len(files)} paths and {len(rows)} tables are other than before", broken)

    def look(self) -> None:
        self.teller.chapter("What happened, and what would a rollback do and lose?")
        self.rfs("status", codes=(0, 15))
        self.rfs("diff", "v1", "--only", "config,env")
        self.rfs("plan", "v1")
        plan = self.json("plan", "v1")
        lost = [f"{loss['count']} {loss['what']}" for loss in plan["losses"]]
        self.teller.claim(
            "the plan says that the order placed on version 2 would be lost",
            [] if "1 rows in table orders" in lost else [f"it lists: {', '.join(lost) or 'nothing'}"],
        )
        self._claim_same("v2", "as before the look")

    def roll_back(self, title: str) -> None:
        self.teller.chapter(f"One command, and {title}")
        self.rfs("rollback", "v1", "--reason", "orders fail on version 2", "--yes")

    def prove(self, version: str, state: str) -> None:
        self.teller.chapter(f"Is it really {version} again? Not rfs says so: the demo's own comparison does")
        self._claim_same(state, "as they were at the checkpoint")
        self.claim_health(version)

    def salvage(self) -> None:
        self.teller.chapter("The order placed on version 2 is not lost: it can be brought out of what was set aside")
        self.rfs("db", "list")
        self.rfs("db", "salvage", "--table", "orders")
        (found,) = self.json("db", "salvage", "--table", "orders")
        wanted = [row for row in self.rows["v2"]["orders"] if row not in self.rows["v1"]["orders"]]
        brought = [tuple(row) for row in found["rows"]]
        texts = [tuple(None if value is None else str(value) for value in row) for row in wanted]
        self.teller.claim(
            f"it brings out exactly the {len(wanted)} order that only version 2 had",
            [] if brought == texts and wanted else [f"{brought} instead of {texts}"],
        )

    def undo(self) -> None:
        self.teller.chapter("The rollback itself can be undone: version 2, with the order placed on it")
        self.rfs("undo", "--yes")
        self._claim_same("v2", "as they were on version 2")
        self.claim_health("2.0.0")

    def take_back_the_middle_one(self) -> None:
        self.teller.chapter("Three settings are changed one by one, and only the one in the middle is taken back")
        before = self.shop.settings
        self.teller.command(["python", "night_shift.py", "shop"])
        self.shop.night_shift()
        changed = self.shop.settings
        self.rfs("log", "-n", "3")
        middle = self.json("log", "-n", "3")[1]
        self.rfs("undo", middle["rollback_id"][:12], "--yes")
        was, became = (next(line for line in text.splitlines() if "currency" in line) for text in (before, changed))
        self.teller.claim(
            f"{middle['what']} is as it was, with its comment, and every other byte of the file as the others left it",
            [] if self.shop.settings == changed.replace(became, was) != before else [self.shop.settings],
        )

    def finish(self) -> None:
        number = self.shop.order(KETTLE, CUP)
        self.remember("now")
        self.teller.claim(
            f"an order of two products goes through (number {number}), and the ledger adds up to 0",
            [f"the ledger adds up to {self.ledger('now')}"] if self.ledger("now") else [],
        )
        pictures = [path for path in self.files["v2"] if path.startswith("uploads/")]
        self.teller.claim(
            f"all {len(pictures)} pictures are there, the one uploaded on version 2 too: uploads are kept",
            [f"{path} is gone" for path in pictures if path not in self.files["now"]],
        )
        self.teller.chapter("Nothing of it is forgotten")
        self.rfs("log")

    # — how it is checked —

    def remember(self, state: str) -> None:
        self.files[state] = {path: steady(path, entry) for path, entry in self._files().items()}
        self.rows[state] = self.database.rows()

    def _files(self) -> dict[str, witness.Entry]:
        return witness.files(self.shop.folder, left_out)

    def ledger(self, state: str) -> int:
        return sum(row[3] for row in self.rows[state]["ledger"])

    def _claim_same(self, state: str, how: str) -> None:
        found = {path: steady(path, entry) for path, entry in self._files().items()}
        wanted = self.files[state]
        # What was uploaded since is kept by a rollback, and is no difference.
        kept = {path for path in found.keys() - wanted.keys() if path.startswith("uploads/")}
        self.teller.claim(
            f"{len(wanted)} files, folders and links are {how}: bytes, modes, owners, times, attributes",
            witness.file_differences(wanted, {path: entry for path, entry in found.items() if path not in kept}),
        )
        rows = self.database.rows()
        problems = witness.row_differences(self.rows[state], rows)
        self.teller.claim(f"{row_count(rows)} rows and the schema are {how}, compared one by one", problems)

    def claim_health(self, version: str) -> None:
        health = self.shop.health()
        good = health["http"] == 200 and health["version"] == version
        self.teller.claim(f"/health answers 200, version {version}", [] if good else [json.dumps(health)])

    # — the command line —

    def rfs(self, *words: str, codes: Sequence[int] = (0,), shown: Sequence[str] = ()) -> None:
        """Run a command of rfs in the shop's folder and show it, or what is `shown` for it, with what it printed.

        Raises:
            ClaimError: it ended with none of `codes`.
        """
        self.teller.command(["rfs", *(shown or words)])
        done = self._run(words)
        failed = done.returncode not in codes
        # Progress is for somebody who waits for it; here it would bury the story.
        told = [line for line in done.stderr.splitlines() if failed or line.startswith(REMARKS)]
        self.teller.output("\n".join([*told, done.stdout]))
        if failed:
            self.teller.claim(f"rfs {words[0]} succeeds", [f"it ended with {done.returncode}"])

    def ends(self, *words: str) -> int:
        """Run a command of rfs, unseen, and return what it ended with."""
        return self._run(words).returncode

    def json(self, *words: str) -> Any:
        """Run a command of rfs with --json, unseen, and return its data."""
        done = self._run([*words, "--json"])
        try:
            data = json.loads(done.stdout)["data"]
        except (ValueError, KeyError):
            self.teller.claim(f"rfs {words[0]} --json prints its envelope", [done.stdout or done.stderr])
            raise
        return data

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*rfs_command(), *words],
            cwd=self.shop.folder,
            env=self.shop.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )


def rfs_command() -> list[str]:
    """Return the `rfs` that belongs to this Python, whatever else is on the PATH."""
    script = Path(sysconfig.get_path("scripts")) / "rfs"
    if script.is_file():
        return [str(script)]
    return [sys.executable, "-c", "import sys; from rfs.cli.main import main; sys.exit(main())"]


def left_out(path: str) -> bool:
    """Tell whether a path is no part of the shop's state: logs, caches, sockets, rfs.toml, and what SQLite owns."""
    name = os.path.basename(path)
    if name == "__pycache__" or path in ("log", "rfs.toml"):
        return True
    return path.startswith(("run/", "data/shop.db"))


def steady(path: str, entry: witness.Entry) -> witness.Entry:
    """Return an entry without the time of a folder in which others make and remove files."""
    return entry._replace(mtime=0) if path in BUSY_FOLDERS else entry


def uncommented(text: str, beginnings: Sequence[str]) -> str:
    """Return rfs.toml with the lines that begin so, behind "#   ", taken out of their comment.

    Raises:
        ShopError: there is no such line.
    """
    lines = text.splitlines()
    for beginning in beginnings:
        number = next((n for n, line in enumerate(lines) if line.startswith(f"#   {beginning}")), None)
        if number is None:
            raise ShopError(f"rfs init suggests no {beginning}")
        lines[number] = lines[number].removeprefix("#   ")
    return "\n".join([*lines, ""])


def row_count(rows: witness.Rows) -> int:
    return sum(len(found) for found in rows.values())
