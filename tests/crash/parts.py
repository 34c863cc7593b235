"""Parts of rfs by themselves: the store's flush, and the restore of each driver under a journal of one step."""

from __future__ import annotations

import os
import pickle
import time
from abc import abstractmethod
from pathlib import Path

import apsw
from tests.crash.controls import WithoutFileSync, WithoutFolderSync
from tests.crash.harness import Scenario, look
from tests.crash.tree import make_first_tree, make_second_tree

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.drivers.config import ConfigDriver
from rfs.production.rollback.drivers.files import FilesDriver
from rfs.production.rollback.drivers.sqlite import SqliteDriver
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Capture, Component
from rfs.production.rollback.store import Store, annex
from rfs.testing import MemoryStore, component


class StoreFlush(Scenario):
    """Blobs, a part and a record are put and flushed, behind those of an earlier flush."""

    live = ("store/packs",)

    def blobs(self, word: str) -> list[bytes]:
        return [f"{word} {n} ".encode() * (1 + n * 40) for n in range(6)]

    def put(self, store: Store, word: str) -> None:
        refs = [store.put(blob) for blob in self.blobs(word)]
        store.put_part(refs, word.encode())
        store.put_record("word", word.encode())
        store.flush()

    def prepare(self, world: Path) -> None:
        with Store.create(str(world / "store"), str(world / "key")) as store:
            self.put(store, "first")

    def open(self, world: Path) -> Store:
        return Store.open(str(world / "store"), str(world / "key"))

    def act(self, world: Path) -> None:
        with self.open(world) as store:
            store.recover()
            self.put(store, "second")

    def recover(self, world: Path) -> None:
        with self.open(world) as store:
            store.recover()

    def judge(self, world: Path) -> str:
        with self.open(world) as store:
            damage = store.verify()
            if damage:
                return f"corrupt: {damage}"
            words = [body.decode() for body in store.records("word")]
            for word in words:
                if any(store.get(store.identify(blob)) != blob for blob in self.blobs(word)):
                    return f"corrupt: a blob of the {word} flush is another"
        return {"first": "old", "first second": "new"}.get(" ".join(words), f"lost: the records are {words}")


class StoreFlushWithAnnex(StoreFlush):
    """A part of it was stored by a helper, that was about to store more; its pack is sealed as it is."""

    worth_a_pack = 0

    def put(self, store: Store, word: str) -> None:
        annex.WORTH_A_PACK = self.worth_a_pack
        helpers = store.annex()
        helpers.put_all(self.blobs(word)[1:5])
        for told in helpers.taken():
            store.adopt(*told)
        helpers.put_all([b"untold" * 100])
        helpers.taken()
        super().put(store, word)


class StoreFlushWithLittleAnnex(StoreFlushWithAnnex):
    """What the helper stored is brought into the pack of the others."""

    worth_a_pack = 1 << 20


class StoreFlushWithoutFileSync(WithoutFileSync, StoreFlush):
    pass


class StoreFlushWithoutFolderSync(WithoutFolderSync, StoreFlush):
    pass


class DriverRestore(Scenario):
    """A driver's stage and restore, with *done* written after it; recovery runs it again unless it is done.

    The state after recovery must be the wanted one, since what is not done is run again.
    """

    done_first = False

    @abstractmethod
    def driver(self) -> Driver: ...

    @abstractmethod
    def component(self, world: Path) -> Component: ...

    @abstractmethod
    def make(self, live: Path) -> None:
        """Make the state that is wanted."""

    @abstractmethod
    def spoil(self, live: Path) -> None:
        """Make the state before."""

    def seen(self, world: Path) -> object:
        return look(world / "live")

    def prepare(self, world: Path) -> None:
        live = world / "live"
        live.mkdir()
        self.make(live)
        c, driver, store = self.component(world), self.driver(), MemoryStore()
        new, new_seen = driver.capture(c, store, None), self.seen(world)
        self.spoil(live)
        old, old_seen = driver.capture(c, store, new), self.seen(world)
        database = apsw.Connection(str(world / "journal.db"))
        database.execute("CREATE TABLE done (at REAL)")
        database.close()
        (world / "known").write_bytes(pickle.dumps((store, new, new_seen, old, old_seen)))

    def known(self, world: Path) -> tuple[MemoryStore, Capture, object, Capture, object]:
        store, new, new_seen, old, old_seen = pickle.loads((world / "known").read_bytes())
        return store, new, new_seen, old, old_seen

    def act(self, world: Path) -> None:
        store, want, *_ = self.known(world)
        c, driver = self.component(world), self.driver()
        if self.done_first:
            self.mark(world)
        driver.stage(c, store, want)
        driver.restore(c, store, want)
        if driver.verify(c, store, want):
            raise AssertionError("verify finds a difference")
        if not self.done_first:
            self.mark(world)
        driver.release(c)

    def mark(self, world: Path) -> None:
        # Through SQLite, as the journal does it: a mark that is there is durable.
        try:
            database = apsw.Connection(str(world / "journal.db"))
            try:
                database.pragma("synchronous", "extra")
                database.execute("INSERT INTO done VALUES (?)", (time.time(),))
            finally:
                database.close()
        except apsw.Error as error:
            raise RollbackError("store.unwritable", path="the journal", why=error) from error

    def marked(self, world: Path) -> bool:
        database = apsw.Connection(str(world / "journal.db"))
        try:
            return bool(database.execute("SELECT count(*) FROM done").get)
        finally:
            database.close()

    def recover(self, world: Path) -> None:
        store, want, *_ = self.known(world)
        if not self.marked(world):
            self.driver().restore(self.component(world), store, want)
        self.driver().release(self.component(world))

    def judge(self, world: Path) -> str:
        _, _, new_seen, *_ = self.known(world)
        seen = self.seen(world)
        return "new" if seen == new_seen else f"mixed: {differing(new_seen, seen)}"


