"""The demo's own comparison must see every difference that a restore could leave."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rfs.demo import witness


def look(root: Path) -> dict[str, witness.Entry]:
    return witness.files(root, lambda path: path == "left-out")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file").write_text("one")
    (root / "second-name").hardlink_to(root / "folder" / "file")
    (root / "link").symlink_to("folder/file")
    os.mkfifo(root / "fifo")
    (root / "left-out").mkdir()
    (root / "left-out" / "unseen").write_text("x")
    return root


def test_what_is_seen(tree: Path) -> None:
    seen = look(tree)
    assert {path: entry.kind for path, entry in seen.items()} == {
        ".": "folder",
        "folder": "folder",
        "folder/file": "file",
        "second-name": "file",
        "link": "link",
        "fifo": "other",
    }
    assert seen["folder/file"].twins == ("second-name",)
    assert seen["link"].content == "folder/file"
    assert witness.file_differences(seen, look(tree)) == []


def rewrite(root: Path) -> None:
    """The same size and time, another content."""
    path = root / "folder" / "file"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("two")
    os.utime(path, ns=times)


def break_link(root: Path) -> None:
    found = (root / "second-name").stat()
    (root / "second-name").unlink()
    (root / "second-name").write_text("one")
    os.utime(root / "second-name", ns=(found.st_atime_ns, found.st_mtime_ns))


def retarget(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("fifo")


@pytest.mark.parametrize(
    ("change", "path", "word"),
    [
        (rewrite, "folder/file", "content"),
        (break_link, "second-name", "twins"),
        (retarget, "link", "content"),
        (lambda root: (root / "folder").chmod(0o711), "folder", "mode"),
        (lambda root: os.utime(root / "fifo", ns=(0, 1)), "fifo", "mtime"),
        (lambda root: (root / "fifo").unlink(), "fifo", "is missing"),
        (lambda root: (root / "more").touch(), "more", "should not be there"),
    ],
)
def test_every_difference_is_told(tree: Path, change: Callable[[Path], None], path: str, word: str) -> None:
    before = look(tree)
    change(tree)
    told = [line for line in witness.file_differences(before, look(tree)) if line.startswith(f"{path}: ")]
    assert len(told) == 1
    assert word in told[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_an_owner_is_told(tree: Path) -> None:
    before = look(tree)
    os.chown(tree / "link", 1234, 4321, follow_symlinks=False)
    (line,) = witness.file_differences(before, look(tree))
    assert line == "link: owner 0 → 1234, group 0 → 4321"


def test_an_extended_attribute_is_told(tree: Path) -> None:
    try:
        os.setxattr(tree / "folder", "user.a", b"1")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    before = look(tree)
    os.setxattr(tree / "folder", "user.a", b"2")
    (line,) = witness.file_differences(before, look(tree))
    assert line.startswith("folder: xattrs")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE "odd ""name" (id INTEGER PRIMARY KEY, word TEXT);
            CREATE TABLE unordered (a, b) ;
            INSERT INTO "odd ""name" VALUES (1, 'x'), (2, 'y');
            INSERT INTO unordered VALUES (2, 1), (1, 2);
        """)
    return path


def test_rows_do_not_depend_on_where_they_lie(database: Path) -> None:
    before = witness.rows(database)
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript("DELETE FROM unordered; INSERT INTO unordered VALUES (1, 2), (2, 1); VACUUM")
    assert witness.row_differences(before, witness.rows(database)) == []


@pytest.mark.parametrize(
    ("sql", "table"),
    [
        ("""UPDATE "odd ""name" SET word = 'z' WHERE id = 2""", 'odd "name: 2 rows → 2, 1 of them other'),
        ("INSERT INTO unordered VALUES (3, 3)", "unordered: 2 rows → 3"),
        ("CREATE TABLE extra (a)", "extra: should not be there"),
        ("DROP TABLE unordered", "unordered: is missing"),
        ("CREATE INDEX i ON unordered (a)", "sqlite_schema"),
        ("PRAGMA user_version = 7", "user_version"),
    ],
)
def test_every_difference_in_the_data_is_told(database: Path, sql: str, table: str) -> None:
    before = witness.rows(database)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(sql)
    told = witness.row_differences(before, witness.rows(database))
    assert any(line.startswith(table) for line in told), told