class DriverTurn(DriverRestore):
    """The way back: after a crash the state before is restored, over whatever the broken restore left."""

    def recover(self, world: Path) -> None:
        store, _, _, old, _ = self.known(world)
        if not self.marked(world):
            self.driver().restore(self.component(world), store, old)
        self.driver().release(self.component(world))

    def judge(self, world: Path) -> str:
        _, _, new_seen, _, old_seen = self.known(world)
        seen, wanted = self.seen(world), new_seen if self.marked(world) else old_seen
        if seen != wanted:
            return f"mixed: {differing(wanted, seen)}"
        return "new" if self.marked(world) else "old"


def differing(wanted: object, seen: object) -> str:
    """Return the first differences as one line."""
    if isinstance(wanted, dict) and isinstance(seen, dict):
        names = sorted(name for name in wanted.keys() | seen.keys() if wanted.get(name) != seen.get(name))
        return "; ".join(f"{name}: {_cut(wanted.get(name))} ≠ {_cut(seen.get(name))}" for name in names[:4])
    return f"{_cut(wanted)} ≠ {_cut(seen)}"


def _cut(value: object) -> str:
    return str(value)[:90]


class _Sqlite:
    """The hooks for a SQLite database of some pages in write-ahead mode."""

    journal = "wal"

    def driver(self) -> Driver:
        return SqliteDriver()

    def component(self, world: Path) -> Component:
        return component("sqlite", world, path="live/shop.db")

    def make(self, live: Path) -> None:
        self.run(live, "CREATE TABLE orders (n INTEGER PRIMARY KEY, text TEXT)", *self.insert(0, 60))

    def spoil(self, live: Path) -> None:
        self.run(live, "DELETE FROM orders WHERE n % 3 = 0", "CREATE TABLE extra (n)", *self.insert(100, 80))
        (live / "shop.db").chmod(0o640)

    def insert(self, first: int, count: int) -> list[str]:
        return [f"INSERT INTO orders VALUES ({n}, '{'x' * 300}')" for n in range(first, first + count)]

    def run(self, live: Path, *statements: str) -> None:
        database = apsw.Connection(str(live / "shop.db"))
        try:
            database.pragma("journal_mode", self.journal)
            database.pragma("synchronous", "off")
            with database:
                for statement in statements:
                    database.execute(statement)
        finally:
            database.close()

    def seen(self, world: Path) -> object:
        """Everything in the database, as SQLite tells it, and the file's mode."""
        path = world / "live" / "shop.db"
        database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            rows = {table: list(database.execute(f"SELECT * FROM {table}")) for table in sorted(tables)}
            sound = database.execute("PRAGMA integrity_check").get
            mode = database.pragma("journal_mode")
        finally:
            database.close()
        return {"mode": oct(path.stat().st_mode), "sound": sound, "journal": mode, **rows}


class SqliteRestore(_Sqlite, DriverRestore):
    live = ()


class SqliteTurn(_Sqlite, DriverTurn):
    live = ()


class SqliteRestoreInRollbackJournal(SqliteRestore):
    journal = "delete"


class SqliteRestoreDoneFirst(SqliteRestore):
    done_first = True


class _Files:
    """The hooks for a tree of files."""

    def driver(self) -> Driver:
        return FilesDriver()

    def component(self, world: Path) -> Component:
        return component("files", world, path="live")

    def make(self, live: Path) -> None:
        make_first_tree(live)

    def spoil(self, live: Path) -> None:
        make_second_tree(live)


class FilesRestore(_Files, DriverRestore):
    pass


class FilesTurn(_Files, DriverTurn):
    pass


class FilesRestoreDoneFirst(FilesRestore):
    done_first = True


class FilesRestoreWithoutFileSync(WithoutFileSync, FilesRestore):
    pass


class FilesRestoreWithoutFolderSync(WithoutFolderSync, FilesRestore):
    pass


class _Config:
    """The hooks for one settings file."""

    def driver(self) -> Driver:
        return ConfigDriver()

    def component(self, world: Path) -> Component:
        return component("config", world, path="live/settings.toml")

    def make(self, live: Path) -> None:
        (live / "settings.toml").write_text("# the shop\ntitle = 'one'\n")

    def spoil(self, live: Path) -> None:
        (live / "settings.toml").write_text("# the shop\ntitle = 'two'\ndebug = true\n")
        (live / "settings.toml").chmod(0o600)

    def seen(self, world: Path) -> object:
        # The folder belongs to nobody: its time is put back only as far as a crash allows.
        return look(world / "live" / "settings.toml") | {"names": str(sorted(os.listdir(world / "live")))}


class ConfigRestore(_Config, DriverRestore):
    pass


class ConfigTurn(_Config, DriverTurn):
    pass
